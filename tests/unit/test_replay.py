"""Replay against a naive memory: lists of whole transitions, n-step returns by brute force."""

from __future__ import annotations

import copy
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from hypothesis import given, settings
from hypothesis import strategies as st

from rlzoo.core.types import DataError, Step, UsageError
from rlzoo.data.collector import Transition
from rlzoo.data.replay import Batch, Replay

GAMMA = 0.9


def held(replay: Replay) -> np.ndarray:
    """The cells with a transition, from the oldest on."""
    first = replay.oldest * replay.num_envs
    return np.arange(first, first + len(replay)) % (replay.num_rows * replay.num_envs)


class Episodes:
    """Envs whose frames are all different, with random rewards and both kinds of ends.

    Remembers every transition in full: `history[t][env]`.
    """

    def __init__(self, seed: int, num_envs: int, frame_stack: int, end_chance: float = 0.25):
        self.rng = np.random.default_rng(seed)
        self.num_envs, self.end_chance = num_envs, end_chance
        self.depth = max(frame_stack, 1)
        self.stacked = frame_stack > 0
        self.frames = 0
        self.stacks: list[deque[np.ndarray]] = [deque() for _ in range(num_envs)]
        self.history: list[list[dict[str, Any]]] = []
        for env in range(num_envs):
            self.reset(env)
        for _ in range(int(self.rng.integers(4))):  # the memory may begin inside an episode
            for env in range(num_envs):
                self.push(env)

    def space(self) -> spaces.Box:
        shape = (self.depth, 2, 1) if self.stacked else (2, 1)
        return spaces.Box(-(2**30), 2**30, shape, np.int32)

    def frame(self) -> np.ndarray:
        self.frames += 1
        return np.array([[self.frames], [-self.frames]], np.int32)

    def reset(self, env: int) -> None:
        self.stacks[env] = deque([self.frame()] * self.depth, maxlen=self.depth)

    def push(self, env: int) -> None:
        self.stacks[env].append(self.frame())

    def obs(self, env: int) -> np.ndarray:
        return np.stack(self.stacks[env]) if self.stacked else self.stacks[env][-1]

    def add_to(self, *replays: Any) -> None:
        row = [self.one_step(env) for env in range(self.num_envs)]
        self.history.append(row)
        column = {name: np.stack([cell[name] for cell in row]) for name in row[0]}
        step = Step(column["next"], column["reward"], column["terminated"], column["truncated"])
        for replay in replays:
            replay.add(Transition(column["obs"], column["action"], step))

    def one_step(self, env: int) -> dict[str, Any]:
        obs = self.obs(env)
        self.push(env)
        terminated, truncated = self.rng.random(2) < self.end_chance
        cell = {
            "obs": obs,
            "action": self.rng.integers(5),
            "reward": self.rng.normal(),
            "terminated": terminated,
            "truncated": truncated,
            "next": self.obs(env),
        }
        if terminated or truncated:
            self.reset(env)
        return cell

    def ended(self) -> np.ndarray:
        return np.array([cell["terminated"] or cell["truncated"] for cell in self.history[-1]])

    def expected(self, t: int, env: int, n_step: int) -> dict[str, Any]:
        """The n-step transition that starts at step t, from the definition."""
        first = last = self.history[t][env]
        return_, steps = 0.0, 0
        for row in self.history[t : t + n_step]:
            last = row[env]
            return_ += GAMMA**steps * last["reward"]
            steps += 1
            if last["terminated"] or last["truncated"]:
                break
        discount = 0.0 if last["terminated"] else GAMMA**steps
        return {**first, "return": return_, "discount": discount, "next": last["next"]}

    def replay(self, max_steps: int) -> Replay:
        return Replay(
            self.space(),
            spaces.Discrete(5),
            self.num_envs,
            capacity=max_steps * self.num_envs,
            frame_stack=self.depth if self.stacked else 0,
        )


def check_all(replay: Replay, episodes: Episodes, n_step: int) -> None:
    """Each transition that the memory holds is what the naive memory has at its place."""
    kept = min(replay.max_steps, len(episodes.history))
    assert len(replay) == kept * episodes.num_envs
    cells = held(replay)
    batch = replay.gather(cells, replay._ones_B, gamma=GAMMA, n_step=n_step)
    start = len(episodes.history) - kept
    for i in range(len(cells)):
        t, env = divmod(i, episodes.num_envs)
        check_one(batch, i, episodes.expected(start + t, env, n_step))


def check_one(batch: Batch, i: int, expected: dict[str, Any]) -> None:
    np.testing.assert_array_equal(batch.obs_B[i], expected["obs"])
    assert batch.action_B[i] == expected["action"]
    assert float(batch.return_B[i]) == pytest.approx(expected["return"], abs=1e-5)
    assert float(batch.discount_B[i]) == pytest.approx(expected["discount"], abs=1e-6)
    np.testing.assert_array_equal(batch.next_obs_B[i], expected["next"])


SHAPES = {
    "seed": st.integers(0, 10_000),
    "num_envs": st.integers(1, 3),
    "frame_stack": st.integers(0, 4),
    "max_steps": st.integers(1, 9),
    "n_step": st.integers(1, 4),
}


@settings(max_examples=100, deadline=None)
@given(**SHAPES, length=st.integers(1, 50))
def test_equals_the_naive_memory(
    seed: int, num_envs: int, frame_stack: int, max_steps: int, n_step: int, length: int
) -> None:
    episodes = Episodes(seed, num_envs, frame_stack)
    replay = episodes.replay(max_steps)
    for t in range(length):
        episodes.add_to(replay)
        if t % 7 == 0:
            check_all(replay, episodes, n_step)
    check_all(replay, episodes, n_step)


@settings(max_examples=30, deadline=None)
@given(**SHAPES, before=st.integers(0, 25))
def test_sample_draws_what_is_held(
    seed: int, num_envs: int, frame_stack: int, max_steps: int, n_step: int, before: int
) -> None:
    episodes = Episodes(seed, num_envs, frame_stack)
    replay = episodes.replay(max_steps)
    for _ in range(before + 1):
        episodes.add_to(replay)
    batch = replay.sample(16, np.random.default_rng(seed), gamma=GAMMA, n_step=n_step)
    assert np.isin(batch.index_B, held(replay)).all()
    start = len(episodes.history) - replay.steps
    order = held(replay).tolist()
    for i, cell in enumerate(batch.index_B):
        t, env = divmod(order.index(cell), num_envs)
        check_one(batch, i, episodes.expected(start + t, env, n_step))
    assert batch.weight_B.tolist() == [1.0] * 16


def test_stacks_in_a_long_episode() -> None:
    episodes = Episodes(0, 1, frame_stack=3, end_chance=0.0)
    replay = episodes.replay(400)
    for _ in range(300):  # more than a byte can count
        episodes.add_to(replay)
    check_all(replay, episodes, n_step=1)


FAULTS = {
    "truncation taken for termination": lambda r: r._terminated.__ior__(r._truncated),
    "termination forgotten": lambda r: r._terminated.fill(False),
    "next row taken across an episode's end": lambda r: r._slot.fill(0),
    "stack reaches into the episode before": lambda r: r._age.fill(2),
    "stack repeats its newest frame": lambda r: r._age.fill(0),
    "write head ignored": lambda r: setattr(r, "head", (r.head + 1) % r.num_rows),
    "reward of another step": lambda r: r._reward.__setitem__(slice(None), r._reward[::-1]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_seen(fault: str) -> None:
    episodes = Episodes(1, 2, frame_stack=3)
    replay = episodes.replay(9)
    for _ in range(30):
        episodes.add_to(replay)
    check_all(replay, episodes, n_step=3)
    FAULTS[fault](replay)
    with pytest.raises(AssertionError):
        check_all(replay, episodes, n_step=3)


@pytest.mark.parametrize("frame_stack", [1, 4])
def test_frame_stacks_equal_gymnasiums(frame_stack: int) -> None:
    class Camera(gym.Env):
        observation_space = spaces.Box(0, 255, (3, 2), np.uint8)
        action_space = spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action: int) -> Any:
            end = self.np_random.random() < 0.2
            return self.observation_space.sample(), 1.0, end, False, {}

    env = FrameStackObservation(Camera(), frame_stack)
    replay = Replay(
        env.observation_space, env.action_space, 1, capacity=20, frame_stack=frame_stack
    )
    obs, _ = env.reset(seed=0)
    seen = []
    for _ in range(70):
        next_obs, reward, terminated, truncated, _ = env.step(0)
        ends = np.array([terminated]), np.array([truncated])
        step = Step(next_obs[None], np.array([reward]), *ends)
        replay.add(Transition(obs[None], np.zeros(1, int), step))
        seen.append((obs, next_obs))
        obs = env.reset()[0] if terminated else next_obs
    cells = held(replay)
    batch = replay.gather(cells, replay._ones_B, gamma=GAMMA, n_step=1)
    assert batch.obs_B.numpy().dtype == np.uint8
    np.testing.assert_array_equal(batch.obs_B, np.stack([before for before, _ in seen[-20:]]))
    np.testing.assert_array_equal(batch.next_obs_B, np.stack([after for _, after in seen[-20:]]))


@settings(max_examples=30, deadline=None)
@given(**SHAPES, before=st.integers(0, 30), after=st.integers(0, 30))
def test_loaded_state_continues_bit_for_bit(
    seed: int,
    num_envs: int,
    frame_stack: int,
    max_steps: int,
    n_step: int,
    before: int,
    after: int,
) -> None:
    episodes = Episodes(seed, num_envs, frame_stack)
    straight, resumed = episodes.replay(max_steps), episodes.replay(max_steps)
    other = Episodes(seed + 1, num_envs, frame_stack)
    for _ in range(seed % 20):  # loading must also clear what was there
        other.add_to(resumed)
    for _ in range(before):
        episodes.add_to(straight)
    resumed.load(copy.deepcopy(straight.state()))
    for _ in range(after):
        episodes.add_to(straight, resumed)
    assert_same_state(straight.state(), resumed.state())
    check_all(resumed, episodes, n_step)


def assert_same_state(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, leaf in one.items():
        np.testing.assert_array_equal(leaf, other[name], err_msg=name, strict=True)


def test_state_holds_only_what_was_written() -> None:
    episodes = Episodes(0, 2, frame_stack=0)
    replay = episodes.replay(1000)
    for _ in range(10):
        episodes.add_to(replay)
    assert len(replay.state()["obs"]) == 11  # ten rows and the newest next observations


def test_state_of_another_shape_is_refused() -> None:
    episodes = Episodes(0, 2, frame_stack=0)
    replay = episodes.replay(10)
    episodes.add_to(replay)
    with pytest.raises(DataError, match="got 11 rows, expected 21"):
        episodes.replay(20).load(replay.state())
    with pytest.raises(
        DataError, match=r"obs is int32\[2, 2, 2, 1\], expected int32\[2, 1, 2, 1\]"
    ):
        Episodes(0, 1, frame_stack=0).replay(10).load(replay.state())


@pytest.mark.parametrize("frame_stack", [0, 3])
def test_env_restarted_by_a_resume_ends_its_episode(frame_stack: int) -> None:
    episodes = Episodes(3, 3, frame_stack, end_chance=0.1)
    replay = episodes.replay(10)
    while episodes.history[-1:] == [] or episodes.ended().tolist() != [False, False, True]:
        episodes.add_to(replay)
    resumed = episodes.replay(10)
    resumed.load(copy.deepcopy(replay.state()))
    episodes.reset(0)
    episodes.history[-1][0]["truncated"] = True
    for _ in range(4):
        episodes.add_to(resumed)
    check_all(resumed, episodes, n_step=3)


def test_slots_of_final_observations_are_recycled() -> None:
    episodes = Episodes(0, 2, frame_stack=0, end_chance=0.2)
    replay = episodes.replay(20)
    for _ in range(400):
        episodes.add_to(replay)
    assert len(replay._final_obs) <= 64  # at most 42 cells can hold the end of an episode


def test_uniform_draws_each_transition_equally_often() -> None:
    episodes = Episodes(0, 2, frame_stack=0)
    replay = episodes.replay(10)
    for _ in range(17):
        episodes.add_to(replay)
    batch = replay.sample(20_000, np.random.default_rng(0), gamma=GAMMA)
    counts = np.bincount(batch.index_B, minlength=22)
    assert np.count_nonzero(counts) == 20
    chi_square = ((counts[counts > 0] - 1000) ** 2 / 1000).sum()
    assert chi_square < 43.8  # 0.1% of fair samplers exceed this (19 degrees of freedom)


def test_atari_frames_are_stored_once() -> None:
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)

    def nbytes(capacity: int) -> int:
        replay = Replay(space, spaces.Discrete(4), 1, capacity=capacity, frame_stack=4)
        arrays = [value for value in vars(replay).values() if isinstance(value, np.ndarray)]
        return sum(array.nbytes for array in arrays if array.base is None)

    million = (nbytes(2000) - nbytes(1000)) * 1000
    assert 7.05e9 < million < 7.08e9


@pytest.mark.parametrize(
    ("space", "dtype"),
    [
        (spaces.Discrete(7), np.int64),
        (spaces.MultiDiscrete([3, 4]), np.int64),
        (spaces.Box(-1, 1, (3,)), np.float32),
        (spaces.Box(-1, 1, (3,), np.float64), np.float64),
        (spaces.MultiBinary(3), np.int8),
    ],
)
def test_dtypes_are_kept(space: spaces.Space, dtype: type) -> None:
    replay = Replay(space, spaces.Box(-1, 1, (2,)), 1, capacity=3)
    obs_B, action_B = np.asarray(space.sample())[None], np.ones((1, 2), np.float32)
    false_B = np.zeros(1, bool)
    replay.add(Transition(obs_B, action_B, Step(obs_B, np.ones(1), false_B, false_B)))
    batch = replay.sample(4, np.random.default_rng(0), gamma=GAMMA)
    assert batch.obs_B.numpy().dtype == batch.next_obs_B.numpy().dtype == dtype
    assert batch.action_B.shape == (4, 2)
    np.testing.assert_array_equal(batch.obs_B[0], obs_B[0])


def add(replay: Replay, obs_B: Any, action_B: Any, next_obs_B: Any) -> None:
    false_B = np.zeros(len(obs_B), bool)
    step = Step(next_obs_B, np.ones(len(obs_B)), false_B, false_B)
    replay.add(Transition(obs_B, action_B, step))


def test_arrays_that_do_not_fit_are_refused_at_any_time() -> None:
    replay = Replay(spaces.Discrete(5), spaces.Discrete(2), 2, capacity=10)
    whole, half = np.array([1, 2]), np.array([1.5, 2.5])
    for _ in range(2):
        with pytest.raises(UsageError, match=r"observations float64\[2\], expected int64\[2\]"):
            add(replay, half, whole, whole)
        with pytest.raises(UsageError, match=r"next observations float64\[2\]"):
            add(replay, whole, whole, half)
        with pytest.raises(UsageError, match=r"actions int64\[2, 1\], expected int64\[2\]"):
            add(replay, whole, whole[:, None], whole)
        add(replay, whole, whole, whole)
    assert len(replay) == 4


def test_settings_that_do_not_fit_are_refused() -> None:
    box, discrete = spaces.Box(0, 1, (4,)), spaces.Discrete(2)
    with pytest.raises(UsageError, match="capacity: got 3, expected >= 4"):
        Replay(box, discrete, 4, capacity=3)
    with pytest.raises(UsageError, match=r"capacity: got .* too large"):
        Replay(box, discrete, 1, capacity=10**15)
    with pytest.raises(UsageError, match="observation space Dict"):
        Replay(spaces.Dict(a=box), discrete, 1, capacity=10)
    with pytest.raises(UsageError, match=r"frame_stack: got 3 for observations of shape \(4,\)"):
        Replay(box, discrete, 1, capacity=10, frame_stack=3)


def test_stacks_in_another_order_are_refused() -> None:
    space = spaces.Box(0, 255, (3, 2), np.uint8)
    action_B = np.zeros(1, int)
    stack = np.arange(8, dtype=np.uint8).reshape(4, 2)
    with pytest.raises(UsageError, match="oldest first"):
        replay = Replay(space, spaces.Discrete(2), 1, capacity=9, frame_stack=3)
        add(replay, stack[None, 1:], action_B, stack[None, :3])


def test_stacks_padded_with_zeros_are_refused() -> None:
    space = spaces.Box(0, 255, (3, 2), np.uint8)
    replay = Replay(space, spaces.Discrete(2), 1, capacity=9, frame_stack=3)
    stack = np.arange(8, dtype=np.uint8).reshape(4, 2)[None]
    action_B, end_B = np.zeros(1, int), np.ones(1, bool)
    step = Step(stack[:, 1:], np.ones(1), end_B, ~end_B)
    replay.add(Transition(stack[:, :3], action_B, step))
    first = np.zeros((1, 3, 2), np.uint8)
    first[:, -1] = 7
    with pytest.raises(UsageError, match="padded with the first frame"):
        add(replay, first, action_B, first)
