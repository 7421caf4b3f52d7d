"""Storage for one rollout of B envs, filled step by step and then read as a whole.

Shape suffixes: T time, N envs (in `add`: B).
"""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from rlzoo.data.collector import Transition


class Rollout:
    """What happened in T steps of N envs: arrays [T, N, ...], allocated once.

    Between two rollouts it holds nothing that a run depends on, so it has no state to save.
    """

    def __init__(
        self,
        num_steps: int,
        num_envs: int,
        obs_space: spaces.Space,
        *,
        action_shape: tuple[int, ...],
        action_dtype: type[np.generic],
    ) -> None:
        cells = (num_steps, num_envs)
        # Observations are kept as the env gave them: an image takes a byte a pixel, and statistics
        # of them can be made, and used, for the whole rollout at once.
        self.obs_TN = np.zeros((*cells, *(obs_space.shape or ())), obs_space.dtype)
        self.action_TN = np.zeros((*cells, *action_shape), action_dtype)
        self.reward_TN = np.zeros(cells)
        self.terminated_TN = np.zeros(cells, bool)
        self.truncated_TN = np.zeros(cells, bool)
        self.num_steps = num_steps
        self.clear()

    def clear(self) -> None:
        self.steps = 0
        self.truncated_at: list[tuple[int, int]] = []
        self.final_obs: list[np.ndarray] = []

    def add(self, transition: Transition, drawn_B: np.ndarray) -> None:
        """Store one step of every env. `drawn_B` is what the policy drew, before any clipping."""
        t, (obs_B, _, step) = self.steps, transition
        self.obs_TN[t] = obs_B
        self.action_TN[t] = drawn_B
        self.reward_TN[t] = step.reward_B
        self.terminated_TN[t] = step.terminated_B
        self.truncated_TN[t] = step.truncated_B
        if np.count_nonzero(step.truncated_B):
            for env in np.flatnonzero(step.truncated_B & ~step.terminated_B).tolist():
                self.truncated_at.append((t, env))
                self.final_obs.append(step.next_obs_B[env].copy())
        self.steps += 1

    def obs_to_value(self, obs_B: np.ndarray) -> np.ndarray:
        """All observations that need a value, [T * N + N + number of truncations, ...].

        Those of the rollout, what the envs show now (`obs_B`), and those that truncated episodes
        ended with: one call of the critic serves them all.
        """
        shape = self.obs_TN.shape[2:]
        parts = [self.obs_TN.reshape(-1, *shape), obs_B]
        return np.concatenate([*parts, *([self.final_obs] if self.final_obs else [])])

    def split_values(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values of `obs_to_value` as value_TN and next_value_TN (of the true next observation).

        Where an episode terminated, the next value is that of another episode: not to be used.
        """
        cells = self.reward_TN.size
        num_envs = self.reward_TN.shape[1]
        value_TN = value[: cells + num_envs].reshape(-1, num_envs)
        next_value_TN = value_TN[1:].copy()
        for cell, final_value in zip(self.truncated_at, value[cells + num_envs :], strict=True):
            next_value_TN[cell] = final_value
        return value_TN[:-1], next_value_TN

    @property
    def ended_TN(self) -> np.ndarray:
        return self.terminated_TN | self.truncated_TN
