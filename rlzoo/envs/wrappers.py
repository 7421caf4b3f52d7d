"""Structured observations become plain arrays."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


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
