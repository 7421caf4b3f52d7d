"""Advantages and returns against numbers worked out by hand, and episode by episode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlzoo.losses.returns import discounted_returns, generalized_advantages


def advantages(
    reward: list[float],
    value: list[float],
    next_value: list[float],
    terminated: list[int],
    truncated: list[int],
    **options: float,
) -> list[float]:
    """Of one env, given as lists."""
    columns = [np.array(x, float)[:, None] for x in (reward, value, next_value)]
    ends = [np.array(x, bool)[:, None] for x in (terminated, truncated)]
    return generalized_advantages(*columns, *ends, **options)[:, 0].tolist()


def test_an_episode_that_goes_on() -> None:
    # TD errors: 1 + 0.5 * 4 - 2 = 1; 2 + 0.5 * 6 - 4 = 1. Sum: 1 + 0.5 * 0.5 * 1; 1.
    got = advantages([1, 2], [2, 4], [4, 6], [0, 0], [0, 0], gamma=0.5, lam=0.5)
    assert got == pytest.approx([1.25, 1.0])


def test_termination_neither_bootstraps_nor_goes_on() -> None:
    # Step 0 ends: 1 - 2 = -1, whatever its next value. Step 1: 2 + 3 - 4 = 1.
    got = advantages([1, 2], [2, 4], [1e6, 6], [1, 0], [0, 0], gamma=0.5, lam=0.5)
    assert got == pytest.approx([-1.0, 1.0])


def test_truncation_bootstraps_and_does_not_go_on() -> None:
    # Step 0 ends with an observation worth 10: 1 + 0.5 * 10 - 2 = 4. Step 1: 1.
    got = advantages([1, 2], [2, 4], [10, 6], [0, 0], [1, 0], gamma=0.5, lam=0.5)
    assert got == pytest.approx([4.0, 1.0])


def test_both_ends_at_once_are_a_termination() -> None:
    assert advantages([1], [2], [10], [1], [1], gamma=0.5, lam=0.5) == [-1.0]


def test_a_value_of_nan_behind_a_termination_does_no_harm() -> None:
    assert advantages([1], [2], [float("nan")], [1], [0], gamma=0.5, lam=0.5) == [-1.0]


def test_lambda_1_is_the_return_and_lambda_0_the_td_error() -> None:
    case: Any = ([1, 1, 1], [5, 6, 7], [6, 7, 0], [0, 0, 1], [0, 0, 0])
    assert advantages(*case, gamma=0.5, lam=1) == pytest.approx([1.75 - 5, 1.5 - 6, 1 - 7])
    assert advantages(*case, gamma=0.5, lam=0) == pytest.approx([1 + 3 - 5, 1 + 3.5 - 6, 1 - 7])


def naive(
    reward_T: np.ndarray,
    value_T: np.ndarray,
    next_value_T: np.ndarray,
    terminated_T: np.ndarray,
    truncated_T: np.ndarray,
    gamma: float,
    lam: float,
) -> np.ndarray:
    """The definition: cut into episodes, and for each step sum the TD errors to the end."""
    ends = np.flatnonzero(terminated_T | truncated_T) + 1
    advantage_T = np.zeros(len(reward_T))
    for steps in np.split(np.arange(len(reward_T)), ends):
        for t in steps:
            for k in range(t, steps[-1] + 1):
                future = 0.0 if terminated_T[k] else gamma * next_value_T[k]
                td_error = reward_T[k] + future - value_T[k]
                advantage_T[t] += (gamma * lam) ** (k - t) * td_error
    return advantage_T


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(1, 12),
    envs=st.integers(1, 4),
    gamma=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    lam=st.sampled_from([0.0, 0.7, 1.0]),
    ends=st.sampled_from([0.0, 0.2, 0.6]),
)
def test_equals_the_definition_episode_by_episode(
    seed: int, steps: int, envs: int, gamma: float, lam: float, ends: float
) -> None:
    rng = np.random.default_rng(seed)
    numbers = rng.standard_normal((3, steps, envs))
    flags = rng.random((2, steps, envs)) < ends
    got = generalized_advantages(*numbers, *flags, gamma=gamma, lam=lam)
    for env in range(envs):
        columns = [*numbers[:, :, env], *flags[:, :, env]]
        np.testing.assert_allclose(got[:, env], naive(*columns, gamma, lam), atol=1e-12)


def test_shapes_that_would_broadcast_are_refused() -> None:
    column = np.zeros((3, 1))
    with pytest.raises(AssertionError):
        generalized_advantages(
            np.zeros((3, 2)), column, column, column > 0, column > 0, gamma=1, lam=1
        )


def test_discounted_returns_begin_anew_after_an_end_and_go_on_over_rollouts() -> None:
    reward_TN = np.array([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]])
    ended_TN = np.array([[False, False], [True, False], [False, False]])
    got_TN, last_N = discounted_returns(reward_TN, ended_TN, np.array([8.0, 0.0]), gamma=0.5)
    # 0.5 * 8 + 1; 0.5 * 5 + 2, the end; 3.  1; 1.5; 1.75.
    np.testing.assert_allclose(got_TN, [[5.0, 1.0], [4.5, 1.5], [3.0, 1.75]])
    np.testing.assert_allclose(last_N, [3.0, 1.75])
    _, last_N = discounted_returns(reward_TN[:2], ended_TN[:2], np.zeros(2), gamma=0.5)
    np.testing.assert_allclose(last_N, [0.0, 1.5])
