"""What a discriminator sees of an expert and of an agent."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from rlzoo.algos.gail.transitions import Features, of_demonstrations, of_rollout
from rlzoo.core.types import Step
from rlzoo.data.collector import Transition
from rlzoo.data.rollouts import Rollout
from rlzoo.demonstrations.trajectories import Demonstrations

LINE = spaces.Box(-np.inf, np.inf, (1,), np.float32)


def expert(*, final_obs: bool = True) -> Demonstrations:
    """Two trajectories on a line: 0 1 2 -> 3 (terminated) and 10 11 -> 12 (cut off)."""
    return Demonstrations(
        obs=np.array([[0], [1], [2], [10], [11]], np.float32),
        action=np.array([5, 6, 7, 8, 9], np.int64),
        reward=np.zeros(5),
        start=np.array([0, 3, 5]),
        terminated=np.array([True, False]),
        final_obs=np.array([[3], [12]], np.float32) if final_obs else None,
        source="here",
        env_id=None,
    )


def test_next_observations_of_an_expert_are_the_true_ones():
    steps = np.arange(5)
    transitions = of_demonstrations(expert(), steps)
    assert transitions.obs_B.ravel().tolist() == [0, 1, 2, 10, 11]
    assert transitions.next_obs_B.ravel().tolist() == [1, 2, 3, 11, 12]
    assert transitions.action_B.tolist() == [5, 6, 7, 8, 9]
    assert transitions.terminated_B.tolist() == [False, False, True, False, False]


def test_a_step_whose_next_observation_nobody_knows_is_left_out():
    transitions = of_demonstrations(expert(final_obs=False), np.arange(5))
    assert transitions.obs_B.ravel().tolist() == [0, 1, 2, 10]  # terminated: nobody needs it
    assert transitions.next_obs_B.ravel().tolist()[:2] == [1, 2]
    assert transitions.terminated_B.tolist() == [False, False, True, False]


def test_some_steps_of_an_expert():
    transitions = of_demonstrations(expert(), np.array([2, 4]))
    assert transitions.next_obs_B.ravel().tolist() == [3, 12]
    assert transitions.terminated_B.tolist() == [True, False]
    assert transitions.obs_B.dtype == np.float32
    assert transitions.action_B.dtype == np.int64


def test_next_observations_of_a_rollout_are_the_true_ones():
    """Two envs, three steps: env 0 is truncated at t = 0, env 1 terminates at t = 1."""
    rollout = Rollout(3, 2, LINE, action_shape=(), action_dtype=np.int64)
    ends = ((True, False), (False, True), (False, False))
    obs = np.array([[0, 10], [5, 11], [6, 20]], np.float32)[..., None]
    final = np.array([[1, 11], [6, 12], [7, 21]], np.float32)[..., None]
    for t, (truncated, terminated) in enumerate(ends):
        step = Step(
            final[t], np.zeros(2), np.array([False, terminated]), np.array([truncated, False])
        )
        drawn_B = np.array([t, 10 + t])
        rollout.add(Transition(obs[t], drawn_B, step), drawn_B)
    now = np.array([[7], [21]], np.float32)
    transitions = of_rollout(rollout, now, rollout.action_TN.reshape(-1))
    assert transitions.obs_B.ravel().tolist() == [0, 10, 5, 11, 6, 20]
    assert transitions.action_B.tolist() == [0, 10, 1, 11, 2, 12]
    assert transitions.terminated_B.tolist() == [False, False, False, True, False, False]
    known = ~transitions.terminated_B
    assert transitions.next_obs_B.ravel()[known].tolist() == [1, 11, 6, 7, 21]


def test_features_are_standardised_with_the_statistics_of_what_was_seen():
    features = Features(LINE, spaces.Box(-1, 1, (2,), np.float32))
    features.update(np.array([[1], [3]], np.float32))  # mean 2, standard deviation 1
    obs_B = np.array([[4], [0], [99]], np.float32)
    action_B = np.array([[0.5, -0.5], [1, -1], [0.7, 0.7]], np.float32)
    terminal_B = np.array([False, False, True])
    pair_BF = features.pair_rows(obs_B[:2], action_B[:2])
    assert pair_BF.dtype == np.float32
    assert pair_BF == pytest.approx(np.array([[0.5, -0.5, 2, 0], [1, -1, -2, 0]]), abs=1e-6)
    assert features.num_pair == 4
    assert features.obs_rows(obs_B, terminal_B)[:2] == pytest.approx(pair_BF[:, 2:])
    assert features.obs_rows(np.array([[500.0]]))[0, 0] == 10  # clipped
    plain = Features(LINE, spaces.Discrete(2), normalize=False)
    plain.update(np.array([[1], [3]], np.float32))
    assert plain.obs_rows(obs_B, terminal_B).tolist() == [[4, 0], [0, 0], [0, 1]]


def test_discrete_spaces_are_one_hot_codes():
    features = Features(spaces.Discrete(3), spaces.Discrete(2, start=-1))
    features.update(np.array([0, 1, 2]))
    row_BF = features.pair_rows(np.array([2, 0]), np.array([-1, 0]))
    assert row_BF.tolist() == [[1, 0, 0, 0, 1, 0], [0, 1, 1, 0, 0, 0]]


def test_features_are_saved_and_loaded():
    one, other = (Features(LINE, spaces.Discrete(2)) for _ in range(2))
    one.update(np.array([[1], [5]], np.float32))
    other.load(one.state())
    obs_B = np.array([[4]], np.float32)
    assert other.obs_rows(obs_B).tolist() == one.obs_rows(obs_B).tolist()
    other.update(obs_B)
    assert other.obs_rows(obs_B).tolist() != one.obs_rows(obs_B).tolist()
