"""Running statistics of observations and rewards, and what is scaled by them.

Only `update` and `scaled` change statistics: acting and evaluation see them frozen.
"""

from __future__ import annotations

import numpy as np

from rlzoo.core.types import State
from rlzoo.losses.returns import discounted_returns

CLIP = 10.0  # in standard deviations, as in OpenAI Baselines
EPS = 1e-8  # added to variances


class RunningStatistics:
    """Mean and variance of everything seen so far, in float64; 0 and 1 before anything was."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean = np.zeros(shape)
        self.variance = np.ones(shape)
        self.count = 0

    def update(self, batch_B: np.ndarray) -> None:
        """Take in a batch [B, ...] (Chan et al. 1979: as if all had been seen at once)."""
        batch_B = batch_B.astype(np.float64, copy=False)
        batch = len(batch_B)
        total = self.count + batch
        difference = batch_B.mean(axis=0) - self.mean
        squares = self.variance * self.count + batch_B.var(axis=0) * batch
        squares = squares + difference**2 * (self.count * batch / total)
        self.mean = np.asarray(self.mean + difference * (batch / total))
        self.variance = np.asarray(squares / total)
        self.count = total

    def state(self) -> State:
        return {"mean": self.mean.copy(), "variance": self.variance.copy(), "count": self.count}

    def load(self, state: State) -> None:
        self.mean, self.variance = np.array(state["mean"]), np.array(state["variance"])
        self.count = state["count"]


class ObsNormalizer:
    """Observations to mean 0 and variance 1, clipped to +-10.

    The statistics stay as they are while a rollout is collected and learnt from, and take it in
    afterwards. So one policy acts in all of it, probabilities before and after an update are
    those of the same inputs, and final observations are scaled like all others.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.statistics = RunningStatistics(shape)
        self._refresh()

    def __call__(self, obs_B: np.ndarray) -> np.ndarray:
        return ((obs_B - self._mean) * self._scale).clip(-CLIP, CLIP).astype(np.float32)

    def update(self, obs_B: np.ndarray) -> None:
        self.statistics.update(obs_B)
        self._refresh()

    def fit(self, obs_B: np.ndarray) -> None:
        """Take the statistics of these observations, and forget all others."""
        self.statistics = RunningStatistics(self.statistics.mean.shape)
        self.update(obs_B)

    def _refresh(self) -> None:
        self._mean = self.statistics.mean
        self._scale = 1 / np.sqrt(self.statistics.variance + EPS)

    def state(self) -> State:
        return self.statistics.state()

    def load(self, state: State) -> None:
        self.statistics.load(state)
        self._refresh()


class RewardScaler:
    """Rewards divided by the standard deviation of discounted returns, clipped to +-10.

    The returns look back: R = gamma R + r, from 0 at the start of each episode, whatever rollout
    it lies in (Engstrom et al. 2020; the mean is left alone, since it changes what is optimal).
    """

    def __init__(self, num_envs: int, gamma: float) -> None:
        self.gamma = gamma
        self.statistics = RunningStatistics(())
        self.return_N = np.zeros(num_envs)

    def scaled(self, reward_TN: np.ndarray, ended_TN: np.ndarray) -> np.ndarray:
        """The scaled rewards of a rollout, which the statistics take in first."""
        return_TN, self.return_N = discounted_returns(
            reward_TN, ended_TN, self.return_N, gamma=self.gamma
        )
        self.statistics.update(return_TN.ravel())
        return (reward_TN / np.sqrt(self.statistics.variance + EPS)).clip(-CLIP, CLIP)

    def state(self) -> State:
        return {"statistics": self.statistics.state(), "returns": self.return_N.copy()}

    def load(self, state: State) -> None:
        self.statistics.load(state["statistics"])
        self.return_N = np.array(state["returns"])
