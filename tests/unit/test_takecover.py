"""Take Cover: the paper's actions, limit and difficulty, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import gymnasium
import numpy as np
import pytest

pytest.importorskip("vizdoom")
import yaml

import rlzoo
from rlzoo.envs.make import EnvConfig, make_env
from rlzoo.envs.zoo.frames import frames64
from rlzoo.envs.zoo.takecover import TakeCover
from rlzoo.run.strict import read

ROOT = Path(rlzoo.__file__).parents[1]


def episode(env, seed: int, actions) -> tuple[list[np.ndarray], list[float], bool]:
    """Screens (the first one too), rewards, and whether the player died."""
    screens, rewards, dead = [env.reset(seed=seed)[0]], [], False
    for action in actions:
        obs, reward, dead, truncated, _ = env.step(action)
        assert not truncated
        screens.append(obs)
        rewards.append(reward)
        if dead:
            break
    return screens, rewards, dead


def same(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    return len(left) == len(right) and all((a == b).all() for a, b in zip(left, right, strict=True))


def test_the_paper_s_actions_in_thirds() -> None:
    numbers = [-1.0, -0.34, 0.34, 1.0, -0.33, 0.0, 0.33] * 3
    thirds = [0, 0, 2, 2, 1, 1, 1] * 3
    continuous, discrete = TakeCover(), TakeCover(continuous=False)
    assert continuous.action_space.shape == (1,) and discrete.action_space.n == 3
    with_numbers = episode(continuous, 1, [np.array([a], np.float32) for a in numbers])
    with_thirds = episode(discrete, 1, thirds)
    assert same(with_numbers[0], with_thirds[0])
    other = episode(discrete, 1, [2 - third for third in thirds])
    assert not same(other[0], with_thirds[0])
    continuous.close()
    discrete.close()


@pytest.fixture(scope="module")
def env():
    env = TakeCover(continuous=False)
    yield env
    env.close()


def test_one_point_a_tic_until_death_and_no_black_screen(env: TakeCover) -> None:
    screens, rewards, dead = episode(env, 2, [1] * 2000)
    assert dead and set(rewards) == {1.0} and 20 < len(rewards) < 2000
    assert (screens[-1] == screens[-2]).all() and screens[-1].any()
    assert (screens[-2] != screens[-3]).any() and screens[0].shape == (240, 320, 3)


def test_an_episode_is_a_function_of_its_seed(env: TakeCover) -> None:
    actions = np.random.default_rng(0).integers(3, size=40).tolist()
    first = episode(env, 3, actions)
    assert not same(episode(env, 4, actions)[0], first[0])
    assert same(episode(env, 3, actions)[0], first[0])
    fresh = TakeCover(continuous=False)
    assert same(episode(fresh, 3, actions)[0], first[0])
    fresh.close()


def test_difficulty_and_status_bar(env: TakeCover) -> None:
    assert env._game.get_doom_skill() == 5
    env.reset(seed=0)
    assert env._screen[210:].std() > 2 * env._screen[150:200].std()  # figures, not floor
    easy = TakeCover(skill=1, resolution="160x120")
    assert easy._game.get_doom_skill() == 1
    assert easy.reset(seed=0)[0].shape == easy.observation_space.shape == (120, 160, 3)
    easy.close()


def test_the_preset_small_frames_and_the_time_limit() -> None:
    config = yaml.safe_load((ROOT / "conf" / "env" / "takecover.yaml").read_text())
    assert gymnasium.spec("TakeCover-v0").max_episode_steps == 2100
    small = make_env(
        read(EnvConfig, config | {"max_episode_steps": 12}, "env"), render_mode="rgb_array"
    )
    assert small.unwrapped._game.get_doom_skill() == 4  # what the paper's env played, too
    obs, _ = small.reset(seed=5)
    assert (obs == frames64(small.render()[None])[0]).all() and obs.shape == (64, 64, 3)
    ends = []
    for _ in range(12):  # the player can move from the eighth tic on
        before = obs
        obs, reward, terminated, truncated, _ = small.step(-np.ones(1, np.float32))
        ends.append((reward, terminated, truncated))
    assert ends == [(1.0, False, False)] * 11 + [(1.0, False, True)]
    assert (obs == frames64(small.render()[None])[0]).all() and (obs != before).any()
    small.close()


# --- what is left behind --------------------------------------------------------------------------

GAME = """
import os, sys
from rlzoo.envs.zoo import takecover
if {plain}:
    takecover.launcher = lambda directory: takecover.EXECUTABLE
env = takecover.TakeCover()
env.reset(seed=0)
threads = os.listdir("/proc/self/task")
print(*[open(f"/proc/self/task/{{thread}}/children").read() for thread in threads], flush=True)
sys.stdin.read()
env.close()
"""


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[Callable[[bool], int]]:
    """Start a process with an env in `tmp_path` and kill it: the process id of its game."""
    left_behind = []

    def start(plain: bool) -> int:
        process = subprocess.Popen(
            [sys.executable, "-c", GAME.format(plain=plain)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        game = int(process.stdout.readline())
        words = Path(f"/proc/{game}/cmdline").read_text().split("\0")
        left_behind.append((game, words[words.index("+viz_instance_id") + 1]))
        assert is_running(game)
        assert plain or os.getsid(game) != os.getsid(process.pid)  # a Ctrl-C does not reach it
        process.kill()
        process.wait()
        return game

    yield start
    for game, name in left_behind:
        with suppress(ProcessLookupError):
            os.kill(game, signal.SIGKILL)
        for file in Path("/dev/shm").glob(f"ViZDoom*{name}"):  # nobody was left to remove it
            file.unlink()


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@needs_proc
def test_a_killed_process_takes_its_game_with_it(killed, tmp_path: Path) -> None:
    game = killed(plain=False)
    assert wait_until(lambda: not is_running(game))
    assert list(tmp_path.iterdir()) == []


@needs_proc
def test_control_without_the_launcher_the_game_stays(killed, tmp_path: Path) -> None:
    game = killed(plain=True)
    assert not wait_until(lambda: not is_running(game), seconds=1.5)
    assert (tmp_path / "_vizdoom").exists()


def test_a_closed_env_leaves_nothing() -> None:
    env = TakeCover()
    directory = Path(env._directory.name)
    assert directory.exists()
    env.close()
    assert not directory.exists() and not env._game.is_running()
