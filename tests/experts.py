"""Small demonstrations for tests of algorithms that learn from experts."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from gymnasium import spaces

from rlzoo.core.algorithm import Reactive
from rlzoo.core.seeding import numpy_generator
from rlzoo.demonstrations.files import encode
from rlzoo.demonstrations.recording import record
from rlzoo.envs.make import EnvConfig, make_env
from rlzoo.run.config import RunConfig

_FOLDER = tempfile.TemporaryDirectory(prefix="rlzoo-demonstrations-")
_EPISODES, _MAX_STEPS = 4, 60


def with_demonstrations(config: RunConfig) -> RunConfig:
    """The same run; an algorithm that learns from an expert gets random ones for its env."""
    if not hasattr(config.algo, "demonstrations"):
        return config
    chosen = replace(
        config.algo.demonstrations,
        path=str(random_demonstrations(config.env.id)),
        trajectories=min(config.algo.demonstrations.trajectories or _EPISODES, _EPISODES),
    )
    return replace(config, algo=replace(config.algo, demonstrations=chosen))


@cache
def random_demonstrations(env_id: str) -> Path:
    """A file of a few short episodes of random actions."""
    env = EnvConfig(id=env_id, max_episode_steps=_MAX_STEPS, restore="replay")
    made = make_env(env)
    space, rng = made.action_space, numpy_generator(0, "random demonstrations")
    made.close()

    def act(obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
        if isinstance(space, spaces.Discrete):
            return space.start + rng.integers(space.n, size=len(obs_B))
        low, high = np.maximum(space.low, -1), np.minimum(space.high, 1)
        return rng.uniform(low, high, (len(obs_B), *space.shape)).astype(space.dtype)

    file = Path(_FOLDER.name) / f"{env_id.replace(':', '-')}.npz"
    recorded = record(Reactive(act), env, episodes=_EPISODES, seed=0, source=str(file))
    file.write_bytes(encode(recorded, "imitation"))
    return file
