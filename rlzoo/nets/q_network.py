"""Q-networks for any observation space that they can read.

Shape suffixes: B batch, A actions, F features.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlzoo.nets.cnn import SMALLEST_IMAGE, NatureCNN
from rlzoo.nets.mlp import MLP, NetworkConfig
from rlzoo.types import UsageError


class Flatten(nn.Module):
    """Arrays [B, ...] of any number type to float32 [B, F], times a scale."""

    def __init__(self, num_features: int, scale: float = 1.0) -> None:
        super().__init__()
        self.num_features = num_features
        self.scale = scale

    def forward(self, obs_B: Tensor) -> Tensor:
        return obs_B.reshape(-1, self.num_features).float() * self.scale


class OneHot(nn.Module):
    """Discrete [B] or MultiDiscrete [B, M] observations to concatenated one-hot codes [B, F]."""

    offset_M: Tensor

    def __init__(self, space: spaces.Discrete | spaces.MultiDiscrete) -> None:
        super().__init__()
        if isinstance(space, spaces.Discrete):
            size_M, start_M = np.array([space.n]), np.array([space.start])
        else:
            size_M, start_M = space.nvec.ravel(), np.ravel(space.start)
        self.num_features = int(size_M.sum())
        # What turns the value of each component into its place in the code.
        offset_M = torch.from_numpy(np.cumsum(size_M) - size_M - start_M)
        self.register_buffer("offset_M", offset_M.long(), persistent=False)

    def forward(self, obs_B: Tensor) -> Tensor:
        place_BM = obs_B.reshape(-1, len(self.offset_M)).long() + self.offset_M
        code_BF = torch.zeros(len(place_BM), self.num_features, device=obs_B.device)
        return code_BF.scatter(1, place_BM, 1.0)


def make_encoder(obs_space: spaces.Space, network: str) -> NatureCNN | Flatten | OneHot:
    """What turns raw observations into features; UsageError if the network cannot read them."""
    if network == "nature_cnn":
        shape = obs_space.shape or ()
        is_image = len(shape) == 3 and min(shape[1:]) >= SMALLEST_IMAGE
        if not (isinstance(obs_space, spaces.Box) and is_image and obs_space.dtype == np.uint8):
            raise UsageError(
                f"network=nature_cnn: got observations {obs_space}, expected uint8 frames "
                "[k, height, width] such as [4, 84, 84]. Did you mean network=mlp?"
            )
        return NatureCNN(shape, float(np.max(obs_space.high)))
    if isinstance(obs_space, spaces.Box):
        is_image = obs_space.dtype == np.uint8
        scale = 1 / float(np.max(obs_space.high)) if is_image else 1.0
        return Flatten(math.prod(obs_space.shape), scale)
    if isinstance(obs_space, spaces.MultiBinary):
        return Flatten(math.prod(obs_space.shape))
    if isinstance(obs_space, spaces.Discrete | spaces.MultiDiscrete):
        return OneHot(obs_space)
    raise UsageError(
        f"network={network}: got observations {obs_space}, "
        "expected Box, Discrete, MultiDiscrete or MultiBinary"
    )


class QNetwork(nn.Module):
    """Raw observations [B, ...] to action values [B, A].

    `dueling` splits the last hidden layer into a value and an advantage stream, combined as
    V + A - mean(A) (Wang et al. 2016, eq. 9). Raises UsageError if network and space do not fit.
    """

    def __init__(
        self,
        obs_space: spaces.Space,
        num_actions: int,
        config: NetworkConfig,
        *,
        dueling: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(obs_space, config.name)
        self.num_actions = num_actions
        self.dueling = dueling
        num_features = self.encoder.num_features
        if not dueling:
            self.head = MLP((num_features, *config.hidden, num_actions), config.activation)
            return
        trunk = (num_features, *config.hidden[:-1])
        stream = (trunk[-1], *config.hidden[-1:])
        self.trunk = MLP(trunk, config.activation, activate_last=True)
        self.value = MLP((*stream, 1), config.activation)
        self.advantage = MLP((*stream, num_actions), config.activation)

    def forward(self, obs_B: Tensor) -> Tensor:
        features_BF = self.encoder(obs_B)
        if not self.dueling:
            return self.head(features_BF)
        hidden_BF = self.trunk(features_BF)
        advantage_BA = self.advantage(hidden_BF)
        return self.value(hidden_BF) + advantage_BA - advantage_BA.mean(dim=1, keepdim=True)
