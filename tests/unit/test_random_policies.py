"""Random policies: what they draw, and that they go on where they were saved."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from gymnasium import spaces

from rlzoo.algos.world_models.random_policies import (
    Brownian,
    Disturbed,
    ForcedStart,
    HeldUniform,
    OneControl,
    RandomNetworks,
    RandomPolicy,
    coarse,
    make_random_policy,
)
from rlzoo.core.algorithm import Memory
from rlzoo.core.seeding import numpy_generator

CAR = spaces.Box(np.array([-1, 0, 0], np.float32), np.ones(3, np.float32))
DOOM = spaces.Box(-1, 1, (1,), np.float32)
B = 40
PICTURES = np.random.default_rng(0).integers(0, 256, (30, B, 64, 64, 3)).astype(np.uint8)


class Counting:
    """Does the time's hundredth in each control, by what it remembers."""

    def initial(self, num_envs: int) -> Memory:
        return np.zeros((num_envs, 1), np.float32), np.zeros(num_envs, np.int64)

    def act(self, obs_B: np.ndarray, memory: Memory, *, explore: bool) -> tuple[np.ndarray, Memory]:
        time_B1, steps_B = memory
        assert not explore and len(obs_B) == len(time_B1) and (time_B1[:, 0] == steps_B).all()
        return np.repeat(time_B1, 3, axis=1) / 100, (time_B1 + 1, steps_B + 1)


MAKERS: dict[str, Callable[[np.random.Generator], RandomPolicy]] = {
    "held": lambda rng: HeldUniform(DOOM, rng),
    "brownian": lambda rng: Brownian(CAR, rng),
    "one_control": lambda rng: OneControl(CAR, rng),
    "networks": lambda rng: RandomNetworks(CAR, rng),
    "forced": lambda rng: ForcedStart(HeldUniform(CAR, rng), steps=7),
    "disturbed": lambda rng: Disturbed(CAR, rng, actor=Counting(), rate=0.3, longest=5),
}


def generator(seed: int = 0) -> np.random.Generator:
    return numpy_generator(seed, "collect")


def play(policy: RandomPolicy, steps: int, first: int = 0) -> np.ndarray:
    """Actions [steps, B, A]."""
    return np.stack([policy.act(PICTURES[(first + t) % len(PICTURES)]) for t in range(steps)])


def through_json(state):
    if isinstance(state, dict):
        return {key: through_json(value) for key, value in state.items()}
    return state.copy() if isinstance(state, np.ndarray) else json.loads(json.dumps(state))


@pytest.mark.parametrize("name", MAKERS)
def test_it_goes_on_where_it_was_saved_and_stays_in_the_space(name: str) -> None:
    policy, again = MAKERS[name](generator()), MAKERS[name](generator(1))
    for steps in (0, 4, 12):
        policy.reset(B)
        actions_TBA = play(policy, steps) if steps else np.zeros((0, B, 1))
        state = through_json(policy.state())
        expected_TBA = play(policy, 15, steps)
        space = DOOM if name == "held" else CAR
        assert all(space.contains(action_A) for action_BA in expected_TBA for action_A in action_BA)
        again.load(state)
        assert (play(again, 15, steps) == expected_TBA).all()
        again.load(state)
        again.rng = generator(1)
        if name == "forced":
            again.policy.rng = generator(1)
        changed = (play(again, 15, steps) != expected_TBA).any()
        assert changed != (name == "networks")  # these draw nothing within an episode
        assert steps == 0 or len(np.unique(actions_TBA[-1], axis=0)) > 1 or name == "forced"


@pytest.mark.parametrize("name", MAKERS)
def test_one_seed_one_sequence(name: str) -> None:
    def episodes(seed: int) -> np.ndarray:
        policy = MAKERS[name](generator(seed))
        played = []
        for _ in range(2):
            policy.reset(B)
            played.append(play(policy, 12))
        assert (played[0] != played[1]).any()
        return np.stack(played)

    first = episodes(0)
    kept = first.copy()
    assert (episodes(0) == first).all() and (episodes(1) != first).any()
    assert (first == kept).all()


@pytest.mark.parametrize("longest", [10, 5])
def test_held_actions_last_up_to_so_many_steps(longest: int) -> None:
    policy = make_random_policy("held", DOOM, generator(), held_steps=longest)
    policy.reset(B)
    actions_TB = play(policy, 500)[..., 0]
    lengths = []
    for actions_T in actions_TB.T:
        starts = np.flatnonzero(np.diff(actions_T)) + 1
        lengths += np.diff(starts).tolist()
    counts = np.bincount(lengths, minlength=longest + 1)
    assert len(counts) == longest + 1 and counts[0] == 0
    assert (abs(counts[1:] / len(lengths) - 1 / longest) < 0.03).all()
    assert abs(actions_TB.mean()) < 0.05 and abs((actions_TB < -1 / 3).mean() - 1 / 3) < 0.05


def test_brownian_steps_have_their_size() -> None:
    policy = Brownian(DOOM, generator(), dt=1e-4)
    policy.reset(2000)
    blank = np.zeros((2000, 1))
    actions_TB = np.stack([policy.act(blank)[:, 0] for _ in range(5)])
    inner = (abs(actions_TB) < 0.9).all(axis=0)
    assert np.diff(actions_TB[:, inner], axis=0).std() == pytest.approx(0.01, rel=0.05)
    assert Brownian(DOOM, generator()).step_size == pytest.approx(0.1414, abs=1e-4)
    wild = Brownian(CAR, generator(), dt=4.0)
    wild.reset(B)
    reached = play(wild, 30)
    assert (reached.min(axis=(0, 1)) == CAR.low).all()
    assert (reached.max(axis=(0, 1)) == CAR.high).all()


def test_one_control_at_a_time_with_the_walk_throughs_odds() -> None:
    policy = OneControl(CAR, generator())
    policy.reset(B)
    actions_TBA = play(policy, 1000)
    assert (np.count_nonzero(actions_TBA, axis=2) <= 1).all()
    assert (actions_TBA[::5] == actions_TBA[4::5]).all()
    assert (actions_TBA[0:-5:5] != actions_TBA[5::5]).any(axis=(1, 2)).all()
    steer, gas, brake = np.moveaxis(actions_TBA, 2, 0)
    odds = [(steer < 0).mean(), (steer > 0).mean(), (gas > 0).mean(), (brake > 0).mean()]
    assert odds == pytest.approx([0.3, 0.1, 0.4, 0.1], abs=0.02)
    assert gas[gas > 0].mean() == pytest.approx(0.5, abs=0.02)


def test_random_networks_see_remember_and_differ() -> None:
    policy = RandomNetworks(CAR, generator())
    policy.reset(B)
    first_BA = policy.act(PICTURES[0])
    assert len(np.unique(first_BA, axis=0)) == B
    state = policy.state()
    seen = [policy.act(PICTURES[1])]
    policy.load(state)
    seen.append(policy.act(PICTURES[2]))  # another picture
    policy.load(state | {"running": state["running"] | {"memory": state["running"]["memory"] + 1}})
    seen.append(policy.act(PICTURES[1]))  # another memory
    assert (seen[0] != seen[1]).any() and (seen[0] != seen[2]).any()

    still = RandomNetworks(CAR, generator(), largest=0.0)
    still.reset(B)
    assert np.allclose(still.act(PICTURES[0]), (0, 0.5, 0))  # steering 0, half gas, no brake


@pytest.mark.parametrize(("rate", "longest"), [(0.0, 5), (0.2, 5), (1.0, 1)])
def test_disturbances_come_at_their_rate_and_pass(rate: float, longest: int) -> None:
    policy = Disturbed(CAR, generator(), actor=Counting(), rate=rate, longest=longest)
    policy.reset(B)
    actions_TBA = play(policy, 100)
    own_T = np.arange(100, dtype=np.float32) / 100
    is_own_TB = (actions_TBA == own_T[:, None, None]).all(axis=2)
    # A step of its own is followed by a disturbance at the rate; that lasts 3 steps on average.
    lasts = (longest + 1) / 2
    assert abs(is_own_TB.mean() - (1 - rate) / (1 - rate + rate * lasts)) < 0.04
    begins_TB = is_own_TB[:-1] & ~is_own_TB[1:]
    held_TB = ~is_own_TB[:-1] & (actions_TBA[:-1] == actions_TBA[1:]).all(axis=2)
    assert begins_TB.any() == (0 < rate < 1) and held_TB.any() == (longest > 1 and rate > 0)


def test_coarse_pictures() -> None:
    picture = np.zeros((1, 16, 32, 3), np.uint8)
    picture[0, 1, 2] = (255, 51, 0)  # the middle of the first of 8 x 8 fields
    picture[0, 2, 2] = 255  # a pixel that is not picked
    x_B1X = coarse(picture, 8)
    assert x_B1X.shape == (1, 1, 192) and x_B1X[0, 0, :4].tolist() == pytest.approx([1, 0.2, 0, 0])
    assert np.count_nonzero(x_B1X) == 2


def test_a_forced_start_and_then_the_policy_itself() -> None:
    forced, plain = ForcedStart(Brownian(CAR, generator())), Brownian(CAR, generator())
    forced.reset(B)
    plain.reset(B)
    actions_TBA = play(forced, 70)
    assert (actions_TBA[:60] == (0, 1, 0)).all()
    assert (actions_TBA[60:] == play(plain, 10)).all()
    forced.reset(B)
    assert (forced.act(PICTURES[0]) == (0, 1, 0)).all()
