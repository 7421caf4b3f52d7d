"""What tells an expert's transitions from an agent's.

Shape suffixes: B transitions, F features of a pair, X features of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from rlzoo.algos.gail.transitions import Features, Transitions
from rlzoo.core.settings import setting
from rlzoo.nets.mlp import MLP, Activation


@dataclass(frozen=True)
class DiscriminatorConfig:
    hidden: tuple[int, ...] = setting(
        (100, 100), "units of each hidden layer (ibid.)", low=1, fixed=True
    )
    activation: Literal["relu", "tanh"] = setting(
        "tanh", "after each hidden layer (ibid.)", fixed=True
    )
    lr: float = setting(3e-4, "Adam's learning rate (OpenAI Baselines)", above=0)
    batch_size: int = setting(256, "pairs of each kind in a minibatch", low=1)
    updates: int = setting(8, "minibatches for each rollout", low=1)
    entropy_coef: float = setting(
        1e-3, "weight of the entropy of its decisions, to be undecided (OpenAI Baselines)", low=0
    )
    gradient_penalty: float = setting(
        0.0, "weight of (|d logit / d input| - 1)^2 between expert and agent (DAC: 10)", low=0
    )
    spectral_norm: bool = setting(
        False, "hold each layer's largest singular value at 1 (Miyato et al. 2018)", fixed=True
    )
    weight_decay: float = setting(0.0, "weight of half the squared parameters", low=0)
    normalize: bool = setting(
        True, "standardise observations, with statistics that begin with the expert's", fixed=True
    )
    replay_rollouts: int = setting(
        1, "the agent's pairs are drawn from so many of its newest rollouts", low=1, fixed=True
    )


class Discriminator(Protocol):
    features: Features
    network: nn.Module

    def rows(self, transitions: Transitions) -> Tensor:
        """Transitions as the network gets them: float32 [B, X]."""

    def score(self, row_BX: Tensor) -> Tensor:
        """What the network says [B]; the gradient penalty is on this."""

    def logit(self, row_BX: Tensor) -> Tensor:
        """The logit of D [B], high for the expert."""


class PairDiscriminator:
    """The logit of D is a network's output for observation and action."""

    def __init__(self, config: DiscriminatorConfig, env: Any, generator: Any) -> None:
        self.features = Features(env.observation_space, env.action_space, config.normalize)
        self.network = logit_network(
            self.features.num_pair, config.hidden, config.activation, spectral=config.spectral_norm
        )

    def rows(self, transitions: Transitions) -> Tensor:
        """Transitions as the network gets them: float32 [B, X]."""
        obs_B, action_B, *_ = transitions
        return torch.from_numpy(self.features.pair_rows(obs_B, action_B))

    def score(self, row_BX: Tensor) -> Tensor:
        """What the network says [B]; the gradient penalty is on this."""
        return self.network(row_BX).squeeze(1)

    def logit(self, row_BX: Tensor) -> Tensor:
        """The logit of D [B], high for the expert."""
        return self.score(row_BX)


def logit_network(
    num_features: int, hidden: Sequence[int], activation: Activation, *, spectral: bool = False
) -> MLP:
    """An MLP from features [B, F] to one number each, [B, 1].

    At first that is 0 whatever the features, so that a discriminator begins with no opinion. With
    `spectral` it is not: each layer's largest singular value is held at 1 (Miyato et al. 2018),
    by a step of power iteration whenever the module is run in training mode.
    """
    mlp = MLP((num_features, *hidden, 1), activation)
    if spectral:
        for layer in mlp:
            if isinstance(layer, nn.Linear):
                spectral_norm(layer)
    else:
        last = mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return mlp
