"""The convolutional torso of the 2015 DQN paper."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces
from torch import Tensor, nn

from rlzoo.core.types import UsageError

# Output channels, kernel size and stride of each layer (Mnih et al. 2015, Methods).
LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
SMALLEST_IMAGE = 36  # pixels: what leaves one position after the last layer


class NatureCNN(nn.Module):
    """Frames [B, k, H, W] of 0 to `high` (uint8) to [B, num_features]; 84x84 gives 3136."""

    def __init__(self, shape: Sequence[int], high: float = 255.0) -> None:
        super().__init__()
        self.scale = 1 / high
        layers: list[nn.Module] = []
        channels, height, width = shape
        for out_channels, kernel, stride in LAYERS:
            layers += [nn.Conv2d(channels, out_channels, kernel, stride), nn.ReLU()]
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
            channels = out_channels
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.num_features = channels * height * width

    def forward(self, obs_B: Tensor) -> Tensor:
        return self.layers(obs_B.float() * self.scale)


def image_encoder(obs_space: spaces.Space) -> NatureCNN:
    """The CNN for a space of uint8 frames [k, height, width]; UsageError for any other."""
    shape = obs_space.shape or ()
    is_image = len(shape) == 3 and min(shape[1:]) >= SMALLEST_IMAGE
    if len(shape) == 3 and shape[2] in (1, 3, 4):
        raise UsageError(
            f"network=nature_cnn: got images {list(shape)}, channels last, expected uint8 frames "
            "[k, height, width] such as [4, 84, 84]; nothing here turns one into the other"
        )
    if not (isinstance(obs_space, spaces.Box) and is_image and obs_space.dtype == np.uint8):
        raise UsageError(
            f"network=nature_cnn: got observations {obs_space}, expected uint8 frames "
            "[k, height, width] such as [4, 84, 84]. Did you mean network=mlp?"
        )
    return NatureCNN(shape, float(np.max(obs_space.high)))
