"""What a rollout keeps, and which value belongs to which step."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from rlzoo.core.types import Step
from rlzoo.data.collector import Transition
from rlzoo.data.rollouts import Rollout

OBS = spaces.Box(-1e3, 1e3, (1,), np.float64)


def step(next_obs: list[float], terminated: list[bool], truncated: list[bool]) -> Step:
    return Step(np.array(next_obs)[:, None], np.zeros(2), np.array(terminated), np.array(truncated))


def add(rollout: Rollout, obs: Any, drawn: Any, step: Step) -> None:
    rollout.add(Transition(np.asarray(obs), np.asarray(drawn), step), np.asarray(drawn))


def filled() -> Rollout:
    """Two envs, two steps: env 0 is truncated at 0, env 1 terminated at 0 and truncated at 1."""
    rollout = Rollout(2, 2, OBS, action_shape=(), action_dtype=np.int64)
    reused = step([10, 20], [False, True], [True, False])
    add(rollout, [[1.0], [2.0]], [0, 1], reused)
    reused.next_obs_B[:] = 99  # the arrays of a step are only valid during the call
    add(rollout, [[3.0], [4.0]], [1, 0], step([5, 40], [False] * 2, [False, True]))
    return rollout


def test_observations_to_value_are_those_of_the_rollout_the_next_and_the_final_ones() -> None:
    got = filled().obs_to_value(np.array([[5.0], [6.0]]))
    assert got[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 10, 40]
    assert got.dtype == np.float64


def test_next_values_are_those_of_the_true_next_observations() -> None:
    rollout = filled()
    obs = rollout.obs_to_value(np.array([[5.0], [6.0]]))
    value_TN, next_value_TN = rollout.split_values(obs[:, 0])  # each is its own value
    assert value_TN.tolist() == [[1, 2], [3, 4]]
    # Env 1 terminated at 0: its next value is of another episode, and nobody asks for it.
    assert next_value_TN.tolist() == [[10, 4], [5, 40]]


def test_both_ends_at_once_need_no_value() -> None:
    rollout = Rollout(1, 2, OBS, action_shape=(), action_dtype=np.int64)
    obs_B = np.array([[1.0], [2.0]])
    add(rollout, obs_B, [0, 1], step([3, 4], [True, False], [True, False]))
    assert len(rollout.obs_to_value(obs_B)) == 4


def test_a_cleared_rollout_is_filled_again() -> None:
    rollout = filled()
    rollout.clear()
    for obs in (7.0, 8.0):
        obs_B = np.full((2, 1), obs)
        add(rollout, obs_B, [1, 1], step([0, 0], [False] * 2, [False] * 2))
    assert rollout.obs_to_value(np.full((2, 1), 9.0))[:, 0].tolist() == [7, 7, 8, 8, 9, 9]
    assert not rollout.ended_TN.any()
