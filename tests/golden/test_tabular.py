"""Table learners against updates worked out by hand and against exact solutions."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rlzoo.algos.dynamic_programming import best_return, policy_return, value_iteration
from rlzoo.algos.tabular import (
    QLearning,
    QLearningConfig,
    Sarsa,
    SarsaConfig,
    TableConfig,
    TableLearner,
    state_encoder,
)
from rlzoo.core.algorithm import Setup
from rlzoo.core.types import NonFiniteError, UsageError
from rlzoo.envs.make import EnvConfig, make_vector
from rlzoo.envs.recorded import RecordedVectorEnv


class ScriptedEnv:
    """Plays back a list of (next_obs, reward, terminated, truncated) and notes the actions."""

    def __init__(self, first: int, script: list[tuple[int, float, bool, bool]]) -> None:
        self.obs, self.script, self.actions = first, list(script), []

    def step(self, action: int) -> tuple[int, float, bool, bool]:
        self.actions.append(action)
        next_obs, reward, terminated, truncated = self.script.pop(0)
        self.obs = 0 if terminated or truncated else next_obs
        return next_obs, reward, terminated, truncated


class ScriptedVector:
    num_envs = 1
    resume_exact = True
    observation_space = spaces.Discrete(4)
    action_space = spaces.Discrete(2)

    def __init__(self, env: ScriptedEnv) -> None:
        self.members = [env]
        self.obs_B = np.zeros(1, np.int64)


def learner(
    kind: type[TableLearner], config: Any, script: list[tuple[int, float, bool, bool]]
) -> TableLearner:
    env = RecordedVectorEnv(ScriptedVector(ScriptedEnv(0, script)))
    made = kind(config, Setup(env, 0, len(script)))
    made.tables = [[[1.0, 0.0], [2.0, 5.0], [0.0, 3.0], [7.0, 0.0]] for _ in made.tables]
    return made


GREEDY: dict[str, Any] = {"gamma": 0.5, "alpha": 0.1, "epsilon_start": 0.0, "epsilon_final": 0.0}


def test_q_learning_by_hand():
    # s0 -(a0, r=1)-> s1, whose best is 5: 1 + 0.1 (1 + 0.5*5 - 1) = 1.25
    # s1 -(a1, r=2)-> terminal: 5 + 0.1 (2 - 5) = 4.7
    made = learner(
        QLearning, QLearningConfig(**GREEDY), [(1, 1, False, False), (3, 2, True, False)]
    )
    made.step()
    assert made.q_table()[0, 0] == pytest.approx(1.25, abs=1e-12)
    assert made.q_table()[1, 1] == pytest.approx(4.7, abs=1e-12)
    assert made.members[0].actions == [0, 1]


def test_truncation_bootstraps_termination_does_not():
    for terminated, wanted in ((True, 1 + 0.1 * (1 - 1)), (False, 1 + 0.1 * (1 + 0.5 * 7 - 1))):
        script = [(3, 1.0, terminated, not terminated)]
        made = learner(QLearning, QLearningConfig(**GREEDY), script)
        made.step()
        assert made.q_table()[0, 0] == pytest.approx(wanted, abs=1e-12)


def test_sarsa_bootstraps_from_the_action_taken_next():
    exploring = {**GREEDY, "epsilon_start": 1.0, "epsilon_final": 1.0}
    script = [(1, 1.0, False, False), (2, 0.0, False, False), (1, 0.0, True, False)]
    made = learner(Sarsa, SarsaConfig(**exploring), script)
    before = made.q_table()
    made.step()
    first, second, _ = made.members[0].actions
    wanted = before[0, first] + 0.1 * (1 + 0.5 * before[1, second] - before[0, first])
    assert made.q_table()[0, first] == pytest.approx(wanted, abs=1e-12)


def test_sarsa_forgets_the_next_action_when_an_episode_is_cut():
    # Greedy in state 1 is action 1; but the episode is cut there, and goes on in state 0.
    made = learner(Sarsa, SarsaConfig(**GREEDY), [(1, 0.0, False, True), (1, 0.0, True, False)])
    made.step()
    assert made.members[0].actions == [0, 0]


def test_expected_variant_by_hand():
    # epsilon 0.2: bootstrap 0.2 * mean(2, 5) + 0.8 * 5 = 4.7
    config = QLearningConfig(**GREEDY, expected=True)
    made = learner(QLearning, config, [(1, 1.0, False, False)])
    assert made.bootstrap(1, None, 0.2, 0) == pytest.approx(4.7, abs=1e-12)


def test_double_variant_takes_the_other_tables_word():
    made = learner(QLearning, QLearningConfig(**GREEDY, double=True), [(1, 1.0, False, False)])
    made.tables[1][1] = [9.0, 4.0]
    assert made.bootstrap(1, None, 0.0, 0) == 4.0  # table 0 chooses action 1, table 1 values it
    assert made.bootstrap(1, None, 0.0, 1) == 2.0  # table 1 chooses action 0, table 0 values it


def test_non_finite_error_leaves_the_table():
    made = learner(QLearning, QLearningConfig(**GREEDY), [(1, 1.0, False, False)])
    made.tables[0][1] = [float("inf"), 0.0]
    with pytest.raises(NonFiniteError, match="state 0, action 0"):
        made.step()
    assert made.tables[0][0] == [1.0, 0.0]


def test_ties_are_broken_evenly():
    made = learner(QLearning, QLearningConfig(**GREEDY), [])
    made.tables[0][0] = [1.0, 1.0]
    draws = iter(np.random.default_rng(0).random(4000).tolist())
    assert 850 < sum(made.choose(0, 0.0, draws) for _ in range(2000)) < 1150


def test_encoder_numbers_every_state_once():
    space = spaces.MultiDiscrete([3, 2, 4])
    count, encode = state_encoder(space, TableConfig())
    seen = {encode(np.array([a, b, c])) for a in range(3) for b in range(2) for c in range(4)}
    assert count == 24 and seen == set(range(24))
    count, encode = state_encoder(spaces.Discrete(3, start=-1), TableConfig())
    assert [encode(obs) for obs in (-1, 0, 1)] == [0, 1, 2]


def test_bins_cover_the_box_and_clip_outside():
    box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    config = TableConfig(bins=(4, 2), bin_low=(-1.0, 0.0), bin_high=(1.0, 1.0))
    count, encode = state_encoder(box, config)
    assert count == 8
    points = [(-1, 0), (-0.51, 0), (-0.49, 0.6), (0.99, 0.99), (50, -50), (-50, 50)]
    assert [encode(np.array(p, np.float32)) for p in points] == [0, 0, 3, 7, 6, 1]
    with pytest.raises(UsageError, match=r"algo\.bins"):
        state_encoder(box, TableConfig())
    with pytest.raises(UsageError, match=r"algo\.bin_low"):
        state_encoder(box, TableConfig(bins=(4, 2)))


def test_value_iteration_by_hand():
    # State 0: 'stay' pays 0, 'go' pays 0 and moves on half the time. State 1: 'stop' pays 10.
    table = {
        0: {0: [(1.0, 0, 0.0, False)], 1: [(0.5, 1, 0.0, False), (0.5, 0, 0.0, False)]},
        1: {0: [(1.0, 1, 10.0, True)], 1: [(1.0, 0, 0.0, False)]},
    }
    # v0 = 0.9 (0.5*10 + 0.5*v0) => v0 = 4.5 / 0.55
    v0 = 4.5 / 0.55
    assert value_iteration(table, 0.9) == pytest.approx(np.array([[0.9 * v0, v0], [10, 0.9 * v0]]))
    start = np.array([1.0, 0.0])
    assert best_return(table, start, 2) == pytest.approx(5.0)  # one try to move on, then stop
    assert policy_return(table, np.array([0, 0]), start, 50) == 0.0


def trained(kind: type[TableLearner], config: Any, env_id: str, env_steps: int) -> TableLearner:
    env = make_vector(EnvConfig(id=env_id, max_episode_steps=200), run_seed=1)
    made = kind(config, Setup(env, 1, env_steps))
    while not made.done():
        made.step()
    return made


def test_q_converges_to_value_iteration():
    """With Robbins-Monro step sizes the largest error shrinks, and the policy is optimal."""
    lake = gymnasium.make("FrozenLake-v1").unwrapped
    exact = value_iteration(lake.P, 0.9)  # type: ignore[attr-defined]
    config = QLearningConfig(gamma=0.9, alpha=1.0, alpha_exponent=0.7, epsilon_final=1.0)
    errors = []
    for env_steps in (3_000, 30_000, 300_000):
        made = trained(QLearning, config, "FrozenLake-v1", env_steps)
        reached = np.array(made.visits) > 0
        errors.append(np.abs(made.q_table() - exact)[reached].max())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.04


def test_cliff_q_learning_walks_the_edge_and_sarsa_keeps_away():
    settings: dict[str, Any] = {"gamma": 1.0, "epsilon_start": 0.1, "epsilon_final": 0.1}
    q = trained(QLearning, QLearningConfig(**settings), "CliffWalking-v1", 100_000)
    sarsa = trained(Sarsa, SarsaConfig(**settings), "CliffWalking-v1", 100_000)
    cliff = gymnasium.make("CliffWalking-v1").unwrapped
    start = np.eye(48)[36]
    greedy = [
        policy_return(cliff.P, made.q_table().argmax(axis=1), start, 200)  # type: ignore[attr-defined]
        for made in (q, sarsa)
    ]
    assert greedy[0] == -13
    assert -25 <= greedy[1] < -13
    online = [made.env.gauges()["rollout/return_mean"] for made in (q, sarsa)]
    assert online[1] > online[0] + 10, "while exploring, the safer path pays"
