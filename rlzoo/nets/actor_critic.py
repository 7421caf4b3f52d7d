"""A policy and a value for each observation, and what is known of the two kinds of actions.

Shape suffixes: B batch, A outputs of the policy (choices, or dimensions of an action), F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlzoo.core.types import UsageError
from rlzoo.nets.mlp import MLP, NetworkConfig, OutputsAndFeatures, vector_encoder

MakeEncoder = Callable[[spaces.Space], Any]
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
GSDE_EPS = 1e-6  # added to variances, as in Stable-Baselines3


class Categorical(nn.Module):
    """One of A actions; the policy's outputs are logits. Actions are kept as indices from 0."""

    needs_features = False

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

    def mode(self, logit_BA: np.ndarray) -> np.ndarray:
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

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        self.space = space
        self.num_outputs = math.prod(space.shape)

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

    needs_features = False

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


class StateDependentGaussian(Gaussian):
    """gSDE (Raffin et al. 2022): noise is a linear function of the policy's last features.

    The function, a matrix [F, A] for each env, is drawn anew every `hold_steps` steps of the env,
    so exploration is smooth in between. The policy's outputs are means and features [B, A + F]. A
    single action is normal with a variance that follows from the features and `log_std_FA`.
    """

    needs_features = True

    def __init__(
        self, space: spaces.Box, num_features: int, log_std_init: float = 0.0, hold_steps: int = 1
    ) -> None:
        super().__init__(space)
        self.hold_steps = hold_steps
        self.log_std_FA = nn.Parameter(torch.full((num_features, self.num_outputs), log_std_init))

    def draw(self, rng: np.random.Generator, steps: int, num_envs: int) -> Iterable[np.ndarray]:
        """For each of some steps a matrix for each env, [B, F, A]; `hold_steps` share one."""
        draws = -(-steps // self.hold_steps)
        size = (draws, num_envs, *self.log_std_FA.shape)
        drawn = rng.standard_normal(size, dtype=np.float32)
        return (drawn[t // self.hold_steps] for t in range(steps))

    def sample(self, output_BX: np.ndarray, noise_BFA: np.ndarray) -> np.ndarray:
        features_B1F = output_BX[:, None, self.num_outputs :]
        noise_B1A = features_B1F @ (noise_BFA * self._std_FA())
        return output_BX[:, : self.num_outputs] + noise_B1A[:, 0]

    def mode(self, output_BX: np.ndarray) -> np.ndarray:
        return output_BX[:, : self.num_outputs]

    def std(self, output_BX: np.ndarray) -> np.ndarray:
        """Standard deviations [B, A] of the actions."""
        return np.sqrt(output_BX[:, self.num_outputs :] ** 2 @ self._std_FA() ** 2)

    def _std_FA(self) -> np.ndarray:
        return np.exp(self.log_std_FA.detach().cpu().numpy())

    def log_prob_and_entropy(self, output_BX: Tensor, action_BA: Tensor) -> tuple[Tensor, Tensor]:
        """log pi(a|s) [B], summed over the dimensions of the action, and the mean entropy."""
        mean_BA, variance_BA = self._mean_and_variance(output_BX)
        assert action_BA.shape == mean_BA.shape, (action_BA.shape, mean_BA.shape)
        log_std_BA = 0.5 * variance_BA.log()
        log_prob_BA = -0.5 * (action_BA - mean_BA).square() / variance_BA - log_std_BA
        entropy_BA = log_std_BA + 0.5 + HALF_LOG_TAU
        return (log_prob_BA - HALF_LOG_TAU).sum(dim=1), entropy_BA.sum(dim=1).mean()

    def as_tensors(self, output_BX: Tensor) -> tuple[Tensor, ...]:
        """Means and log standard deviations [B, A], in tensors of their own: for `kl`."""
        mean_BA, variance_BA = self._mean_and_variance(output_BX)
        return mean_BA, 0.5 * variance_BA.log()

    def _mean_and_variance(self, output_BX: Tensor) -> tuple[Tensor, Tensor]:
        features_BF = output_BX[:, self.num_outputs :]
        variance_BA = features_BF.square() @ (2 * self.log_std_FA).exp() + GSDE_EPS
        return output_BX[:, : self.num_outputs], variance_BA


Distribution = Categorical | DiagonalGaussian | StateDependentGaussian


def make_distribution(
    action_space: Any,
    *,
    log_std_init: float = 0.0,
    gsde_features: int | None = None,
    gsde_hold_steps: int = 1,
) -> Distribution:
    """The distribution over a space's actions; UsageError for any but Discrete and float Box.

    With `gsde_features` (how many the policy's last layer gets) it is state-dependent.
    """
    if isinstance(action_space, spaces.Box) and np.issubdtype(action_space.dtype, np.floating):
        if gsde_features is None:
            return DiagonalGaussian(action_space, log_std_init)
        return StateDependentGaussian(action_space, gsde_features, log_std_init, gsde_hold_steps)
    if gsde_features is not None:
        raise UsageError(f"gsde: got actions {action_space}, expected a Box of floats")
    if isinstance(action_space, spaces.Discrete):
        return Categorical(action_space)
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
        distribution: Distribution,
        config: NetworkConfig,
        *,
        make_encoder: MakeEncoder = vector_encoder,
        orthogonal: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(obs_space)
        hidden = (self.encoder.num_features, *config.hidden)
        make_policy = OutputsAndFeatures if distribution.needs_features else MLP
        self.policy = make_policy((*hidden, distribution.num_outputs), config.activation)
        self.value = MLP((*hidden, 1), config.activation)
        self.distribution = distribution
        if orthogonal:
            self._draw_orthogonal()

    def _draw_orthogonal(self) -> None:
        last = self.policy.last if isinstance(self.policy, OutputsAndFeatures) else self.policy
        gains = {last[-1]: 0.01, self.value[-1]: 1.0}
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.orthogonal_(module.weight, gains.get(module, math.sqrt(2)))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, obs_B: Tensor) -> tuple[Tensor, Tensor]:
        features_BF = self.encoder(obs_B)
        return self.policy(features_BF), self.value(features_BF).squeeze(1)
