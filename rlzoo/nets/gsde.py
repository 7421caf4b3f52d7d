"""Smooth exploration with continuous actions: gSDE (`algo.gsde=true`).

Shape suffixes: B batch, A dimensions of an action, F features, X means and features (A + F).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlzoo.nets.distributions import HALF_LOG_TAU, Gaussian
from rlzoo.nets.mlp import MLP, Activation

EPS = 1e-6  # added to variances, as in Stable-Baselines3


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


class StateDependentGaussian(Gaussian):
    """gSDE (Raffin et al. 2022): noise is a linear function of the policy's last features.

    The function, a matrix [F, A] for each env, is drawn anew every `hold_steps` steps of the env,
    so exploration is smooth in between. The policy's outputs are means and features [B, A + F]. A
    single action is normal with a variance that follows from the features and `log_std_FA`.
    """

    make_network: ClassVar = OutputsAndFeatures

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
        variance_BA = features_BF.square() @ (2 * self.log_std_FA).exp() + EPS
        return output_BX[:, : self.num_outputs], variance_BA
