"""C, the controller: a linear policy on what V sees and M remembers (Ha & Schmidhuber 2018, 2.4).

All members of a population act at once, each with a parameter vector of its own. Shape suffixes: R
rows, F features, A actions, N parameters.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlzoo.core.types import UsageError

Layer = tuple[Tensor, Tensor]  # weight [R, inputs, outputs], bias [R, 1, outputs]


class Controller:
    """A function from features to actions; its parameters come with each call.

    It is linear, or has one layer of `hidden` tanh units. Outputs are a tanh: scaled to the range
    of the action, or, in the dimensions `clipped`, clipped to it, so that 0 stays 0 (CarRacing's
    brake).
    """

    def __init__(
        self,
        num_features: int,
        action_space: spaces.Box,
        *,
        hidden: int = 0,
        bias: bool = True,
        clipped: Sequence[int] = (),
    ) -> None:
        check_actions(action_space)
        [self.action_size] = action_space.shape
        self._has_bias = bias
        self._low_A = low_A = torch.from_numpy(action_space.low)
        self._high_A = high_A = torch.from_numpy(action_space.high)
        is_clipped_A = torch.tensor([i in clipped for i in range(self.action_size)])
        self._scale_A = torch.where(is_clipped_A, 1.0, (high_A - low_A) / 2)
        self._offset_A = torch.where(is_clipped_A, 0.0, (high_A + low_A) / 2)
        sizes = [num_features, *([hidden] if hidden else []), self.action_size]
        self._shapes = list(itertools.pairwise(sizes))

    @property
    def num_params(self) -> int:
        return sum((inputs + self._has_bias) * outputs for inputs, outputs in self._shapes)

    def layers(self, params_RN: Tensor) -> list[Layer]:
        """The layers of R controllers, as views of their parameters."""
        assert params_RN.shape[1:] == (self.num_params,), params_RN.shape
        layers, rest = [], params_RN
        for inputs, outputs in self._shapes:
            weight, rest = rest.tensor_split([inputs * outputs], dim=1)
            bias, rest = rest.tensor_split([outputs if self._has_bias else 0], dim=1)
            layers.append((weight.unflatten(1, (inputs, outputs)), bias.unsqueeze(1)))
        return layers

    def outputs(self, layers: list[Layer], features_RF: Tensor) -> Tensor:
        """What the last tanh is of [R, A]: each row's features under its own controller, or all
        under one.
        """
        x, last = features_RF.unsqueeze(1), len(layers) - 1
        for index, (weight, bias) in enumerate(layers):
            x = torch.matmul(x, weight)
            x = x + bias if self._has_bias else x
            x = x if index == last else x.tanh()
        return x.squeeze(1)

    def __call__(self, layers: list[Layer], features_RF: Tensor) -> Tensor:
        """Actions [R, A]."""
        action_RA = self._offset_A + self._scale_A * self.outputs(layers, features_RF).tanh()
        return action_RA.clamp(self._low_A, self._high_A)


def check_actions(space: Any) -> None:
    """UsageError for actions that C cannot make."""
    is_vector = isinstance(space, spaces.Box) and len(space.shape) == 1
    if not is_vector or space.dtype != np.float32 or not space.is_bounded():
        raise UsageError(f"got actions {space}, expected a bounded Box of float32 [A]")
