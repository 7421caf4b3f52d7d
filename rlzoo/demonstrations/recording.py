"""Whole episodes of a policy as demonstrations, and recorded actions played again in an env."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rlzoo.core.algorithm import Policy
from rlzoo.core.seeding import TRAIN, derive_seed
from rlzoo.demonstrations.trajectories import Demonstrations, check_fits
from rlzoo.envs.episodes import Env, RestoreClass
from rlzoo.envs.make import EnvConfig, make_env, restore_class, with_time_limit
from rlzoo.envs.play import GivenActions, Playing, episode_envs, play


class _Start(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An env whose every episode begins under one seed."""

    def __init__(self, env: Env, seed: int) -> None:
        super().__init__(env)
        self.seed = seed

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self.env.reset(seed=self.seed, options=options)


def record(
    policy: Policy,
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
    steps: dict[str, list[Any]] = {"obs": [], "action": [], "reward": []}
    start, terminated, final_obs, seeds = [0], [], [], []
    with episode_envs(
        partial(make_env, with_time_limit(env_config)),
        1,
        run_seed=derive_seed(seed, "demonstrations"),
        purpose=TRAIN,
        restore=restore_class(env_config, seed),
    ) as envs:
        for episode in play(policy, envs, range(episodes), explore=explore):
            if episode.action is not None:
                steps["action"].append(np.array(episode.action))
                steps["reward"].append(episode.reward)
            if not episode.over:
                steps["obs"].append(np.array(episode.obs))
                continue
            start.append(len(steps["reward"]))
            terminated.append(episode.terminated)
            final_obs.append(np.array(episode.obs))
            seeds.append(episode.env.seed)
            played(episode.return_)
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
) -> Iterator[Playing]:
    """Take a trajectory's recorded actions in an env, from its recorded seed if there is one.

    Otherwise from a start of the env's own. Yields the episode at its start and after each step, to
    the end of the actions or of the episode, whichever is first. DataError where they do not
    belong to the env's spaces.
    """
    d = demonstrations

    def make() -> Env:
        return make_env() if d.seed is None else _Start(make_env(), int(d.seed[trajectory]))

    run_seed = derive_seed(seed, "replay", trajectory)
    with episode_envs(make, 1, run_seed=run_seed, purpose=TRAIN, restore=restore) as envs:
        part, [env] = d.subset([trajectory]), envs
        check_fits(part, env.observation_space, env.action_space)
        action_T, space = part.action, env.action_space
        if isinstance(space, spaces.Box):  # a limit that was overstepped by rounding
            action_T = np.clip(action_T, space.low, space.high)
        for episode in play(GivenActions(action_T), envs, [0]):
            yield episode
            if episode.length == len(action_T):
                break
