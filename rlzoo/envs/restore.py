"""Find out by experiment how an env can be restored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from rlzoo.envs.episodes import Env, EpisodeEnv, RestoreClass
from rlzoo.seeding import TRAIN

# What a simulator carries over a reset need not show at once: BipedalWalker-v3 plays differently
# from the third episode on, its hardcore version from the ninth, both within the first steps.
EPISODES, STEPS = 12, 60


def probe_restore(make: Callable[[], Env], seed: int) -> RestoreClass:
    """The restore class of an env: a used instance and fresh ones play the same episodes.

    What this does not show is found when a state is loaded, as far as the observation reached
    differs from the one saved.
    """

    def instance(restore: RestoreClass) -> EpisodeEnv:
        return EpisodeEnv(
            make, run_seed=seed, purpose=TRAIN, env_index=0, restore=restore, auto_reset=False
        )

    used, fresh = instance("replay"), instance("rebuild")
    try:
        used.action_space.seed(seed)
        actions = [used.action_space.sample() for _ in range(STEPS)]
        for episode_index in range(EPISODES):
            expected = _play(fresh, episode_index, actions)
            if _play(used, episode_index, actions) != expected:
                repeatable = _play(fresh, episode_index, actions) == expected
                return "rebuild" if repeatable else "restart"
        return "replay"
    finally:
        used.close()
        fresh.close()


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
