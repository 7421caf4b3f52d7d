"""One episode for each member of a population, all stepped together: no automatic resets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from math import isfinite
from typing import Any, Protocol

import numpy as np

from rlzoo.core.messages import cause
from rlzoo.core.types import EnvError, NonFiniteError, RlzooError, Step
from rlzoo.envs.checks import SpaceCheck
from rlzoo.envs.episodes import Env, ends, faults_as, made
from rlzoo.envs.sync import check_action_form, empty_step


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
    """An EpisodeBatch of gymnasium envs in this process; `make` gives one env.

    Whatever an env does wrong is an EnvError or a NonFiniteError that names member, seed and step.
    """

    def __init__(
        self, make: Callable[[], Env], *, first_member: int = 0, out: Step | None = None
    ) -> None:
        """`out`: write the steps there (shared memory); `first_member`: what errors count from."""
        self._make, self._first_member, self._out = make, first_member, out
        self._envs = [made(make, f"member {first_member}")]
        self.observation_space = self._envs[0].observation_space
        self.action_space = self._envs[0].action_space
        self._obs_check = SpaceCheck(self.observation_space, action=False)
        self._action_check = SpaceCheck(self.action_space, action=True)
        self.num_envs = 0  # until the first reset

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        self.num_envs, self._seeds, self._length = len(seeds), list(seeds), 0
        self.alive_B = np.ones(self.num_envs, dtype=bool)
        out = self._out or empty_step(self.observation_space, self.num_envs)
        self._step = Step(*(array_B[: self.num_envs] for array_B in out))
        for i, seed in enumerate(seeds):
            if i == len(self._envs):
                self._envs.append(made(self._make, f"member {self._first_member + i}"))
            with faults_as(partial(self._error, i), "reset: "):
                obs, _ = self._envs[i].reset(seed=seed)
            self._see(i, obs)
            for values_B in self._step[1:]:
                values_B[i] = 0
        return self._step.next_obs_B

    def step(self, action_B: np.ndarray) -> Step:
        check_action_form(action_B, self.action_space, self.num_envs)
        self._length += 1
        _, reward_B, terminated_B, truncated_B = at_rest(self._step, ~self.alive_B)
        for i in np.flatnonzero(self.alive_B).tolist():
            action = self._checked(i, "action", self._action_check, action_B[i])
            try:
                obs, reward, terminated, truncated, _ = self._envs[i].step(action)
                reward = float(reward)
                terminated_B[i], truncated_B[i] = ends(terminated, truncated)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise self._error(i, cause(error)) from error
            self._see(i, obs)
            if not isfinite(reward):
                raise self._error(
                    i, f"reward: got {reward}, expected a finite number", NonFiniteError
                )
            reward_B[i] = reward  # last: see process_batch.py, which takes it as the sign of life
        self.alive_B &= ~(terminated_B | truncated_B)
        return self._step

    def _see(self, i: int, obs: Any) -> None:
        self._step.next_obs_B[i] = self._checked(i, "observation", self._obs_check, obs)

    def _checked(self, i: int, what: str, check: SpaceCheck, value: Any) -> Any:
        """The value in its space's own type."""
        try:
            value = check.coerced(value)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise self._error(i, f"{what}: {cause(error)}") from error
        if not check.values(value):
            kind = EnvError if np.isfinite(value).all() else NonFiniteError
            raise self._error(i, f"{what}: {check.fault(value)}", kind)
        return value

    def _error(self, i: int, what: str, kind: type[RlzooError] = EnvError) -> RlzooError:
        where = member(self._first_member + i, self._seeds[i], self._length)
        return kind(f"{where}: {' '.join(what.split())}")

    def close(self) -> None:
        with ExitStack() as stack:  # all of them, even if one cannot be closed
            for i in reversed(range(len(self._envs))):
                stack.callback(self.close_one, i)

    def close_one(self, i: int) -> None:
        with faults_as(
            lambda text: EnvError(f"member {self._first_member + i}: {text}"), "close: "
        ):
            self._envs[i].close()

    @property
    def capacity(self) -> int:
        """How many envs have been made."""
        return len(self._envs)


def member(index: int, seed: int, step: int) -> str:
    """Where something happened, in words."""
    return f"member {index} (seed {seed}), step {step}"


def at_rest(step: Step, resting_B: np.ndarray) -> Step:
    """The step with no rewards and no ends of those who rest; observations stay."""
    for values_B in step[1:]:
        values_B[resting_B] = 0
    return step
