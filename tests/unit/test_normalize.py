"""Running statistics, and what is scaled by them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlzoo.data.normalize import ObsNormalizer, RewardScaler, RunningStatistics


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    offset=st.sampled_from([0.0, 1e6]),
    seed=st.integers(0, 2**32 - 1),
)
def test_statistics_are_those_of_everything_at_once(
    sizes: list[int], offset: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    batches = [offset + rng.standard_normal((size, 3)) for size in sizes]
    statistics = RunningStatistics((3,))
    for batch in batches:
        statistics.update(batch)
    everything = np.concatenate(batches)
    np.testing.assert_allclose(statistics.mean, everything.mean(axis=0))
    np.testing.assert_allclose(statistics.variance, everything.var(axis=0), rtol=1e-6, atol=1e-9)
    assert statistics.count == sum(sizes)


def test_statistics_of_floats_are_kept_in_doubles() -> None:
    statistics = RunningStatistics((1,))
    statistics.update(np.array([[1e4], [1e4 + 1], [1e4 + 2]], np.float32))
    assert statistics.mean.dtype == statistics.variance.dtype == np.float64
    np.testing.assert_allclose(statistics.variance, [2 / 3])


def test_observations_before_and_after_statistics() -> None:
    normalizer = ObsNormalizer((2,))
    np.testing.assert_allclose(normalizer(np.array([[3.0, 40.0]])), [[3.0, 10.0]], rtol=1e-6)
    normalizer.update(np.array([[0.0, 5.0], [4.0, 5.0]]))
    got = normalizer(np.array([[4.0, 5.0], [-1e6, 6.0]], np.float32))
    # (4 - 2) / 2; a feature that never changed; far outside, clipped.
    np.testing.assert_allclose(got, [[1.0, 0.0], [-10.0, 10.0]], rtol=1e-6)
    assert got.dtype == np.float32


def test_normalising_leaves_statistics_and_observations_alone() -> None:
    normalizer = ObsNormalizer((2,))
    normalizer.update(np.array([[0.0, 5.0], [4.0, 6.0]]))
    obs_B = np.array([[1.0, 2.0]])
    first = normalizer(obs_B)
    np.testing.assert_array_equal(normalizer(obs_B), first)
    assert obs_B.tolist() == [[1.0, 2.0]] and normalizer.statistics.count == 2


def test_rewards_are_divided_by_the_deviation_of_discounted_returns() -> None:
    scaler = RewardScaler(1, gamma=0.5)
    got = scaler.scaled(np.array([[1.0], [2.0], [3.0]]), np.array([[False], [True], [False]]))
    # Returns 1, 2.5 and, after the end, 3. The mean is not taken off.
    np.testing.assert_allclose(got[:, 0], np.array([1, 2, 3]) / np.std([1, 2.5, 3]), rtol=1e-6)
    scaler.scaled(np.array([[1.0]]), np.array([[False]]))
    np.testing.assert_allclose(scaler.statistics.mean, np.mean([1, 2.5, 3, 2.5]))


def test_rewards_are_clipped() -> None:
    scaler = RewardScaler(1, gamma=0.0)
    scaler.scaled(np.tile([[1.0], [-1.0]], (50, 1)), np.zeros((100, 1), bool))
    got = scaler.scaled(np.array([[1e3], [-1e3]]), np.zeros((2, 1), bool))
    assert abs(got).max() < 10  # the statistics have seen them
    scaler.statistics.count = 10**9
    got = scaler.scaled(np.array([[1e6], [-1e6]]), np.zeros((2, 1), bool))
    assert got[:, 0].tolist() == [10.0, -10.0]


@pytest.mark.parametrize("after", [1, 3])
def test_going_on_from_a_state_is_exact(after: int) -> None:
    rng = np.random.default_rng(0)
    reward_TN = rng.standard_normal((6, 2))
    ended_TN = rng.random((6, 2)) < 0.3
    straight, resumed = RewardScaler(2, 0.9), RewardScaler(2, 0.9)
    straight.scaled(reward_TN[:after], ended_TN[:after])
    resumed.load(straight.state())
    rest = reward_TN[after:], ended_TN[after:]
    np.testing.assert_array_equal(resumed.scaled(*rest), straight.scaled(*rest))
    one, two = ObsNormalizer((2,)), ObsNormalizer((2,))
    one.update(reward_TN)
    two.load(one.state())
    np.testing.assert_array_equal(two(reward_TN), one(reward_TN))
