"""Advantages and returns of rollouts as pure functions of arrays.

Shapes: T time, N envs. `next_value_TN` is the value of the true next observation, also where an
episode ended: never that of the next episode's first one.
"""

from __future__ import annotations

import numpy as np


def generalized_advantages(
    reward_TN: np.ndarray,
    value_TN: np.ndarray,
    next_value_TN: np.ndarray,
    terminated_TN: np.ndarray,
    truncated_TN: np.ndarray,
    *,
    gamma: float,
    lam: float,
) -> np.ndarray:
    """Sum of (gamma lam)^k TD errors to the episode's end, float64 (Schulman et al. 2016, eq. 16).

    A TD error bootstraps from the next value unless the episode terminated; the sum stops at both
    kinds of end. So the value of a truncated episode's final observation counts, once.
    """
    shape = reward_TN.shape
    assert reward_TN.ndim == 2, shape
    for other_TN in (value_TN, next_value_TN, terminated_TN, truncated_TN):
        assert other_TN.shape == shape, (other_TN.shape, shape)
    td_error_TN = reward_TN + gamma * np.where(terminated_TN, 0.0, next_value_TN) - value_TN
    decay_TN = np.where(terminated_TN | truncated_TN, 0.0, gamma * lam)
    advantage_TN = np.empty(shape)
    advantage_N = np.zeros(shape[1])
    for t in reversed(range(shape[0])):
        advantage_N = td_error_TN[t] + decay_TN[t] * advantage_N
        advantage_TN[t] = advantage_N
    return advantage_TN


def discounted_returns(
    reward_TN: np.ndarray, ended_TN: np.ndarray, start_N: np.ndarray, *, gamma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Running sums R = gamma R + r, looking back, and what they go on with after the last step.

    `start_N` is what they begin with; after the end of an episode they begin at 0.
    """
    return_TN = np.empty(reward_TN.shape)
    for t, reward_N in enumerate(reward_TN):
        return_TN[t] = gamma * start_N + reward_N
        start_N = np.where(ended_TN[t], 0.0, return_TN[t])
    return return_TN, start_N
