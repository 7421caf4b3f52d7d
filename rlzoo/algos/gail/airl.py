"""AIRL (Fu et al. 2018, "Learning robust rewards with adversarial inverse reinforcement learning").

GAIL with a discriminator that holds a reward: its logit is f(s, a, s') - log pi(a|s), where
f = g(s, a) + gamma h(s') - h(s). At the optimum g is the expert's reward up to a constant, and h
shapes it as a value function would (equation 4 and section 6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rlzoo.algos.gail.discriminator import DiscriminatorConfig, logit_network
from rlzoo.algos.gail.gail import GAIL, GAILConfig
from rlzoo.algos.gail.transitions import Features, Transitions
from rlzoo.algos.on_policy import OnPolicy
from rlzoo.core.settings import setting


@dataclass(frozen=True)
class AIRLConfig(GAILConfig):
    name: str = "airl"
    reward: Literal["gail", "log_d", "airl", "fairl"] = setting(
        "airl", "of D's logit h: -log(1 - D) >= 0, log D <= 0, h (the paper's), or -h exp(h)"
    )
    absorbing: bool = setting(
        False, "as in gail; the paper's reward has both signs and does without", fixed=True
    )


class ShapedDiscriminator:
    """The logit of D is a shaped reward less the log-probability of the action.

    A row has the features of the pair, of the state and of the next one, and log pi(a|s). A
    terminal state, which is flagged, has the potential 0, so that shaping changes no optimal
    policy.
    """

    def __init__(self, config: DiscriminatorConfig, env: Any, generator: OnPolicy) -> None:
        self.features = Features(env.observation_space, env.action_space, config.normalize)
        self.generator = generator
        state = self.features.num_obs + 1
        self.sizes = (self.features.num_pair, state, state, 1)
        networks = {
            name: logit_network(
                size, config.hidden, config.activation, spectral=config.spectral_norm
            )
            for name, size in (("reward", self.features.num_pair), ("potential", state))
        }
        self.network = nn.ModuleDict(networks)

    def rows(self, transitions: Transitions) -> Tensor:
        """Transitions as the networks get them: float32 [B, X]."""
        obs_B, action_B, next_obs_B, terminated_B = transitions
        parts = (
            self.features.pair_rows(obs_B, action_B),
            self.features.obs_rows(obs_B),
            self.features.obs_rows(next_obs_B, terminated_B),
            self.generator.log_prob(obs_B, action_B)[:, None],
        )
        return torch.from_numpy(np.concatenate(parts, axis=1))

    def score(self, row_BX: Tensor) -> Tensor:
        """f(s, a, s') [B]; the gradient penalty is on this."""
        pair_BF, state_BF, next_state_BF, _ = row_BX.split(self.sizes, dim=1)
        reward_B = self.network["reward"](pair_BF).squeeze(1)
        gain_B = self.generator.config.gamma * self._potential(next_state_BF)
        return reward_B + gain_B - self._potential(state_BF)

    def logit(self, row_BX: Tensor) -> Tensor:
        """The logit of D [B], high for the expert."""
        return self.score(row_BX) - row_BX[:, -1]

    def _potential(self, state_BF: Tensor) -> Tensor:
        return self.network["potential"](state_BF).squeeze(1) * (1 - state_BF[:, -1])


class AIRL(GAIL):
    make_discriminator = ShapedDiscriminator
