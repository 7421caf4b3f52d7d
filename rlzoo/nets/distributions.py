"""What is known of the two kinds of actions: how they are drawn, and how likely they are.

A distribution says which network its outputs come from. Shape suffixes: B batch, A outputs of the
policy (choices, or dimensions of an action).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlzoo.nets.mlp import MLP

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class Categorical(nn.Module):
    """One of A actions; the policy's outputs are logits. Actions are kept as indices from 0."""

    make_network: ClassVar = MLP
    is_discrete: ClassVar = True
    action_shape: ClassVar[tuple[int, ...]] = ()

    def __init__(self, space: spaces.Discrete) -> None:
        super().__init__()
        self.num_outputs = int(space.n)
        self.first_action = int(space.start)

    def draw(self, rng: np.random.Generator, steps: int, num_envs: int) -> Iterable[np.ndarray]:
        """What chance contributes to each of some steps: arrays [B, A]."""
        return rng.gumbel(size=(steps, num_envs, self.num_outputs))

    def sample(self, logit_BA: np.ndarray, noise_BA: np.ndarray) -> np.ndarray:
        """Actions [B]. The largest of logits + Gumbel noise is distributed as their softmax."""
        return (logit_BA + noise_BA).argmax(axis=1)

    def mode(self, logit_BA: Any) -> Any:
        return logit_BA.argmax(axis=1)

    def to_env(self, action_B: np.ndarray) -> np.ndarray:
        return action_B + self.first_action

    def from_env(self, action_B: np.ndarray) -> np.ndarray:
        return action_B - self.first_action

    def log_prob_and_entropy(self, logit_BA: Tensor, action_B: Tensor) -> tuple[Tensor, Tensor]:
        """log pi(a|s) [B] and the mean entropy, in nats."""
        log_prob_BA = logit_BA.log_softmax(dim=1)
        entropy = -(log_prob_BA.exp() * log_prob_BA).sum(dim=1).mean()
        return log_prob_BA.gather(1, action_B.unsqueeze(1)).squeeze(1), entropy

    def as_tensors(self, logit_BA: Tensor) -> tuple[Tensor, ...]:
        """All that defines the distributions of a batch, in tensors of their own: for `kl`."""
        return (logit_BA.log_softmax(dim=1),)

    @staticmethod
    def kl(old: tuple[Tensor, ...], new: tuple[Tensor, ...]) -> Tensor:
        """KL(old, new) [B] of pairs of distributions (`as_tensors`), in nats."""
        [old_log_prob_BA], [log_prob_BA] = old, new
        return (old_log_prob_BA.exp() * (old_log_prob_BA - log_prob_BA)).sum(dim=1)


class Gaussian(nn.Module):
    """What normal distributions over a Box have in common: how their actions reach the env.

    Actions [B, A] are unbounded and flat; `to_env` clips them to the space (so that densities stay
    those of a normal distribution) and gives them its shape.
    """

    is_discrete: ClassVar = False

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        self.space = space
        self.num_outputs = math.prod(space.shape)
        self.action_shape = (self.num_outputs,)

    def to_env(self, action_BA: np.ndarray) -> np.ndarray:
        action_B = action_BA.reshape(-1, *self.space.shape)
        return action_B.clip(self.space.low, self.space.high).astype(self.space.dtype, copy=False)

    @staticmethod
    def kl(old: tuple[Tensor, ...], new: tuple[Tensor, ...]) -> Tensor:
        """KL(old, new) [B] of pairs of distributions (`as_tensors`), in nats."""
        (old_mean_BA, old_log_std_BA), (mean_BA, log_std_BA) = old, new
        widening_BA = log_std_BA - old_log_std_BA
        shift_BA = (mean_BA - old_mean_BA) * (-log_std_BA).exp()
        narrowness_BA = (-2 * widening_BA).exp() + shift_BA.square()
        return (widening_BA + 0.5 * (narrowness_BA - 1)).sum(dim=1)

    def from_env(self, action_B: np.ndarray) -> np.ndarray:
        return action_B.reshape(-1, self.num_outputs).astype(np.float32, copy=False)


class DiagonalGaussian(Gaussian):
    """A normal distribution for each dimension, with a width that does not depend on the state.

    The policy's outputs are the means.
    """

    make_network: ClassVar = MLP

    def __init__(self, space: spaces.Box, log_std_init: float = 0.0) -> None:
        super().__init__(space)
        self.log_std_A = nn.Parameter(torch.full((self.num_outputs,), log_std_init))

    def draw(self, rng: np.random.Generator, steps: int, num_envs: int) -> Iterable[np.ndarray]:
        """What chance contributes to each of some steps: arrays [B, A]."""
        return rng.standard_normal((steps, num_envs, self.num_outputs), dtype=np.float32)

    def sample(self, mean_BA: np.ndarray, noise_BA: np.ndarray) -> np.ndarray:
        return mean_BA + self.std(mean_BA) * noise_BA

    def mode(self, mean_BA: np.ndarray) -> np.ndarray:
        return mean_BA

    def std(self, mean_BA: np.ndarray) -> np.ndarray:
        """Standard deviations [A] of the actions."""
        return np.exp(self.log_std_A.detach().cpu().numpy())

    def log_prob_and_entropy(self, mean_BA: Tensor, action_BA: Tensor) -> tuple[Tensor, Tensor]:
        """log pi(a|s) [B], summed over the dimensions of the action, and the entropy, in nats."""
        assert action_BA.shape == mean_BA.shape, (action_BA.shape, mean_BA.shape)
        deviation_BA = (action_BA - mean_BA) * (-self.log_std_A).exp()
        log_prob_BA = -0.5 * deviation_BA.square() - self.log_std_A - HALF_LOG_TAU
        return log_prob_BA.sum(dim=1), (self.log_std_A + 0.5 + HALF_LOG_TAU).sum()

    def as_tensors(self, mean_BA: Tensor) -> tuple[Tensor, ...]:
        """Means and log standard deviations [B, A], in tensors of their own: for `kl`."""
        return mean_BA, self.log_std_A.expand_as(mean_BA).clone()
