"""A policy without a value: what `ActorCritic` acts with, by the same names.

Shape suffixes: B batch, A outputs of the policy (choices, or dimensions of an action).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gymnasium import spaces
from torch import Tensor, nn

from rlzoo.nets.actor_critic import MakeEncoder
from rlzoo.nets.mlp import MLP, NetworkConfig, vector_encoder

if TYPE_CHECKING:
    from rlzoo.nets.actor_critic import Distribution


class Policy(nn.Module):
    """Raw or normalised observations [B, ...] to logits or mean actions [B, A].

    Its parameters (`encoder.*`, `policy.*`, `distribution.*`) are the first part of an
    `ActorCritic`'s for the same spaces and settings. The weights are drawn by PyTorch's default.
    """

    def __init__(
        self,
        obs_space: spaces.Space,
        distribution: Distribution,
        config: NetworkConfig,
        *,
        make_encoder: MakeEncoder = vector_encoder,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(obs_space)
        sizes = (self.encoder.num_features, *config.hidden, distribution.num_outputs)
        self.policy = MLP(sizes, config.activation)
        self.distribution = distribution

    def forward(self, obs_B: Tensor) -> Tensor:
        return self.policy(self.encoder(obs_B))
