"""A policy and a value for each observation. Shape suffixes: B batch, A outputs of the policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from torch import Tensor, nn

from rlzoo.core.types import UsageError
from rlzoo.nets.distributions import Categorical, DiagonalGaussian
from rlzoo.nets.mlp import MLP, NetworkConfig, vector_encoder

if TYPE_CHECKING:
    from rlzoo.nets.gsde import StateDependentGaussian
    from rlzoo.nets.multi_categorical import MultiCategorical

    Distribution = Categorical | MultiCategorical | DiagonalGaussian | StateDependentGaussian

MakeEncoder = Callable[[spaces.Space], Any]


def make_distribution(
    action_space: Any,
    *,
    log_std_init: float = 0.0,
    gsde_features: int | None = None,  # of the policy's last layer, for one that depends on them
    gsde_hold_steps: int = 1,
) -> Distribution:
    """The distribution over a space's actions; UsageError for integer Boxes, Dicts and so on."""
    if isinstance(action_space, spaces.Box) and np.issubdtype(action_space.dtype, np.floating):
        if gsde_features is None:
            return DiagonalGaussian(action_space, log_std_init)
        from rlzoo.nets.gsde import StateDependentGaussian

        return StateDependentGaussian(action_space, gsde_features, log_std_init, gsde_hold_steps)
    if gsde_features is not None:
        raise UsageError(f"gsde: got actions {action_space}, expected a Box of floats")
    if isinstance(action_space, spaces.Discrete):
        return Categorical(action_space)
    if isinstance(action_space, spaces.MultiDiscrete | spaces.MultiBinary):
        from rlzoo.nets.multi_categorical import MultiCategorical

        return MultiCategorical(action_space)
    expected = "Discrete, MultiDiscrete, MultiBinary, or Box of floats"
    raise UsageError(f"got actions {action_space}, expected {expected}")


class ActorCritic(nn.Module):
    """Raw or normalised observations [B, ...] to the policy's outputs [B, A] and values [B].

    Policy and value share the encoder (which has parameters for images only) and nothing else.
    `orthogonal` draws orthogonal weights of gain sqrt(2), 0.01 for the policy's last layer and 1
    for the value's, with zero biases (Huang et al. 2022, detail 2); else PyTorch's default.
    """

    def __init__(
        self,
        obs_space: spaces.Space,
        distribution: Distribution,
        config: NetworkConfig,
        *,
        make_encoder: MakeEncoder = vector_encoder,
        orthogonal: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(obs_space)
        hidden = (self.encoder.num_features, *config.hidden)
        sizes = (*hidden, distribution.num_outputs)
        self.policy = distribution.make_network(sizes, config.activation)
        self.value = MLP((*hidden, 1), config.activation)
        self.distribution = distribution
        if orthogonal:
            self._draw_orthogonal()

    def _draw_orthogonal(self) -> None:
        layers = [module for module in self.policy.modules() if isinstance(module, nn.Linear)]
        gains = {layers[-1]: 0.01, self.value[-1]: 1.0}
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.orthogonal_(module.weight, gains.get(module, math.sqrt(2)))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, obs_B: Tensor) -> tuple[Tensor, Tensor]:
        features_BF = self.encoder(obs_B)
        return self.policy(features_BF), self.value(features_BF).squeeze(1)
