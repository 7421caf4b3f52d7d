"""Transitions of an expert or an agent, as a discriminator sees them.

Shape suffixes: B transitions, F features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from rlzoo.core.types import State
from rlzoo.data.normalize import CLIP, EPS, RunningStatistics
from rlzoo.data.rollouts import Rollout
from rlzoo.demonstrations.trajectories import Demonstrations
from rlzoo.nets.mlp import vector_encoder


class Transitions(NamedTuple):
    obs_B: np.ndarray  # raw
    action_B: np.ndarray  # as the env gets it
    next_obs_B: np.ndarray  # raw; anything where the next state is terminal
    terminated_B: np.ndarray  # bool: the next state is terminal


def of_demonstrations(demonstrations: Demonstrations, steps: np.ndarray) -> Transitions:
    """The given steps of an expert.

    Where a trajectory's last observation is not known, its last step is left out unless it
    terminated.
    """
    last = demonstrations.start[1:] - 1
    obs = demonstrations.obs
    terminated = np.zeros(len(obs), bool)
    terminated[last] = demonstrations.terminated
    final_obs = demonstrations.final_obs
    if final_obs is None:
        cut_off = last[~demonstrations.terminated]
        steps = np.setdiff1d(steps, cut_off)
    next_obs = obs[np.minimum(steps + 1, len(obs) - 1)]
    if final_obs is not None:
        is_last = np.isin(steps, last)
        next_obs[is_last] = final_obs[np.searchsorted(last, steps[is_last])]
    return Transitions(obs[steps], demonstrations.action[steps], next_obs, terminated[steps])


def of_rollout(rollout: Rollout, obs_N: np.ndarray, env_action: np.ndarray) -> Transitions:
    """All steps of a rollout; `obs_N` is what its envs show now, `env_action` [T * N, ...]."""
    next_obs_TN = np.concatenate([rollout.obs_TN[1:], obs_N[None]])
    for cell, final_obs in zip(rollout.truncated_at, rollout.final_obs, strict=True):
        next_obs_TN[cell] = final_obs
    cells = rollout.reward_TN.size
    shape = rollout.obs_TN.shape[2:]
    return Transitions(
        rollout.obs_TN.reshape(cells, *shape),
        env_action,
        next_obs_TN.reshape(cells, *shape),
        rollout.terminated_TN.reshape(cells),
    )


class Features:
    """Observations and actions as float32 rows, standardised and clipped to +-10.

    The statistics are those of all observations it was given to `update`; one-hot codes of discrete
    spaces are left as they are, and everything without `normalize`.
    """

    def __init__(
        self, obs_space: spaces.Space, action_space: spaces.Space, normalize: bool = True
    ) -> None:
        self.encode_obs, self.encode_action = (
            vector_encoder(obs_space),
            vector_encoder(action_space),
        )
        self.num_obs = self.encode_obs.num_features
        self.num_pair = self.num_obs + self.encode_action.num_features + 1
        is_box = isinstance(obs_space, spaces.Box) and obs_space.dtype != np.uint8
        self.statistics = RunningStatistics((self.num_obs,)) if is_box and normalize else None

    def update(self, obs_B: np.ndarray) -> None:
        if self.statistics is not None:
            self.statistics.update(obs_B.reshape(len(obs_B), -1))

    def obs_rows(self, obs_B: np.ndarray, terminal_B: np.ndarray | None = None) -> np.ndarray:
        """Rows [B, num_obs + 1]: the observation, or zeros and a flag where it is terminal."""
        row_BF = self.encode_obs(torch.from_numpy(obs_B)).numpy()
        if self.statistics is not None:
            scale = 1 / np.sqrt(self.statistics.variance + EPS)
            row_BF = ((row_BF - self.statistics.mean) * scale).clip(-CLIP, CLIP)
        flag_B1 = np.zeros((len(row_BF), 1), bool) if terminal_B is None else terminal_B[:, None]
        row_BF = np.where(flag_B1, 0, row_BF)
        return np.concatenate([row_BF, flag_B1], axis=1, dtype=np.float32)

    def pair_rows(self, obs_B: np.ndarray, action_B: np.ndarray) -> np.ndarray:
        """Rows [B, num_pair]: the action, and the observation (in which somebody acts)."""
        action_BA = self.encode_action(torch.from_numpy(action_B)).numpy()
        return np.concatenate([action_BA, self.obs_rows(obs_B)], axis=1)

    def state(self) -> State:
        return {} if self.statistics is None else self.statistics.state()

    def load(self, state: State) -> None:
        if self.statistics is not None:
            self.statistics.load(state)
