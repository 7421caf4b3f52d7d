"""Whole episodes of a policy as demonstrations, and recorded actions played again in an env."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces

from rlzoo.core.seeding import TRAIN, derive_seed
from rlzoo.demonstrations.trajectories import Demonstrations, check_fits
from rlzoo.envs.episodes import Env, EpisodeEnv, RestoreClass
from rlzoo.envs.make import EnvConfig, make_env, restore_class


class _Start(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An env whose every episode begins under one seed."""

    def __init__(self, env: Env, seed: int) -> None:
        super().__init__(env)
        self.seed = seed

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self.env.reset(seed=self.seed, options=options)


class Act(Protocol):
    """The policy: a batch of observations in, a batch of actions out."""

    def __call__(self, obs_B: np.ndarray, *, explore: bool) -> np.ndarray: ...


def record(
    act: Act,
    env_config: EnvConfig,
    *,
    episodes: int,
    seed: int,
    source: str,
    explore: bool = False,
    played: Callable[[float], None] = lambda return_: None,
) -> Demonstrations:
    """Play `episodes` whole episodes and keep every step; `played` hears each one's return.

    Their seeds are those of a training run of its own (its seed is hashed from 'demonstrations'
    and `seed`), so that no selection or test episode is ever among them. EnvError from the env.
    """
    env = EpisodeEnv(
        partial(make_env, env_config),
        run_seed=derive_seed(seed, "demonstrations"),
        purpose=TRAIN,
        env_index=0,
        restore=restore_class(env_config, seed),
        auto_reset=False,
    )
    steps: dict[str, list[Any]] = {"obs": [], "action": [], "reward": []}
    start, terminated, final_obs, seeds = [0], [], [], []
    try:
        for episode in range(episodes):
            env.begin(episode)
            return_, is_terminal = 0.0, False
            while not env.over:
                obs = np.array(env.obs)
                [action] = act(obs[None], explore=explore)
                _, reward, is_terminal, _ = env.step(action)
                for name, value in (("obs", obs), ("action", np.array(action)), ("reward", reward)):
                    steps[name].append(value)
                return_ += reward
            start.append(len(steps["reward"]))
            terminated.append(is_terminal)
            final_obs.append(np.array(env.obs))
            seeds.append(env.seed)
            played(return_)
    finally:
        env.close()
    return Demonstrations(
        obs=np.stack(steps["obs"]),
        action=np.stack(steps["action"]),
        reward=np.array(steps["reward"], np.float64),
        start=np.array(start),
        terminated=np.array(terminated),
        final_obs=np.stack(final_obs),
        source=source,
        env_id=env_config.id.rpartition(":")[2],
        seed=np.array(seeds),
    )


def replay(
    demonstrations: Demonstrations,
    trajectory: int,
    make_env: Callable[[], Env],
    *,
    restore: RestoreClass = "settle",
    seed: int = 0,
) -> Iterator[tuple[EpisodeEnv, float]]:
    """Take a trajectory's recorded actions in an env, from its recorded seed if there is one.

    Otherwise from a start of the env's own. Yields the env and the reward so far, after the reset
    and after each step, to the end of the actions or of the episode, whichever is first.
    DataError where they do not belong to the env's spaces.
    """
    d = demonstrations

    def make() -> Env:
        return make_env() if d.seed is None else _Start(make_env(), int(d.seed[trajectory]))

    env = EpisodeEnv(
        make,
        run_seed=derive_seed(seed, "replay"),
        purpose=TRAIN,
        env_index=trajectory,
        restore=restore,
        auto_reset=False,
    )
    try:
        part, space = d.subset([trajectory]), env.action_space
        check_fits(part, env.observation_space, space)
        return_ = 0.0
        yield env, return_
        for action in part.action:
            if env.over:
                break
            if isinstance(space, spaces.Box):  # a limit that was overstepped by rounding
                action = np.clip(action, space.low, space.high)
            return_ += env.step(action)[1]
            yield env, return_
    finally:
        env.close()
