"""Demonstrations from a policy: whole episodes, played one after the other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np

from rlzoo.data.demonstrations import Demonstrations
from rlzoo.envs.episodes import EpisodeEnv
from rlzoo.envs.make import EnvConfig, make_env, restore_class
from rlzoo.seeding import TRAIN, derive_seed


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
    start, terminated, final_obs = [0], [], []
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
    )
