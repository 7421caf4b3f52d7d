from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlzoo.run import statistics
from rlzoo.run.statistics import bootstrap_interval, iqm, summary

samples = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0, 6.0], 3.0),  # fewer than four: nothing is cut
        ([100.0, 2.0, 4.0, -100.0], 3.0),
        ([5.0, 1.0, 2.0, 3.0, -9.0], 2.0),  # five seeds: the middle three
        ([1.0, 1.0, 3.0, 4.0, 5.0, 8.0, 9.0, 9.0], 5.0),
    ],
)
def test_iqm_by_hand(x: list[float], expected: float) -> None:
    assert iqm(x) == expected


def test_iqm_reduces_the_last_axis() -> None:
    np.testing.assert_array_equal(iqm([[0, 1, 3, 50], [9, 5, 7, -50]]), [2.0, 6.0])


def test_bootstrap_of_two_values_by_hand() -> None:
    # Means of two draws from {0, 1} are 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4.
    assert bootstrap_interval([0.0, 1.0], level=0.95) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], level=0.40) == (0.5, 0.5)


def test_bootstrap_agrees_with_the_normal_interval_of_a_large_sample() -> None:
    x = np.linspace(-1, 1, 2001)
    half = 1.96 * x.std() / np.sqrt(len(x))
    np.testing.assert_allclose(bootstrap_interval(x), (-half, half), rtol=0.05)


def test_bootstrap_of_another_statistic() -> None:
    x = [0.0, 1.0, 2.0, 3.0, 1000.0]
    low, high = bootstrap_interval(x, iqm)
    assert 0.0 <= low < iqm(x) < high <= 1000.0
    assert high != bootstrap_interval(x)[1]


def test_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    data = np.random.default_rng(0).normal(size=(300, 40))
    intervals = [bootstrap_interval(x, level=0.8, resamples=300) for x in data]
    covered = np.mean([low <= 0 <= high for low, high in intervals])
    assert 0.72 < covered < 0.86


def test_bootstrap_is_repeatable_and_does_not_depend_on_the_block_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = np.arange(10.0) ** 2.5
    whole = bootstrap_interval(x)
    assert bootstrap_interval(x) == whole
    assert bootstrap_interval(x, seed=1) != whole
    monkeypatch.setattr(statistics, "_BLOCK_NUMBERS", 70)
    assert bootstrap_interval(x) == whole


@given(samples, st.floats(-10, 10), st.floats(0.1, 10))
def test_moves_and_scales_with_the_sample(x: list[float], shift: float, scale: float) -> None:
    low, high = bootstrap_interval(x, iqm, resamples=50)
    moved = bootstrap_interval(np.array(x) * scale + shift, iqm, resamples=50)
    np.testing.assert_allclose(moved, (low * scale + shift, high * scale + shift), atol=1e-6)
    assert min(x) - 1e-6 <= low <= high <= max(x) + 1e-6


def test_summary_by_hand() -> None:
    got = summary([1, 2, 3, 6])
    assert got.pop("ci95") == list(bootstrap_interval([1, 2, 3, 6]))
    std = np.sqrt((4 + 1 + 0 + 9) / 3)
    assert got == {
        "n": 4,
        "mean": 3.0,
        "std": pytest.approx(std),
        "median": 2.5,
        "iqm": 2.5,
        "min": 1.0,
        "max": 6.0,
    }


def test_summary_of_one_value() -> None:
    got = summary([5.0])
    assert (got["n"], got["std"], got["ci95"]) == (1, 0.0, [5.0, 5.0])


@pytest.mark.parametrize("x", [[], [[1.0]], 1.0])
def test_not_a_sample(x: object) -> None:
    with pytest.raises(ValueError, match=r"got shape .* expected \(n,\)"):
        summary(x)  # type: ignore[arg-type]
