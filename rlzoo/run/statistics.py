"""Statistics of a handful of returns: interquartile mean and bootstrap interval.

Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of the Statistical Precipice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlzoo.core import seeding

# Reduces the last axis of an array: (..., n) -> (...).
Statistic = Callable[[np.ndarray], Any]

_BLOCK_NUMBERS = 1_000_000  # numbers drawn at once, so that memory stays near 16 MB


def mean(x: np.ndarray) -> Any:
    return x.mean(axis=-1)


def iqm(x: ArrayLike) -> Any:
    """Interquartile mean over the last axis: floor(n/4) values are left out at either end."""
    x_sorted = np.sort(np.asarray(x, dtype=np.float64), axis=-1)
    n = x_sorted.shape[-1]
    return x_sorted[..., n // 4 : n - n // 4].mean(axis=-1)


def bootstrap_interval(
    x: ArrayLike,
    statistic: Statistic = mean,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of a statistic of the sample x of shape (n,).

    The same sample and seed always give the same interval. Raises ValueError if x is empty.
    """
    sample = _sample(x)
    generator = seeding.numpy_generator(seed, "bootstrap")
    values = np.empty(resamples)
    block = max(1, _BLOCK_NUMBERS // len(sample))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        picks = generator.integers(len(sample), size=(rows, len(sample)))
        values[start : start + rows] = statistic(sample[picks])
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summary(x: ArrayLike) -> dict[str, Any]:
    """Mean with its 95 % interval, sample standard deviation, median, IQM and range, for JSON."""
    sample = _sample(x)
    return {
        "n": len(sample),
        "mean": float(sample.mean()),
        "ci95": list(bootstrap_interval(sample)),
        "std": float(sample.std(ddof=1)) if len(sample) > 1 else 0.0,
        "median": float(np.median(sample)),
        "iqm": float(iqm(sample)),
        "min": float(sample.min()),
        "max": float(sample.max()),
    }


def _sample(x: ArrayLike) -> np.ndarray:
    sample = np.asarray(x, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0:
        raise ValueError(f"a sample: got shape {sample.shape}, expected (n,) with n >= 1")
    return sample
