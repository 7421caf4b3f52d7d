"""Vectors and discrete observations through fully connected layers (`network=mlp`).

An encoder is built from an observation space, has `num_features`, and maps [B, ...] to [B, F].
Plug-ins register more of them as the kind `network`. Shape suffixes: B batch, F features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlzoo.core.settings import setting
from rlzoo.core.types import UsageError

Activation = Literal["relu", "tanh"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


@dataclass(frozen=True)
class NetworkConfig:
    name: str = setting(
        "mlp", "mlp for vectors and discrete states, nature_cnn for stacks of frames"
    )
    hidden: tuple[int, ...] = setting(
        (256, 256), "units of each hidden layer, after any convolutions", low=1, high=100_000
    )
    activation: Literal["relu", "tanh"] = setting("relu", "after each hidden layer")


class MLP(nn.Sequential):
    """Linear layers between the given sizes, with an activation between them.

    The weights are drawn by PyTorch's default: uniform in +-1/sqrt(inputs).
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: Activation = "relu",
        *,
        activate_last: bool = False,
    ) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
        super().__init__(*(layers if activate_last else layers[:-1]))


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


def vector_encoder(obs_space: spaces.Space) -> Flatten | OneHot:
    """The encoder of a Box or discrete space; UsageError for any other."""
    if isinstance(obs_space, spaces.Box):
        is_image = obs_space.dtype == np.uint8
        scale = 1 / float(np.max(obs_space.high)) if is_image else 1.0
        return Flatten(math.prod(obs_space.shape), scale)
    if isinstance(obs_space, spaces.MultiBinary):
        return Flatten(math.prod(obs_space.shape))
    if isinstance(obs_space, spaces.Discrete | spaces.MultiDiscrete):
        return OneHot(obs_space)
    raise UsageError(
        f"network=mlp: got observations {obs_space}, "
        "expected Box, Discrete, MultiDiscrete or MultiBinary"
    )
