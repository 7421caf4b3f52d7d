"""One env, episode by episode: seeds, ends, checks, and a snapshot that is a list of actions.

Every episode has its own seed, made of (run seed, purpose, env index, episode index). A simulator
that is deterministic given its seed is therefore restored by resetting it with the episode's seed
and repeating the actions: exact, tiny, and nothing of the simulator's inside has to be known.
How far that goes is the env's restore class (found out by `rlzoo.envs.restore.probe_restore`):

    replay    as above, in any instance
    settle    the same once an instance was reset: its first episode differs (HopperBulletEnv-v0),
              so a first reset is thrown away
    rebuild   the simulator carries something over a reset (BipedalWalker-v3): each episode is
              played in a fresh instance, which makes it a function of its seed again
    restart   not repeatable: after a resume the episode starts anew, and resume_exact is False
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from math import isfinite
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from rlzoo.core.messages import cause
from rlzoo.core.seeding import episode_seed
from rlzoo.core.types import DataError, EnvError, NonFiniteError, RlzooError, State, UsageError
from rlzoo.envs.checks import SpaceCheck, describe

Env = gymnasium.Env[Any, Any]
BOOLS = (bool, np.bool_)
RestoreClass = Literal["replay", "settle", "rebuild", "restart"]


class EpisodeEnv:
    """One env that plays episode after episode, each under its own seed.

    `obs` is what to act on now, `episode_index` counts from 0, `length` is the number of steps
    taken in this episode. With `auto_reset=False` (evaluation) a finished episode stays finished
    until `begin` is called. Whatever the env does wrong is an EnvError or a NonFiniteError that
    names env index, episode, seed and step.
    """

    def __init__(
        self,
        make: Callable[[], Env],
        *,
        run_seed: int,
        purpose: str,
        env_index: int,
        restore: RestoreClass = "replay",
        auto_reset: bool = True,
    ) -> None:
        self._make = make
        self.run_seed, self.purpose, self.env_index = run_seed, purpose, env_index
        self.restore, self.auto_reset = restore, auto_reset
        self.resume_exact = True
        self._open()
        if restore == "settle":
            self._reset(0)
        self._reset(0)

    def step(self, action: Any) -> tuple[Any, float, bool, bool]:
        """Take one action: (next_obs, reward, terminated, truncated).

        `next_obs` is the true next observation. If the episode ended, the next one has already
        begun and `obs` is its first observation.
        """
        assert not self.over, "the episode is over: call begin()"
        if action.__class__ is not int or not self._action_form(action):
            action = self._own_action(action)
        next_obs, reward, terminated, truncated = self.advance(action)
        if not self.obs_check.values(next_obs):
            raise self.observation_error(next_obs)
        if terminated or truncated:
            self.finish()
        return next_obs, reward, terminated, truncated

    def advance(self, action: Any) -> tuple[Any, float, bool, bool]:
        """The inner half of `step`, for callers that check and finish a batch of envs at once.

        Takes ownership of `action`, which must be in the action space already.
        """
        self._actions.append(action)
        try:
            obs, reward, terminated, truncated, _ = self._step(action)
            reward = float(reward)
            if terminated.__class__ is not bool or truncated.__class__ is not bool:
                terminated, truncated = ends(terminated, truncated)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise self.error(cause(error)) from error
        if not self._obs_form(obs):
            obs = self._coerced_observation(obs)
        if not isfinite(reward):
            raise self.error(f"reward: got {reward}, expected a finite number", NonFiniteError)
        self.obs = obs
        return obs, reward, terminated, truncated

    def finish(self) -> None:
        """The episode ended: begin the next one, or wait for `begin`."""
        if self.auto_reset:
            self.begin(self.episode_index + 1)
        else:
            self.over = True

    def begin(self, episode_index: int) -> None:
        """Go to the start of an episode."""
        if self.restore == "rebuild":
            self.close()
            self._open()
        self._reset(episode_index)

    @property
    def length(self) -> int:
        return len(self._actions)

    # Snapshots -----------------------------------------------------------------------------------

    def state(self) -> State:
        space = self.action_space
        actions = np.array(self._actions, dtype=space.dtype).reshape(-1, *(space.shape or ()))
        return {
            "episode": self.episode_index,
            "actions": actions,
            "obs": copy(self.obs),
            "resume_exact": self.resume_exact,
        }

    def load(self, state: State) -> None:
        """Go back to where `state` was taken, or to its episode's start if that is impossible."""
        self.resume_exact = bool(state["resume_exact"])
        if self.restore == "restart" or not self._replay(state):
            self.resume_exact = False
            self.begin(int(state["episode"]))

    def _replay(self, state: State) -> bool:
        """Repeat the episode's actions; whether the same observation was reached, bit for bit."""
        self.begin(int(state["episode"]))
        actions = np.asarray(state["actions"], dtype=self.action_space.dtype)
        discrete = isinstance(self.action_space, spaces.Discrete)
        for action in actions.tolist() if discrete else actions:
            if not self.action_check.fits(action):  # from a file that may be anybody's
                raise self.error(f"action: {self.action_check.fault(action)}", DataError)
            _, _, terminated, truncated = self.advance(action)
            if terminated or truncated:
                return False
        return same_bits(self.obs, state["obs"])

    # Inside --------------------------------------------------------------------------------------

    def _open(self) -> None:
        self.env = made(self._make, f"env {self.env_index}")
        self._step = self.env.step
        self.observation_space = self.env.observation_space
        self.action_space = self.env.action_space
        self.obs_check = SpaceCheck(self.observation_space, action=False)
        self.action_check = SpaceCheck(self.action_space, action=True)
        self._obs_form, self._action_form = self.obs_check.form, self.action_check.form

    def _reset(self, episode_index: int) -> None:
        self.episode_index = episode_index
        self.seed = episode_seed(self.run_seed, self.purpose, self.env_index, episode_index)
        self._actions: list[Any] = []
        self.over = False
        try:
            obs, _ = self.env.reset(seed=self.seed)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise self.error(f"reset: {cause(error)}") from error
        if not self._obs_form(obs):
            obs = self._coerced_observation(obs)
        if not self.obs_check.values(obs):
            raise self.observation_error(obs)
        self.obs = obs

    def _coerced_observation(self, obs: Any) -> Any:
        try:
            return self.obs_check.coerced(obs)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise self.error(f"observation: {cause(error)}") from error

    def _own_action(self, action: Any) -> Any:
        """A checked action that stays as it is, even if the caller reuses its array."""
        try:
            action = self.action_check.coerced(action)
        except EnvError as error:
            raise self.error(f"action: {error}") from error
        if not self.action_check.values(action):
            raise self.action_error(action)
        return copy(action)

    def observation_error(self, obs: Any) -> RlzooError:
        """The error for an observation of the right form with wrong values."""
        finite = bool(np.isfinite(obs).all())
        text = f"observation: {self.obs_check.fault(obs)}"
        return self.error(text, EnvError if finite else NonFiniteError)

    def action_error(self, action: Any) -> RlzooError:
        return self.error(f"action: {self.action_check.fault(action)}")

    def error(self, text: str, kind: type[RlzooError] = EnvError) -> RlzooError:
        where = place(self.env_index, self.episode_index, self.seed, self.length)
        return kind(f"{where}: {' '.join(text.split())}")

    def close(self) -> None:
        with faults_as(self.error, "close: "):
            self.env.close()


def made(make: Callable[[], Env], who: str) -> Env:
    """The env; whatever it raises but a UsageError is an EnvError that says `who` it would be."""
    try:
        return make()
    except (KeyboardInterrupt, UsageError):
        raise
    except BaseException as error:
        raise EnvError(f"{who} cannot be made: {cause(error)}") from error


@contextmanager
def faults_as(error: Callable[[str], RlzooError], what: str) -> Iterator[None]:
    """Whatever is raised inside, but for an interrupt, becomes `error(what and its cause)`."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as fault:
        raise error(what + cause(fault)) from fault


def ends(terminated: Any, truncated: Any) -> tuple[bool, bool]:
    """Both as Python's bools; an EnvError for what is neither a bool nor one of NumPy's."""
    for name, value in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(value, BOOLS) and (
            not isinstance(value, np.ndarray) or value.shape or value.dtype != bool
        ):
            raise EnvError(f"{name}: got {describe(value)}, expected a bool")
    return bool(terminated), bool(truncated)


def place(env_index: int, episode_index: int, seed: int, step: int) -> str:
    """Where something happened, in words."""
    return f"env {env_index}, episode {episode_index} (seed {seed}), step {step}"


def same_bits(left: Any, right: Any) -> bool:
    """Equality of two observations that tells -0.0 from 0.0."""
    a, b = np.asarray(left), np.asarray(right)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
