"""One episode for each member of a population, all stepped together: no automatic resets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from rlzoo.envs.episodes import Env
from rlzoo.envs.sync import check_action_form, empty_step
from rlzoo.types import EnvError, Step


class EpisodeBatch(Protocol):
    """Plays one episode for each seed.

    A member whose episode has ended rests: its observation stays the last one, its reward is 0 and
    both flags are False, whatever its action. `alive_B` says who still plays; to take someone out
    early, clear its entry. Rewards and flags of a Step are of that step only, and the arrays are
    reused by the next one.
    """

    num_envs: int  # as many as there were seeds
    observation_space: Any  # of one env
    action_space: Any  # of one env
    alive_B: np.ndarray

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        """Begin an episode for each seed (31 bits): their first observations."""

    def step(self, action_B: np.ndarray) -> Step: ...
    def close(self) -> None: ...


class GymEpisodes:
    """An EpisodeBatch of gymnasium envs in this process; `make` gives one env."""

    def __init__(self, make: Callable[[], Env]) -> None:
        self._make = make
        self._envs = [make()]
        self.observation_space = self._envs[0].observation_space
        self.action_space = self._envs[0].action_space
        self.reset([0])

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        while len(self._envs) < len(seeds):
            self._envs.append(self._make())
        self.num_envs, self._seeds, self._length = len(seeds), list(seeds), 0
        self.alive_B = np.ones(self.num_envs, dtype=bool)
        self._step = empty_step(self.observation_space, self.num_envs)
        for i, seed in enumerate(seeds):
            try:
                self._step.next_obs_B[i], _ = self._envs[i].reset(seed=seed)
            except Exception as error:
                where = f"member {i} (seed {seed}), reset"
                raise EnvError(f"{where}: {type(error).__name__}: {error}") from error
        return self._step.next_obs_B

    def step(self, action_B: np.ndarray) -> Step:
        check_action_form(action_B, self.action_space, self.num_envs)
        self._length += 1
        obs_B, reward_B, terminated_B, truncated_B = at_rest(self._step)
        for i in np.flatnonzero(self.alive_B):
            try:
                obs_B[i], reward_B[i], terminated_B[i], truncated_B[i], _ = self._envs[i].step(
                    action_B[i]
                )
            except Exception as error:
                where = f"member {i} (seed {self._seeds[i]}), step {self._length}"
                raise EnvError(f"{where}: {type(error).__name__}: {error}") from error
        self.alive_B &= ~(terminated_B | truncated_B)
        return self._step

    def close(self) -> None:
        for env in self._envs:
            env.close()


def at_rest(step: Step) -> Step:
    """The step with no rewards and no ends, and the observations as they were."""
    for values_B in step[1:]:
        values_B.fill(0)
    return step
