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
    """`env`, with Tuple and Dict observations flattened to one array; others as they are.

    Bytes among them (images) are divided by their largest value, as a network does with an image
    that comes alone: in one array with other numbers it could no longer tell them apart.
    """
    space = env.observation_space
    if isinstance(space, spaces.Tuple) and all(isinstance(s, spaces.Discrete) for s in space):
        return TupleToMultiDiscrete(env)
    if isinstance(space, spaces.Tuple | spaces.Dict) and space.is_np_flattenable:
        scaled = gymnasium.wrappers.TransformObservation(
            env, lambda obs: _scaled(obs, space), _scaled_space(space)
        )
        return gymnasium.wrappers.FlattenObservation(scaled)
    return env


def _scaled_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    if isinstance(space, spaces.Dict):
        return spaces.Dict({name: _scaled_space(part) for name, part in space.items()})
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([_scaled_space(part) for part in space])
    if isinstance(space, spaces.Box) and space.dtype == np.uint8:
        low, high = (_scaled(limit, space) for limit in (space.low, space.high))
        return spaces.Box(low, high, dtype=np.float32)
    return space


def _scaled(value: Any, space: spaces.Space[Any]) -> Any:
    """A value of a space, with bytes divided by the largest of their upper limits."""
    if isinstance(space, spaces.Dict):
        return {name: _scaled(value[name], part) for name, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_scaled(*pair) for pair in zip(value, space, strict=True))
    if isinstance(space, spaces.Box) and space.dtype == np.uint8:
        return np.asarray(value, np.float32) / max(1, int(space.high.max()))
    return value


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
