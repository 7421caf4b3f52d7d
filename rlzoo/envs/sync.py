"""B envs in this process."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from gymnasium import spaces

from rlzoo.core.types import DataError, EnvError, State, Step
from rlzoo.envs.episodes import EpisodeEnv


class SyncVectorEnv:
    """Steps its members one after the other (a `types.VectorEnv`).

    `obs_B` is a new array after each step; the arrays of the Step are reused. Whoever steps the
    members one by one (tabular algorithms) does so instead of calling `step`, not in between.
    """

    def __init__(self, members: Sequence[EpisodeEnv], out: Step | None = None) -> None:
        """`out`: write the steps there (shared memory) instead of into arrays of its own."""
        self.members = list(members)
        self.num_envs = len(self.members)
        self.resume_exact = True
        first = self.members[0]
        self.observation_space, self.action_space = first.observation_space, first.action_space
        self._obs_check, self._action_check = first.obs_check, first.action_check
        self._discrete = isinstance(self.action_space, spaces.Discrete)
        shape, dtype = self.action_space.shape or (), np.dtype(self.action_space.dtype)
        self._action_layout = ((self.num_envs, *shape), dtype)
        self._out = out or empty_step(self.observation_space, self.num_envs)
        self._gather()

    def step(self, action_B: np.ndarray) -> Step:
        """Take one action in each env; nothing is handed out unless all of it was checked."""
        actions = self._checked(action_B)
        next_obs_B, reward_B, terminated_B, truncated_B = out = self._out
        ended = []
        for i, member in enumerate(self.members):
            obs, reward, terminated, truncated = member.advance(actions[i])
            next_obs_B[i] = obs
            terminated_B[i] = terminated
            truncated_B[i] = truncated
            reward_B[i] = reward  # last: see process.py, which takes it as the sign of life
            if terminated or truncated:
                ended.append(i)
        if not self._obs_check.values(next_obs_B):
            raise next(
                member.observation_error(obs)
                for member, obs in zip(self.members, next_obs_B, strict=True)
                if not self._obs_check.values(obs)
            )
        self.obs_B = next_obs_B.copy()
        for i in ended:
            self.members[i].finish()
            self.obs_B[i] = self.members[i].obs
        return out

    def _checked(self, action_B: np.ndarray) -> Any:
        """The actions one by one, as the members keep them: integers, or rows of a new array."""
        if (action_B.shape, action_B.dtype) != self._action_layout:
            check_action_form(action_B, self.action_space, self.num_envs)
        if self._discrete:
            actions = action_B.tolist()
            fits = all(map(self._action_check.form, actions))
        else:
            actions = np.array(action_B, dtype=self.action_space.dtype)
            fits = self._action_check.values(actions)
        if not fits:
            raise next(
                member.action_error(action)
                for member, action in zip(self.members, actions, strict=True)
                if not self._action_check.fits(action)
            )
        return actions

    def state(self) -> State:
        return {str(i): member.state() for i, member in enumerate(self.members)}

    def load(self, state: State) -> None:
        check_count(state, self.num_envs)
        for i, member in enumerate(self.members):
            member.load(state[str(i)])
        self.resume_exact = all(member.resume_exact for member in self.members)
        self._gather()

    def _gather(self) -> None:
        self.obs_B = np.empty_like(self._out.next_obs_B)
        for i, member in enumerate(self.members):
            self.obs_B[i] = member.obs

    def close(self) -> None:
        with ExitStack() as stack:  # all of them, even if one cannot be closed
            for member in reversed(self.members):
                stack.callback(member.close)


def empty_step(observation_space: spaces.Space[Any], num_envs: int) -> Step:
    """The arrays that steps of B envs are written to."""
    shape = (num_envs, *(observation_space.shape or ()))
    return Step(
        next_obs_B=np.zeros(shape, dtype=observation_space.dtype),
        reward_B=np.zeros(num_envs),
        terminated_B=np.zeros(num_envs, dtype=bool),
        truncated_B=np.zeros(num_envs, dtype=bool),
    )


def check_action_form(action_B: np.ndarray, space: spaces.Space[Any], num_envs: int) -> None:
    """Shape and kind of a batch of actions (floats may be rounded, but never to integers)."""
    shape, dtype = (num_envs, *(space.shape or ())), np.dtype(space.dtype)
    if action_B.shape != shape or not np.can_cast(action_B.dtype, dtype, "same_kind"):
        raise EnvError(
            f"actions: got {action_B.dtype} {action_B.shape}, expected {dtype} {shape} for {space}"
        )


def check_count(state: State, num_envs: int) -> None:
    if len(state) != num_envs:
        raise DataError(f"env state: got {len(state)} envs, expected {num_envs}")
