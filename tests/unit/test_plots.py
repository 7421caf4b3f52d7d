from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from rlzoo.run.plots import (
    DOWN,
    LEFT,
    RIGHT,
    UP,
    _layout,
    grid_of,
    learning_curves,
    on_common_steps,
    value_map,
)


def test_grid_of_frozen_lake() -> None:
    grid = grid_of(gymnasium.make("FrozenLake-v1"))
    assert grid is not None
    assert grid.rows == ("SFFF", "FHFH", "FFFH", "HFFG")


def test_grid_of_cliff_walking() -> None:
    grid = grid_of(gymnasium.make("CliffWalking-v1"))
    assert grid is not None
    assert grid.rows == (" " * 12,) * 3 + ("SCCCCCCCCCCG",)


def test_no_grid() -> None:
    assert grid_of(gymnasium.make("Taxi-v4")) is None
    assert grid_of(gymnasium.make("CartPole-v1")) is None


@pytest.mark.parametrize(
    ("env_id", "kwargs"), [("FrozenLake-v1", {"is_slippery": False}), ("CliffWalking-v1", {})]
)
def test_arrows_point_where_the_actions_lead(env_id: str, kwargs: dict[str, bool]) -> None:
    """The env's own transition table says where an action leads from the middle of the map."""
    env = gymnasium.make(env_id, **kwargs)
    grid = grid_of(env)
    assert grid is not None
    assert set(grid.directions) == {LEFT, DOWN, RIGHT, UP}
    columns = grid.shape[1]
    state = columns + 2
    for action, (right, down) in enumerate(grid.directions):
        [(probability, next_state, _, _)] = env.unwrapped.P[state][action]  # type: ignore[attr-defined]
        assert probability == 1
        assert next_state == state + right + columns * down


def test_value_map_is_a_picture_that_shows_values_and_policy() -> None:
    grid = grid_of(gymnasium.make("FrozenLake-v1"))
    q_SA = np.random.default_rng(0).random((16, 4))
    picture = value_map(q_SA, grid, "title")
    assert picture.dtype == np.uint8
    assert picture.ndim == 3 and picture.shape[2] == 3
    assert picture.std() > 20
    np.testing.assert_array_equal(picture, value_map(q_SA, grid, "title"))
    turned = q_SA[:, ::-1]  # the same values, other greedy actions
    assert (value_map(turned, grid, "title") != picture).any()


def test_value_map_of_an_untrained_table_and_without_a_grid() -> None:
    grid = grid_of(gymnasium.make("CliffWalking-v1"))
    assert value_map(np.zeros((48, 4)), grid).std() > 0
    assert value_map(np.arange(3000.0).reshape(500, 6), None).std() > 0
    assert value_map(np.zeros((7, 2)), None).std() > 0


@pytest.mark.parametrize(
    ("states", "expected"), [(1, (1, 1)), (6, (3, 2)), (500, (25, 20)), (7, (3, 3)), (97, (10, 10))]
)
def test_layout(states: int, expected: tuple[int, int]) -> None:
    assert _layout(states) == expected


def test_runs_are_put_on_common_steps() -> None:
    long = (np.array([0, 10, 20, 30]), np.array([0.0, 1.0, 2.0, 3.0]))
    short = (np.array([5, 25]), np.array([10.0, 30.0]))
    steps_T, values_TN = on_common_steps([long, short])
    assert steps_T.tolist() == [5, 10, 20, 25]
    assert values_TN.tolist() == [[0.5, 10.0], [1.0, 15.0], [2.0, 25.0], [2.5, 30.0]]


def test_learning_curves_draw_the_iqm_and_say_how_many_runs() -> None:
    steps = np.array([1000, 2000])
    runs = [(steps, np.array([0.0, v])) for v in (1.0, 2.0, 3.0, 4.0, 100.0)]
    axes = learning_curves({"many": runs, "one": runs[:1]}, ylabel="return").axes[0]
    thick = {line.get_label(): line for line in axes.lines if line.get_linewidth() == 2}
    assert list(thick) == ["many (5 runs)", "one (1 run)"]
    assert list(thick["many (5 runs)"].get_ydata()) == [0.0, 3.0]
    assert len(axes.collections) == 1  # one interval
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("steps", "return")


def test_learning_curves_of_runs_with_no_common_step_and_of_nothing() -> None:
    runs = [(np.array([s, s + 1]), np.array([0.0, 1.0])) for s in (0, 10, 20)]
    assert len(learning_curves({"apart": runs}, ylabel="return").axes[0].lines) == 4
    learning_curves({}, ylabel="return")
