"""The sum tree against a running sum, and prioritised replay against its definition."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from rlzoo.core.types import DataError, NonFiniteError, Step
from rlzoo.data.collector import Transition
from rlzoo.data.prioritized import PrioritizedConfig, PrioritizedReplay, SumTree
from rlzoo.data.replay import Replay, ReplayConfig
from rlzoo.run.strict import read

ALPHA, BETA0, EPS = 0.6, 0.4, 1e-3


def memory(capacity: int = 8, num_envs: int = 1) -> PrioritizedReplay:
    space, actions = spaces.Discrete(10**6), spaces.Discrete(2)
    sizes, exponents = {"capacity": capacity}, {"alpha": ALPHA, "beta0": BETA0, "eps": EPS}
    return PrioritizedReplay(space, actions, num_envs, **sizes, **exponents)


def fill(replay: PrioritizedReplay, *times: int) -> None:
    """Add one transition per env and time; the observation is the time."""
    num_envs = replay.num_envs
    for time in times:
        obs_B = np.full(num_envs, time)
        false_B = np.zeros(num_envs, bool)
        step = Step(obs_B + 1, obs_B * 1.0, false_B, false_B)
        replay.add(Transition(obs_B, np.zeros(num_envs, int), step))


def priorities(replay: PrioritizedReplay) -> dict[int, float]:
    """Observation -> priority of all that can be drawn (one env)."""
    replay._insert_new()
    cells = np.flatnonzero(replay._tree.leaf)
    return dict(zip(replay._obs[cells, 0].tolist(), replay._tree.leaf[cells], strict=True))


# -------------------------------------------------------------------- sum tree


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 70), seed=st.integers(0, 10_000))
def test_tree_equals_a_running_sum(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = np.zeros(size)
    tree = SumTree(size)
    for _ in range(5):
        index = rng.choice(size, rng.integers(1, size + 1), replace=False)
        # Whole numbers: sums are exact in any order.
        weight[index] = rng.integers(0, 4, len(index))
        tree.update(index, weight[index])
        if not weight.any():
            continue
        assert tree.total == weight.sum()
        mass = rng.random(50) * tree.total
        expected = np.searchsorted(np.cumsum(weight), mass, side="right")
        np.testing.assert_array_equal(tree.find(mass), expected)


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 70), seed=st.integers(0, 10_000))
def test_tree_of_any_weights_never_finds_an_empty_leaf(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tree = SumTree(size)
    weight = rng.random(size) ** 20 * (rng.random(size) < 0.5)
    weight[rng.integers(size)] = 1e-12
    tree.update(np.arange(size), weight)
    mass = np.append(rng.random(50), [0.0, 1.0]) * tree.total  # total itself may come of rounding
    assert (weight[tree.find(mass)] > 0).all()


def test_tree_updated_in_pieces_equals_a_fresh_one_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    tree, fresh = SumTree(1000), SumTree(1000)
    for _ in range(50):
        tree.update(rng.integers(1000, size=64), rng.random(64))
    fresh.update(np.arange(1024), 7.0)
    fresh.load(tree.leaf[:1000])
    np.testing.assert_array_equal(tree._node[1:], fresh._node[1:])


def test_last_weight_of_a_repeated_leaf_holds() -> None:
    tree = SumTree(4)
    tree.update(np.array([2, 1, 2, 2]), np.array([5.0, 1.0, 6.0, 3.0]))
    assert tree.leaf.tolist() == [0.0, 1.0, 3.0, 0.0]
    assert tree.total == 4.0


# -------------------------------------------------------------------- priorities


def test_priorities_follow_the_definition() -> None:
    replay = memory()
    fill(replay, 0, 1, 2)
    replay.learnt(np.array([0, 2]), torch.tensor([-2.0, 0.5]))
    fill(replay, 3)
    top = (2 + EPS) ** ALPHA
    expected = {0: top, 1: 1.0, 2: (0.5 + EPS) ** ALPHA, 3: top}
    assert priorities(replay) == pytest.approx(expected)


def test_new_ones_have_the_top_priority_of_when_they_came() -> None:
    replay = memory()
    fill(replay, 0, 1)
    replay.learnt(np.array([0]), np.array([9.0]))  # 1 was there before
    assert priorities(replay)[1] == 1.0


def test_overwritten_ones_are_gone_and_stay_gone() -> None:
    replay = memory(capacity=4)
    fill(replay, *range(11))
    assert priorities(replay).keys() == {7, 8, 9, 10}
    batch = replay.sample(4, np.random.default_rng(0), gamma=0.9)
    fill(replay, 11, 12)
    replay.learnt(batch.index_B, np.full(4, 5.0))
    assert priorities(replay).keys() == {9, 10, 11, 12}


@settings(max_examples=50, deadline=None)
@given(
    num_envs=st.integers(1, 3),
    steps=st.integers(1, 6),
    adds=st.lists(st.integers(1, 9), max_size=8),
)
def test_exactly_what_is_held_can_be_drawn(num_envs: int, steps: int, adds: list[int]) -> None:
    replay = memory(steps * num_envs, num_envs)
    time = 0
    for count in adds:
        fill(replay, *range(time, time + count))
        time += count
        replay._insert_new()
        held = np.sort(replay.cells(replay.oldest, replay.steps))
        np.testing.assert_array_equal(np.flatnonzero(replay._tree.leaf), held)


def test_td_error_that_is_not_finite_changes_nothing() -> None:
    replay = memory()
    fill(replay, 0, 1)
    before = priorities(replay)
    for bad in (np.nan, np.inf):
        with pytest.raises(NonFiniteError):
            replay.learnt(np.array([0, 1]), np.array([3.0, bad]))
    assert priorities(replay) == before


# -------------------------------------------------------------------- sampling


def test_frequencies_and_weights() -> None:
    replay = memory(capacity=6)
    fill(replay, *range(9))
    cells = replay.cells(replay.oldest, 6)
    replay.learnt(cells, np.array([0.0, 0.1, 0.5, 1.0, 2.0, 4.0]))
    leaf = replay._tree.leaf[cells]
    chance = leaf / leaf.sum()
    rng = np.random.default_rng(0)
    # Strata make the counts of one batch more even than chance: draw many small ones.
    batches = [replay.sample(4, rng, gamma=0.9, progress=0.25) for _ in range(5000)]
    drawn = np.concatenate([batch.index_B for batch in batches])
    counts = np.array([(drawn == cell).sum() for cell in cells])
    np.testing.assert_allclose(counts / 20_000, chance, atol=4 * np.sqrt(0.25 / 20_000))
    uniform = np.full(6, 1 / 6)
    assert np.abs(counts / 20_000 - uniform).max() > 0.05  # the check above can fail

    batch = batches[0]
    beta = BETA0 + (1 - BETA0) * 0.25
    weight = (6 * chance[[cells.tolist().index(i) for i in batch.index_B]]) ** -beta
    np.testing.assert_allclose(batch.weight_B, weight / weight.max(), rtol=1e-6)
    assert batch.weight_B.dtype == torch.float32


@pytest.mark.parametrize(("progress", "beta"), [(0.0, BETA0), (1.0, 1.0)])
def test_beta_ends_at_one(progress: float, beta: float) -> None:
    replay = memory()
    fill(replay, 0, 1)
    replay.learnt(np.array([0, 1]), np.array([1.0, 3.0]))
    batch = replay.sample(64, np.random.default_rng(0), gamma=0.9, progress=progress)
    ratio = ((1 + EPS) / (3 + EPS)) ** (ALPHA * beta)
    assert set(batch.index_B) == {0, 1}
    np.testing.assert_allclose(batch.weight_B, np.where(batch.index_B == 0, 1, ratio), rtol=1e-6)


def test_each_stratum_is_drawn_from_once_and_in_random_order() -> None:
    replay = memory(capacity=64)
    fill(replay, *range(64))
    batch = replay.sample(64, np.random.default_rng(0), gamma=0.9)
    assert sorted(batch.obs_B.tolist()) == list(range(64))
    first_half = batch.obs_B[:32].float().mean()
    assert 20 < first_half < 43  # sorted draws would give 15.5


def test_transitions_are_those_of_the_storage() -> None:
    replay = memory()
    fill(replay, *range(5))
    batch = replay.sample(32, np.random.default_rng(0), gamma=0.5, n_step=2)
    last = batch.obs_B == 4
    expected = torch.where(last, batch.obs_B, batch.obs_B + 0.5 * (batch.obs_B + 1))
    torch.testing.assert_close(batch.return_B, expected.float())
    torch.testing.assert_close(batch.next_obs_B, torch.where(last, 5, batch.obs_B + 2))


# -------------------------------------------------------------------- state


def play(replay: PrioritizedReplay, rng: np.random.Generator, times: range) -> list[Any]:
    drawn = []
    for time in times:
        fill(replay, time)
        batch = replay.sample(8, rng, gamma=0.9, progress=0.5)
        drawn += [batch.index_B.tolist(), batch.weight_B.tolist()]
        replay.learnt(batch.index_B, rng.normal(size=8))
    return drawn


@pytest.mark.parametrize("before", [0, 3, 40])
def test_loaded_state_continues_bit_for_bit(before: int) -> None:
    straight, resumed = memory(capacity=16, num_envs=2), memory(capacity=16, num_envs=2)
    play(straight, np.random.default_rng(0), range(before))
    play(resumed, np.random.default_rng(1), range(25))
    fill(resumed, *range(25, 35))
    fill(straight, before, before + 1)
    resumed.load(copy.deepcopy(straight.state()))
    one, other = np.random.default_rng(2), np.random.default_rng(2)
    times = range(before + 2, before + 30)
    assert play(straight, one, times) == play(resumed, other, times)
    np.testing.assert_array_equal(straight._tree._node[1:], resumed._tree._node[1:])


def test_state_of_another_shape_is_refused() -> None:
    replay = memory()
    fill(replay, 0)
    state = replay.state()
    with pytest.raises(DataError, match=r"priority is float32\[2\], expected float64\[2\]"):
        memory().load({**state, "priority": state["priority"].astype(np.float32)})


def test_registered_replays_are_built_from_their_settings() -> None:
    box, discrete = spaces.Box(0, 1, (4,)), spaces.Discrete(2)
    uniform = Replay.build(read(ReplayConfig, {"capacity": 10}), box, discrete, 2)
    assert isinstance(uniform, Replay)
    config = read(PrioritizedConfig, {"capacity": 10, "alpha": 0.5, "beta0": 0.3})
    prioritized = PrioritizedReplay.build(config, box, discrete, 2)
    assert isinstance(prioritized, PrioritizedReplay)
    assert (prioritized.alpha, prioritized.beta0, prioritized.eps) == (0.5, 0.3, 1e-6)
    assert prioritized.max_steps == uniform.max_steps == 5
