"""Structured observations become plain arrays; time becomes a feature."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rlzoo.core.types import UsageError


class TupleToMultiDiscrete(gymnasium.ObservationWrapper[np.ndarray, Any, Any]):
    """A tuple of Discrete observations (Blackjack) as one integer array."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Tuple)
        parts: tuple[Any, ...] = env.observation_space.spaces
        self.observation_space = spaces.MultiDiscrete(
            [int(part.n) for part in parts], start=[int(part.start) for part in parts]
        )

    def observation(self, observation: Any) -> np.ndarray:
        return np.array(observation, dtype=np.int64)


def with_array_observations(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """`env`, with Tuple and Dict observations flattened to one array; others as they are."""
    space = env.observation_space
    if isinstance(space, spaces.Tuple) and all(isinstance(s, spaces.Discrete) for s in space):
        return TupleToMultiDiscrete(env)
    if isinstance(space, spaces.Tuple | spaces.Dict) and space.is_np_flattenable:
        return gymnasium.wrappers.FlattenObservation(env)
    return env


def with_time_feature(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """`env`, with the elapsed part of its time limit, 0 to 1, as the last feature.

    Where an episode is truncated at a limit, the time left is part of what its return depends on
    (Pardo et al. 2018, "Time limits in reinforcement learning").
    """
    space = env.observation_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise UsageError(f"env.time_feature=true: expected a vector of features, got {space}")
    if env.spec is None or env.spec.max_episode_steps is None:
        raise UsageError(
            "env.time_feature=true: the env has no time limit, expected env.max_episode_steps"
        )
    return gymnasium.wrappers.TimeAwareObservation(env, flatten=True, normalize_time=True)
