"""Find out by experiment how an env can be restored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np

from rlzoo.core.seeding import TRAIN
from rlzoo.envs.episodes import Env, EpisodeEnv, RestoreClass

# What a simulator carries over a reset need not show at once: BipedalWalker-v3 plays differently
# from the third episode on, its hardcore version from the ninth, both within the first steps.
EPISODES, STEPS = 12, 60


def probe_restore(make: Callable[[], Env], seed: int) -> RestoreClass:
    """The restore class of an env: whether a used instance plays its episodes as others do.

    What this does not show is found when a state is loaded, as far as the observation reached
    differs from the one saved.
    """

    def play(env: EpisodeEnv, episode_index: int) -> str:
        return _play(env, episode_index, actions)

    def in_another_instance(restore: RestoreClass) -> list[str]:
        played = []
        for k in range(EPISODES):
            with closing(instance(restore)) as env:
                played.append(play(env, k))
        return played

    def instance(restore: RestoreClass) -> EpisodeEnv:
        return EpisodeEnv(
            make, run_seed=seed, purpose=TRAIN, env_index=0, restore=restore, auto_reset=False
        )

    with closing(instance("settle")) as used:
        used.action_space.seed(seed)
        actions = [used.action_space.sample() for _ in range(STEPS)]
        in_used = [play(used, k) for k in range(EPISODES)]
    in_fresh = in_another_instance("rebuild")
    if in_fresh == in_used:
        return "replay"
    if in_another_instance("settle") == in_used:
        return "settle"
    return "rebuild" if in_another_instance("rebuild") == in_fresh else "restart"


def _play(env: EpisodeEnv, episode_index: int, actions: list[Any]) -> str:
    """A digest of everything that an episode shows under fixed actions."""
    digest = hashlib.blake2b()
    env.begin(episode_index)
    digest.update(np.asarray(env.obs).tobytes())
    for action in actions:
        obs, *rest = env.step(action)
        digest.update(np.asarray(obs).tobytes())
        digest.update(np.array(rest, dtype=np.float64).tobytes())
        if env.over:
            break
    return digest.hexdigest()
