"""Multi-layer perceptrons, and the settings that choose a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from rlzoo.core.settings import setting

Activation = Literal["relu", "tanh"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


@dataclass(frozen=True)
class NetworkConfig:
    name: str = setting(
        "mlp", "mlp for vectors and discrete states, nature_cnn for stacks of frames"
    )
    hidden: tuple[int, ...] = setting(
        (256, 256), "units of each hidden layer, after the convolutions if there are any", low=1
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


class OutputsAndFeatures(nn.Module):
    """An MLP that hands out what its last layer gets beside what it gives: [B, outputs + F].

    No gradient flows back through these features.
    """

    def __init__(self, sizes: Sequence[int], activation: Activation = "relu") -> None:
        super().__init__()
        self.trunk = MLP(sizes[:-1], activation, activate_last=True)
        self.last = MLP(sizes[-2:])

    def forward(self, x_BF: Tensor) -> Tensor:
        features_BF = self.trunk(x_BF)
        return torch.cat([self.last(features_BF), features_BF.detach()], dim=1)
