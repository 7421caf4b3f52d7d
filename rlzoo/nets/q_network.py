"""Q-networks: an encoder of the observations, and fully connected layers to the action values.

Shape suffixes: B batch, A actions, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor, nn

from rlzoo.nets.acting import Forward, numpy_forward
from rlzoo.nets.encoders import vector_encoder
from rlzoo.nets.mlp import MLP, NetworkConfig

MakeEncoder = Callable[[spaces.Space], Any]


class QNetwork(nn.Module):
    """Raw observations [B, ...] to action values [B, A].

    `dueling` splits the last hidden layer into a value and an advantage stream, combined as
    V + A - mean(A) (Wang et al. 2016, eq. 9). `make_encoder` is what the registry has under
    `config.name`; it raises UsageError for a space that it cannot read.
    """

    def __init__(
        self,
        obs_space: spaces.Space,
        num_actions: int,
        config: NetworkConfig,
        *,
        make_encoder: MakeEncoder = vector_encoder,
        dueling: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(obs_space)
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

    def numpy_forward(self) -> Forward:
        """The same from numpy observations to numpy values, fast for small B (`nets/acting.py`)."""
        if not self.dueling:
            return numpy_forward(self.encoder, self.head)
        trunk = numpy_forward(self.encoder, self.trunk)
        value, advantage = numpy_forward(self.value), numpy_forward(self.advantage)
        mean_A1 = np.full((self.num_actions, 1), 1 / self.num_actions, np.float32)

        def forward(obs_B: np.ndarray) -> np.ndarray:
            hidden_BF = trunk(obs_B)
            advantage_BA = advantage(hidden_BF)
            return value(hidden_BF) + advantage_BA - advantage_BA @ mean_A1

        return forward
