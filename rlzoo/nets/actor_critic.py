"""A policy and a value for each observation, and what is known of the two kinds of actions.

Shape suffixes: B batch, A outputs of the policy (choices, or dimensions of an action), F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlzoo.nets.encoders import vector_encoder
from rlzoo.nets.mlp import MLP, NetworkConfig
from rlzoo.types import UsageError

MakeEncoder = Callable[[spaces.Space], Any]
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class Categorical(nn.Module):
    """One of A actions; the policy's outputs are logits. Actions are kept as indices from 0."""

    def __init__(self, space: spaces.Discrete) -> None:
        super().__init__()
        self.num_outputs = int(space.n)
        self.first_action = int(space.start)

    def draw(self, rng: np.random.Generator, *size: int) -> np.ndarray:
        """What chance contributes to `size` actions: [*size, A]."""
        return rng.gumbel(size=(*size, self.num_outputs))

    def sample(self, logit_BA: np.ndarray, noise_BA: np.ndarray) -> np.ndarray:
        """Actions [B]. The largest of logits + Gumbel noise is distributed as their softmax."""
        return (logit_BA + noise_BA).argmax(axis=1)

    def mode(self, logit_BA: np.ndarray) -> np.ndarray:
        return logit_BA.argmax(axis=1)

    def to_env(self, action_B: np.ndarray) -> np.ndarray:
        return action_B + self.first_action

    def log_prob_and_entropy(self, logit_BA: Tensor, action_B: Tensor) -> tuple[Tensor, Tensor]:
        """log pi(a|s) [B] and the mean entropy, in nats."""
        log_prob_BA = logit_BA.log_softmax(dim=1)
        entropy = -(log_prob_BA.exp() * log_prob_BA).sum(dim=1).mean()
        return log_prob_BA.gather(1, action_B.unsqueeze(1)).squeeze(1), entropy


class DiagonalGaussian(nn.Module):
    """A normal distribution for each dimension, with a width that does not depend on the state.

    The policy's outputs are the means. Actions [B, A] are unbounded and flat; `to_env` clips them
    to the space (so that densities stay those of a normal distribution) and gives them its shape.
    """

    def __init__(self, space: spaces.Box, log_std_init: float = 0.0) -> None:
        super().__init__()
        self.space = space
        self.num_outputs = math.prod(space.shape)
        self.log_std_A = nn.Parameter(torch.full((self.num_outputs,), log_std_init))

    def draw(self, rng: np.random.Generator, *size: int) -> np.ndarray:
        """What chance contributes to `size` actions: [*size, A]."""
        return rng.standard_normal((*size, self.num_outputs), dtype=np.float32)

    def sample(self, mean_BA: np.ndarray, noise_BA: np.ndarray) -> np.ndarray:
        return mean_BA + self.std_A() * noise_BA

    def mode(self, mean_BA: np.ndarray) -> np.ndarray:
        return mean_BA

    def to_env(self, action_BA: np.ndarray) -> np.ndarray:
        action_B = action_BA.reshape(-1, *self.space.shape)
        return action_B.clip(self.space.low, self.space.high).astype(self.space.dtype, copy=False)

    def std_A(self) -> np.ndarray:
        return np.exp(self.log_std_A.detach().cpu().numpy())

    def log_prob_and_entropy(self, mean_BA: Tensor, action_BA: Tensor) -> tuple[Tensor, Tensor]:
        """log pi(a|s) [B], summed over the dimensions of the action, and the entropy, in nats."""
        assert action_BA.shape == mean_BA.shape, (action_BA.shape, mean_BA.shape)
        deviation_BA = (action_BA - mean_BA) * (-self.log_std_A).exp()
        log_prob_BA = -0.5 * deviation_BA.square() - self.log_std_A - HALF_LOG_TAU
        return log_prob_BA.sum(dim=1), (self.log_std_A + 0.5 + HALF_LOG_TAU).sum()


def make_distribution(
    action_space: Any, *, log_std_init: float = 0.0
) -> Categorical | DiagonalGaussian:
    """The distribution over a space's actions; UsageError for any but Discrete and float Box."""
    if isinstance(action_space, spaces.Discrete):
        return Categorical(action_space)
    if isinstance(action_space, spaces.Box) and np.issubdtype(action_space.dtype, np.floating):
        return DiagonalGaussian(action_space, log_std_init)
    raise UsageError(f"got actions {action_space}, expected Discrete, or Box of floats")


class ActorCritic(nn.Module):
    """Raw or normalised observations [B, ...] to the policy's outputs [B, A] and values [B].

    Policy and value share the encoder (which has parameters for images only) and nothing else.
    `orthogonal` draws orthogonal weights of gain sqrt(2), 0.01 for the policy's last layer and 1
    for the value's, with zero biases (Huang et al. 2022, detail 2); else PyTorch's default.
    """

    def __init__(
        self,
        obs_space: spaces.Space,
        distribution: Categorical | DiagonalGaussian,
        config: NetworkConfig,
        *,
        make_encoder: MakeEncoder = vector_encoder,
        orthogonal: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(obs_space)
        hidden = (self.encoder.num_features, *config.hidden)
        self.policy = MLP((*hidden, distribution.num_outputs), config.activation)
        self.value = MLP((*hidden, 1), config.activation)
        self.distribution = distribution
        if orthogonal:
            self._draw_orthogonal()

    def _draw_orthogonal(self) -> None:
        gains = {self.policy[-1]: 0.01, self.value[-1]: 1.0}
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.orthogonal_(module.weight, gains.get(module, math.sqrt(2)))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, obs_B: Tensor) -> tuple[Tensor, Tensor]:
        features_BF = self.encoder(obs_B)
        return self.policy(features_BF), self.value(features_BF).squeeze(1)
