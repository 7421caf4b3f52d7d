"""The convolutional torso of the 2015 DQN paper."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

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
