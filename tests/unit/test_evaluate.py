from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rlzoo.core.algorithm import Memory, Reactive
from rlzoo.core.seeding import SELECT, TEST, TRAIN, episode_seed
from rlzoo.core.types import UsageError
from rlzoo.envs.episodes import RestoreClass
from rlzoo.envs.make import EnvConfig
from rlzoo.run.evaluate import (
    EvalConfig,
    Evaluation,
    Stopped,
    evaluate,
    film_episode,
    play_episodes,
    prepare_headless_drawing,
)
from rlzoo.run.statistics import bootstrap_interval
from rlzoo.run.strict import defaults, read


class Lottery(gymnasium.Env[np.ndarray, int]):
    """Episodes of 1 to 9 steps, length and rewards drawn from the episode's seed."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Discrete(3)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}  # noqa: RUF012
    live = 0
    picture: Any = None

    def __init__(self, render_mode: str | None = None) -> None:
        Lottery.live += 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 10))
        return self._obs(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.left -= 1
        reward = float(self.np_random.normal()) + action
        return self._obs(), reward, self.left == 0, False, {}

    def _obs(self) -> np.ndarray:
        return np.array([self.left, self.np_random.normal()])

    def render(self) -> Any:
        if isinstance(self.picture, Exception):
            raise self.picture
        return self.picture

    def close(self) -> None:
        Lottery.live -= 1


class Policy:
    """A deterministic policy that remembers how it was asked."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.explored = False

    def initial(self, num_envs: int) -> Memory:
        return ()

    def act(self, obs_B: np.ndarray, memory: Memory, *, explore: bool) -> tuple[np.ndarray, Memory]:
        self.batches.append(len(obs_B))
        self.explored |= explore
        return (obs_B[:, 1] > 0).astype(np.int64), memory


def play(act: Any, episodes: int, num_envs: int, purpose: str = TEST, **more: Any) -> Evaluation:
    more = {"restore": "replay", "run_seed": 3, **more}
    return play_episodes(
        act, Lottery, episodes=episodes, num_envs=num_envs, purpose=purpose, **more
    )


def scalar_reference(episodes: int, purpose: str) -> Evaluation:
    """One fresh env at a time, in the plainest of loops."""
    returns, lengths, seeds = [], [], []
    for k in range(episodes):
        seed = episode_seed(3, purpose, 0, k)
        env = Lottery()
        obs, _ = env.reset(seed=seed)
        total, length, over = 0.0, 0, False
        while not over:
            obs, reward, over, _, _ = env.step(int(obs[1] > 0))
            total, length = total + reward, length + 1
        env.close()
        returns.append(total)
        lengths.append(length)
        seeds.append(seed)
    return Evaluation(tuple(returns), tuple(lengths), tuple(seeds))


@pytest.mark.parametrize("num_envs", [1, 2, 5, 8, 64])
@pytest.mark.parametrize("restore", ["replay", "rebuild"])
def test_equals_a_scalar_loop_for_any_number_of_envs(num_envs: int, restore: str) -> None:
    policy = Policy()
    assert play(policy, 13, num_envs, restore=restore) == scalar_reference(13, TEST)
    assert not policy.explored
    assert Lottery.live == 0


def test_number_of_envs_would_matter_without_fixed_episode_seeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The negative control: an env that ignores the episode's seed is told apart."""
    monkeypatch.setattr(
        "rlzoo.envs.episodes.episode_seed", lambda *key: int(np.random.default_rng().integers(99))
    )
    assert play(Policy(), 13, 4).returns != scalar_reference(13, TEST).returns


def test_env_that_carries_something_over_a_reset() -> None:
    class Worn(Lottery):
        age = 0.0

        def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
            obs, reward, over, cut, info = super().step(action)
            self.age += 1
            return obs, reward + self.age, over, cut, info

    def returns(num_envs: int, restore: RestoreClass) -> tuple[float, ...]:
        return play_episodes(
            Policy(),
            Worn,
            restore=restore,
            episodes=9,
            num_envs=num_envs,
            run_seed=3,
            purpose=TEST,
        ).returns

    assert returns(1, "rebuild") == returns(4, "rebuild")
    assert returns(1, "replay") != returns(4, "replay")  # the negative control


@pytest.mark.parametrize("num_envs", [1, 4, 11])
def test_a_policy_is_asked_for_one_action_at_a_time(num_envs: int) -> None:
    policy = Policy()
    result = play(policy, 12, num_envs)
    assert policy.batches == [1] * sum(result.lengths)


def test_purposes_share_no_seed() -> None:
    seeds = [set(play(Policy(), 50, 5, purpose).seeds) for purpose in (SELECT, TEST, TRAIN)]
    assert [len(s) for s in seeds] == [50, 50, 50]
    assert not seeds[0] & seeds[1] and not seeds[0] & seeds[2] and not seeds[1] & seeds[2]


def test_stop_is_asked_for_every_step_and_envs_are_closed() -> None:
    policy = Policy()
    answers = iter([False] * 4 + [True])  # for the start of four episodes, and a first step
    with pytest.raises(Stopped):
        play(policy, 20, 4, stop=lambda: next(answers))
    assert policy.batches == [1]
    assert Lottery.live == 0


def test_numbers_by_hand() -> None:
    result = Evaluation((1.0, 2.0, 3.0, 6.0), (10, 20, 30, 40), (5, 6, 7, 8))
    assert result.mean == 3.0
    assert result.std == pytest.approx(np.sqrt(14 / 3))
    low, high = bootstrap_interval([1.0, 2.0, 3.0, 6.0])
    saved = json.loads(json.dumps(result.to_json()))
    assert saved["returns"] == [1.0, 2.0, 3.0, 6.0]
    assert saved["seeds"] == [5, 6, 7, 8]
    assert saved["return"]["median"] == 2.5
    assert saved["return"]["ci95"] == [low, high]
    assert saved["length"]["mean"] == 25.0
    assert result.describe() == (
        f"4 episodes: return 3 (95 % interval {low:.4g} to {high:.4g}), std 2.16, median 2.5"
    )
    header, _, returns, lengths, count = result.table().splitlines()
    assert header.split()[:2] == ["mean", "95"]
    assert returns.split()[:2] == ["return", "3"]
    assert lengths.split()[:2] == ["length", "25"]
    assert count == "4 episodes"


def test_config_reads_its_own_defaults_and_refuses_none() -> None:
    assert read(EvalConfig, defaults(EvalConfig)) == EvalConfig()
    with pytest.raises(ValueError, match=r"episodes: got 0, expected >= 1"):
        read(EvalConfig, {"episodes": 0})


def always(action: int) -> Reactive:
    return Reactive(lambda obs_B, explore: np.full(len(obs_B), action))


def test_cartpole_from_its_settings() -> None:
    config = EnvConfig(id="CartPole-v1", restore="replay")
    heard: list[int] = []
    one, many = (
        evaluate(
            always(1),
            config,
            episodes=6,
            num_envs=n,
            run_seed=0,
            purpose=SELECT,
            episode_over=lambda: heard.append(1),
        )
        for n in (1, 4)
    )
    assert one == many
    assert len(heard) == 12, "each of six episodes, twice"
    assert one.returns == tuple(map(float, one.lengths))
    assert all(8 <= length <= 12 for length in one.lengths)  # pushed to one side, it falls at once


def test_film_shows_the_same_episode_as_the_evaluation() -> None:
    config = EnvConfig(id="CartPole-v1", restore="replay")
    result = evaluate(always(1), config, episodes=3, num_envs=3, run_seed=0, purpose=TEST)
    frames, fps, return_ = film_episode(
        always(1), config, run_seed=0, purpose=TEST, episode_index=2
    )
    assert return_ == result.returns[2]
    assert frames.shape == (result.lengths[2] + 1, 400, 600, 3)
    assert frames.dtype == np.uint8
    assert fps == 50
    assert (frames[0] != frames[-1]).any()


def test_long_film_is_cut_but_the_return_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlzoo.run.evaluate.MAX_FRAMES", 3)
    config = EnvConfig(id="CartPole-v1", restore="replay")
    frames, _, return_ = film_episode(always(0), config, run_seed=0, purpose=TEST)
    assert len(frames) == 3
    assert return_ >= 8


def test_film_is_stopped() -> None:
    config = EnvConfig(id="CartPole-v1", restore="replay")
    with pytest.raises(Stopped):
        film_episode(always(0), config, run_seed=0, purpose=TEST, stop=lambda: True)


@pytest.mark.parametrize("picture", [None, "a text", np.zeros(3), RuntimeError("no screen")])
def test_env_that_cannot_draw(picture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = gymnasium.envs.registration.EnvSpec("Lottery-v0", Lottery)
    monkeypatch.setitem(gymnasium.registry, "Lottery-v0", spec)
    monkeypatch.setattr(Lottery, "picture", picture)
    config = EnvConfig(id="Lottery-v0", restore="replay")
    with pytest.raises(UsageError, match="cannot draw itself"):
        film_episode(always(0), config, run_seed=0, purpose=TEST)
    assert Lottery.live == 0


def test_headless_drawing_leaves_a_display_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    prepare_headless_drawing()
    assert "SDL_VIDEODRIVER" not in os.environ
    monkeypatch.setenv("DISPLAY", "")  # an empty name is no display
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    prepare_headless_drawing()
    assert os.environ["SDL_VIDEODRIVER"] == "dummy"
    monkeypatch.delenv("SDL_VIDEODRIVER")


def test_evaluation_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Evaluation((1.0,), (1,), (1,)).returns = ()  # type: ignore[misc]


class Remembering:
    """Counts the steps of each episode in its memory, and compares them with the env's own."""

    def __init__(self) -> None:
        self.first_left: dict[float, int] = {}
        self.longest = 0

    def initial(self, num_envs: int) -> Memory:
        return np.full(num_envs, -1.0), np.zeros(num_envs)  # steps left at first, steps taken

    def act(self, obs_B: np.ndarray, memory: Memory, *, explore: bool) -> tuple[np.ndarray, Memory]:
        assert not explore
        first_B, taken_B = memory
        first_B = np.where(first_B < 0, obs_B[:, 0], first_B)
        np.testing.assert_array_equal(first_B - taken_B, obs_B[:, 0])
        self.longest = max(self.longest, int(taken_B.max()))
        return np.zeros(len(obs_B), np.int64), (first_B, taken_B + 1)


@pytest.mark.parametrize("num_envs", [1, 3, 8])
def test_a_memory_belongs_to_its_episode(num_envs):
    policy = Remembering()
    play(policy, 20, num_envs)
    assert policy.longest == 8
