"""Envs of the package EnvPool: C++ simulators, stepped together by threads.

EnvPool takes one seed for an env, not one for an episode: its k-th episode follows from that seed
and the resets before it. So the restore class `replay` means here: new envs with the same seeds,
as many resets, the episode's actions once more. That is exact where steps draw nothing from the
env's generator (CarRacing); `probe_pool` finds out.

EnvPool would restart an ended episode in a step of its own, whose action is ignored. Here an ended
episode is reset at once, by mask, and that step never happens.

CarRacing-v3 of EnvPool has the rules, rewards and dynamics of gymnasium's, but tracks of its own
for the same seeds, and another picture: no anti-aliased edges, and shrunk from 1000x800 by
interpolating between four neighbours instead of averaging areas of a hundred pixels.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from rlzoo.core.seeding import episode_seed, numpy_generator
from rlzoo.core.settings import nearest
from rlzoo.core.types import EnvError, NonFiniteError, State, Step, UsageError
from rlzoo.envs.batch import at_rest, member
from rlzoo.envs.checks import SpaceCheck
from rlzoo.envs.episodes import RestoreClass, place, same_bits
from rlzoo.envs.packages import missing
from rlzoo.envs.sync import check_action_form, check_count, empty_step

Seeds = Sequence[int]
PROBE_ENVS, PROBE_EPISODES, PROBE_STEPS = 2, 8, 60


def make_pool(
    task: str,
    seeds: Seeds,
    *,
    threads: int = 0,
    max_episode_steps: int | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """A pool of as many envs as seeds (31 bits), not yet reset; `threads` 0: one per core.

    Raises UsageError if EnvPool is missing, or does not know the task or one of its arguments.
    """
    try:
        import envpool
    except ImportError as error:
        raise UsageError(f"env.backend=envpool {missing(error)}") from error
    tasks = envpool.list_all_envs()
    if task not in tasks:
        hint = nearest(task, tasks)
        raise UsageError(f"env.envpool_id: got '{task}', expected an env that EnvPool has.{hint}")
    settings = dict(kwargs or {})
    if max_episode_steps is not None:
        settings["max_episode_steps"] = max_episode_steps
    try:
        pool = envpool.make(
            task,
            env_type="gymnasium",
            num_envs=len(seeds),
            num_threads=min(threads or os.cpu_count() or 1, len(seeds)),
            env_seed=list(seeds),
            **settings,
        )
    except TypeError as error:
        raise UsageError(f"env.kwargs: EnvPool's {task}: {error}") from error
    with warnings.catch_warnings():
        # Its limits are float64. The spaces are kept, so that the warnings do not come later.
        warnings.filterwarnings("ignore", ".*precision lowered by casting")
        assert pool.observation_space is not None and pool.action_space is not None
    return pool


class EnvPoolVectorEnv:
    """B envs of EnvPool (a `types.VectorEnv`).

    Env i has the seed of its episode 0 (`seeding.episode_seed`) for all of its episodes. An episode
    that reaches its goal in the very step of the time limit counts as truncated only: EnvPool does
    not tell the two apart.
    """

    _pool: Any
    _actions: list[list[np.ndarray]]  # of the running episodes

    def __init__(
        self,
        make: Callable[[Seeds], Any],
        *,
        num_envs: int,
        run_seed: int,
        purpose: str,
        restore: RestoreClass = "replay",
    ) -> None:
        """`make`: `make_pool` with everything but the seeds."""
        self._make = make
        self.num_envs = num_envs
        self.resume_exact = True
        self._run_seed, self._purpose, self._restore = run_seed, purpose, restore
        self._open([0] * num_envs)
        self.observation_space = self._pool.observation_space
        self.action_space = self._pool.action_space
        self._discrete = isinstance(self.action_space, spaces.Discrete)
        self._obs_check = SpaceCheck(self.observation_space, action=False)
        self._action_check = SpaceCheck(self.action_space, action=True)

    def step(self, action_B: np.ndarray) -> Step:
        check_action_form(action_B, self.action_space, self.num_envs)
        action_B = np.array(action_B, dtype=self.action_space.dtype)
        self._check_actions(action_B)
        for taken, action in zip(self._actions, action_B, strict=True):
            taken.append(action)
        next_obs_B, reward_B, terminated_B, truncated_B, _ = self._pool.step(action_B)
        if not (np.isfinite(reward_B).all() and self._obs_check.values(next_obs_B)):
            raise self._not_finite(next_obs_B, reward_B)
        self.obs_B = next_obs_B.copy()
        ended = np.flatnonzero(terminated_B | truncated_B)
        if len(ended):
            self._begin_next(ended)
        return Step(next_obs_B, reward_B.astype(np.float64), terminated_B, truncated_B)

    # Snapshots -----------------------------------------------------------------------------------

    def state(self) -> State:
        shape, dtype = self.action_space.shape, self.action_space.dtype
        return {
            str(i): {
                "first_episode": int(self._first_B[i]),
                "episode": int(self._episode_B[i]),
                "actions": np.array(actions, dtype=dtype).reshape(-1, *shape),
                "obs": self.obs_B[i].copy(),
                "resume_exact": self.resume_exact,
            }
            for i, actions in enumerate(self._actions)
        }

    def load(self, state: State) -> None:
        """Go back to where `state` was taken; where that is impossible, all episodes start anew."""
        check_count(state, self.num_envs)
        states = [state[str(i)] for i in range(self.num_envs)]
        self.resume_exact = all(s["resume_exact"] for s in states)
        if self._restore != "replay" or not self._replay(states):
            self.resume_exact = False
            self._open([int(s["episode"]) for s in states])

    def _replay(self, states: list[State]) -> bool:
        """Repeat resets and actions; whether the same observations were reached, bit for bit."""
        self._open([int(s["first_episode"]) for s in states])
        episode_B = np.array([s["episode"] for s in states])
        while len(behind := np.flatnonzero(self._episode_B < episode_B)):
            self._begin_next(behind)
        self._actions = [list(np.asarray(s["actions"], self.action_space.dtype)) for s in states]
        for t in range(max(map(len, self._actions))):
            envs = np.array([i for i, taken in enumerate(self._actions) if len(taken) > t])
            action = np.stack([self._actions[i][t] for i in envs])
            self.obs_B[envs], _, terminated, truncated, _ = self._pool.step(action, envs)
            if terminated.any() or truncated.any():
                return False
        return all(same_bits(o, s["obs"]) for o, s in zip(self.obs_B, states, strict=True))

    # Inside --------------------------------------------------------------------------------------

    def _open(self, episodes: Sequence[int]) -> None:
        """New envs, seeded with these episodes and at their start."""
        self._pool = None  # the threads of the old ones end first
        seeds = [self._seed(i, episode) for i, episode in enumerate(episodes)]
        self._pool = self._make(seeds)
        self._first_B, self._episode_B = np.array(episodes), np.array(episodes)
        self._actions = [[] for _ in seeds]
        self.obs_B = self._pool.reset()[0].copy()

    def _begin_next(self, envs: np.ndarray) -> None:
        self.obs_B[envs], _ = self._pool.reset(envs)
        self._episode_B[envs] += 1
        for i in envs:
            self._actions[i] = []

    def _check_actions(self, action_B: np.ndarray) -> None:
        for i, action in enumerate(action_B.tolist() if self._discrete else action_B):
            if not self._action_check.fits(action):
                raise EnvError(f"{self._place(i)}: action: {self._action_check.fault(action)}")

    def _not_finite(self, obs_B: np.ndarray, reward_B: np.ndarray) -> NonFiniteError:
        for i, (obs, reward) in enumerate(zip(obs_B, reward_B, strict=True)):
            if not np.isfinite(reward):
                return NonFiniteError(f"{self._place(i)}: reward: got {reward}, expected a number")
            if not self._obs_check.values(obs):
                fault = self._obs_check.fault(obs)
                return NonFiniteError(f"{self._place(i)}: observation: {fault}")
        raise AssertionError("called without a reason")

    def _seed(self, env: int, episode: int) -> int:
        return episode_seed(self._run_seed, self._purpose, env, int(episode))

    def _place(self, env: int) -> str:
        seed = self._seed(env, self._first_B[env])
        return place(env, int(self._episode_B[env]), seed, len(self._actions[env]))

    def close(self) -> None:
        self._pool = None


def probe_pool(make: Callable[[Seeds], Any], seed: int) -> RestoreClass:
    """The restore class of EnvPool's envs, by experiment: `replay` or `restart`.

    Envs that have played for a while, and new ones that were only reset as often, play the same
    actions.
    """
    rng = numpy_generator(seed, "probe")
    seeds = rng.integers(2**31 - 1, size=PROBE_ENVS).tolist()
    used = make(seeds)
    used.action_space.seed(seed)
    actions = [np.stack([used.action_space.sample() for _ in seeds]) for _ in range(PROBE_STEPS)]
    for episode in range(PROBE_EPISODES):
        new = make(seeds)
        for _ in range(episode):
            new.reset()
        if _play(new, actions) != _play(used, actions):
            return "restart"
    return "replay"


def _play(pool: Any, actions: list[np.ndarray]) -> str:
    """A digest of all that envs show from their next reset on."""
    digest = hashlib.blake2b(pool.reset()[0].tobytes())
    for action_B in actions:
        for shown in pool.step(action_B)[:4]:
            digest.update(shown.tobytes())
    return digest.hexdigest()


class EnvPoolEpisodes:
    """An EpisodeBatch (`rlzoo.envs.batch`) of EnvPool's envs: only the living are stepped."""

    _pool: Any

    def __init__(self, make: Callable[[Seeds], Any]) -> None:
        self._make = make
        self.reset([0])
        self.observation_space = self._pool.observation_space
        self.action_space = self._pool.action_space

    def reset(self, seeds: Seeds) -> np.ndarray:
        self._pool = None  # the threads of the old ones end first
        self._pool = self._make(seeds)
        self.num_envs, self._seeds, self._length = len(seeds), list(seeds), 0
        self.alive_B = np.ones(self.num_envs, dtype=bool)
        self._step = empty_step(self._pool.observation_space, self.num_envs)
        self._step.next_obs_B[...], _ = self._pool.reset()
        return self._step.next_obs_B

    def step(self, action_B: np.ndarray) -> Step:
        check_action_form(action_B, self.action_space, self.num_envs)
        step = at_rest(self._step, ~self.alive_B)
        alive = np.flatnonzero(self.alive_B)
        self._length += 1
        if len(alive):
            outcome = self._pool.step(action_B[alive], alive)
            for values_B, values in zip(step, outcome[:4], strict=True):
                values_B[alive] = values
            if not np.isfinite(step.reward_B).all():
                i = int((~np.isfinite(step.reward_B)).argmax())
                raise NonFiniteError(
                    f"{member(i, self._seeds[i], self._length)}: reward: got {step.reward_B[i]}, "
                    "expected a finite number"
                )
        self.alive_B &= ~(step.terminated_B | step.truncated_B)
        return step

    def close(self) -> None:
        self._pool = None
