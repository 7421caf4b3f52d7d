"""Transitions of an expert or an agent, as a discriminator sees them.

Shape suffixes: B transitions, F features. An absorbing state (Kostrikov et al. 2019,
"Discriminator-actor-critic") is what follows a terminal one for ever: with it, how an episode
ended, and that it did, is part of what is imitated. Its observation and action are zeros, marked
by a flag.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from rlzoo.core.types import State
from rlzoo.data.normalize import CLIP, EPS, RunningStatistics
from rlzoo.data.rollouts import Rollout
from rlzoo.demonstrations.trajectories import Demonstrations
from rlzoo.nets.mlp import vector_encoder


class Transitions(NamedTuple):
    obs_B: np.ndarray  # raw; anything where the state is absorbing
    action_B: np.ndarray  # as the env gets it; anything where the state is absorbing
    next_obs_B: np.ndarray  # raw; anything where the next state is terminal
    absorbing_B: np.ndarray  # bool: the state is the absorbing one
    terminated_B: np.ndarray  # bool: the next state is terminal (or absorbing)


def of_demonstrations(
    demonstrations: Demonstrations, steps: np.ndarray, *, every: int = 1, absorbing: bool
) -> Transitions:
    """The given steps of an expert and, with `absorbing`, those of the absorbing state.

    A terminated trajectory goes on into that state by one step, which is there if every so many-th
    step was kept and it would have been the next: else so rare a step would be seen too often.
    Where a trajectory's last observation is not known, its last step is left out unless it
    terminated.
    """
    kept = steps
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
    transitions = Transitions(
        obs[steps],
        demonstrations.action[steps],
        next_obs,
        np.zeros(len(steps), bool),
        terminated[steps],
    )
    if not absorbing:
        return transitions
    ends = demonstrations.start[1:][demonstrations.terminated]
    return with_absorbing(transitions, int(np.isin(ends, kept + every).sum()))


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
        np.zeros(cells, bool),
        rollout.terminated_TN.reshape(cells),
    )


def with_absorbing(transitions: Transitions, count: int) -> Transitions:
    """The transitions and `count` more from the absorbing state to itself."""

    def extended(array_B: np.ndarray, value: Any) -> np.ndarray:
        more = np.full((count, *array_B.shape[1:]), value, array_B.dtype)
        return np.concatenate([array_B, more])

    return Transitions(
        extended(transitions.obs_B, 0),
        extended(transitions.action_B, 0),
        extended(transitions.next_obs_B, 0),
        extended(transitions.absorbing_B, True),
        extended(transitions.terminated_B, True),
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

    def obs_rows(self, obs_B: np.ndarray, absorbing_B: np.ndarray) -> np.ndarray:
        """Rows [B, num_obs + 1]: the observation, and whether it is the absorbing state."""
        row_BF = self.encode_obs(torch.from_numpy(obs_B[~absorbing_B])).numpy()
        if self.statistics is not None:
            scale = 1 / np.sqrt(self.statistics.variance + EPS)
            row_BF = ((row_BF - self.statistics.mean) * scale).clip(-CLIP, CLIP)
        return _flagged(row_BF, absorbing_B)

    def pair_rows(
        self, obs_B: np.ndarray, action_B: np.ndarray, absorbing_B: np.ndarray
    ) -> np.ndarray:
        """Rows [B, num_pair]: action, observation, and whether it is the absorbing state."""
        action_BA = self.encode_action(torch.from_numpy(action_B[~absorbing_B])).numpy()
        action_BA = _flagged(action_BA, absorbing_B)[:, :-1]
        return np.concatenate([action_BA, self.obs_rows(obs_B, absorbing_B)], axis=1)

    def state(self) -> State:
        return {} if self.statistics is None else self.statistics.state()

    def load(self, state: State) -> None:
        if self.statistics is not None:
            self.statistics.load(state)


def _flagged(row_BF: np.ndarray, absorbing_B: np.ndarray) -> np.ndarray:
    """Rows of the states that are not absorbing, in their places among zeros, and the flag."""
    flagged = np.zeros((len(absorbing_B), row_BF.shape[1] + 1), np.float32)
    flagged[~absorbing_B, :-1] = row_BF
    flagged[:, -1] = absorbing_B
    return flagged
