"""Exact solutions of small finite MDPs, against which the learned tables are measured.

Works on the transition table of gymnasium's toy-text envs: `P[s][a]` is a list of
(probability, next state, reward, terminated).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Transitions = Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]]


def as_arrays(table: Transitions) -> tuple[np.ndarray, np.ndarray]:
    """(p_SAS, r_SA): chances of going on in each next state, and expected rewards.

    Rows of `p_SAS` sum to less than 1 where the episode may terminate: nothing follows then.
    """
    num_states, num_actions = len(table), len(table[0])
    p_SAS = np.zeros((num_states, num_actions, num_states))
    r_SA = np.zeros((num_states, num_actions))
    for s, actions in table.items():
        for a, outcomes in actions.items():
            for probability, next_state, reward, terminated in outcomes:
                r_SA[s, a] += probability * reward
                p_SAS[s, a, next_state] += probability * (not terminated)
    return p_SAS, r_SA


def value_iteration(table: Transitions, gamma: float, tolerance: float = 1e-12) -> np.ndarray:
    """The optimal action values q_SA (Bellman 1957), to within `tolerance` of a fixed point.

    Needs gamma < 1, or episodes that end whatever is done.
    """
    p_SAS, r_SA = as_arrays(table)
    q_SA = np.zeros_like(r_SA)
    while True:
        next_q_SA = r_SA + gamma * p_SAS @ q_SA.max(axis=1)
        if np.abs(next_q_SA - q_SA).max() < tolerance:
            return next_q_SA
        q_SA = next_q_SA


def best_return(table: Transitions, start_S: np.ndarray, horizon: int) -> float:
    """The highest expected undiscounted return of any policy within `horizon` env steps."""
    p_SAS, r_SA = as_arrays(table)
    v_S = np.zeros(len(table))
    for _ in range(horizon):
        v_S = (r_SA + p_SAS @ v_S).max(axis=1)
    return float(start_S @ v_S)


def policy_return(
    table: Transitions, policy_S: np.ndarray, start_S: np.ndarray, horizon: int
) -> float:
    """The expected undiscounted return of a deterministic policy within `horizon` env steps."""
    p_SAS, r_SA = as_arrays(table)
    states = np.arange(len(table))
    p_SS, r_S = p_SAS[states, policy_S], r_SA[states, policy_S]
    v_S = np.zeros(len(table))
    for _ in range(horizon):
        v_S = r_S + p_SS @ v_S
    return float(start_S @ v_S)
