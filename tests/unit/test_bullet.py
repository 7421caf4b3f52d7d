"""The PyBullet envs: the originals to the bit, quiet, repeatable, drawn whatever else is open."""

from __future__ import annotations

import ctypes
import importlib
import subprocess
import sys
from ctypes.util import find_library

import gymnasium
import numpy as np
import pytest

from rlzoo.core.types import EnvError, UsageError
from rlzoo.envs.make import EnvConfig, find_spec, make_env, make_vector

pybullet = pytest.importorskip("pybullet")
pytest.importorskip("pybullet_envs_gymnasium")

from rlzoo.envs.zoo import bullet  # noqa: E402 (not without the packages)

WALKERS = ("Hopper", "Walker2D", "HalfCheetah", "Ant")
LOCOMOTION = "pybullet_envs_gymnasium.gym_locomotion_envs"


def config(name: str) -> EnvConfig:
    return EnvConfig(id=f"rlzoo.envs.zoo.bullet:{name}BulletEnv-v0")


def original(name: str, module: str = LOCOMOTION) -> gymnasium.Env:
    return getattr(importlib.import_module(module), f"{name}BulletEnv")()


def played(env: gymnasium.Env, steps: int = 250, longest: int = 60) -> list[tuple]:
    """Everything that episodes of random actions show; then the env is closed."""
    rng = np.random.default_rng(0)
    shown: list[tuple] = []
    length = longest
    for k in range(steps):
        if length == longest:
            obs, _ = env.reset(seed=k)
            shown.append((obs.tobytes(), obs.dtype))
            length = 0
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        obs, reward, terminated, truncated, _ = env.step(action)
        shown.append((obs.tobytes(), obs.dtype, reward, terminated, truncated))
        length = longest if terminated else length + 1
    env.close()
    return shown


# As the originals ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WALKERS)
def test_walkers_play_as_the_originals(name: str) -> None:
    ours = make_env(config(name)).unwrapped
    assert isinstance(ours, bullet.FastWalkerEnv)
    assert played(ours) == played(original(name))


def test_a_sum_in_another_order_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = played(original("Hopper"))
    monkeypatch.setattr(bullet, "mean", lambda x: np.add.reduce(x[::-1]) / len(x))
    assert played(make_env(config("Hopper")).unwrapped) != expected


def test_other_envs_play_as_the_originals() -> None:
    ours = make_env(config("InvertedPendulum")).unwrapped
    module = "pybullet_envs_gymnasium.gym_pendulum_envs"
    assert played(ours) == played(original("InvertedPendulum", module))


@pytest.mark.slow
@pytest.mark.parametrize("name", WALKERS)
def test_walkers_play_as_the_originals_for_long(name: str) -> None:
    ours = make_env(config(name)).unwrapped
    assert played(ours, 20_000, 1000) == played(original(name), 20_000, 1000)


def test_an_action_that_is_no_number_is_refused_as_by_the_original() -> None:
    for env in (make_env(config("Hopper")).unwrapped, original("Hopper")):
        env.reset(seed=0)
        with pytest.raises(AssertionError):
            env.step(np.array([0, np.nan, 0], np.float32))
        env.close()


# Quiet -----------------------------------------------------------------------------------------

PLAY = """
import gymnasium
env = gymnasium.make("{module}:HopperBulletEnv-v0", render_mode="rgb_array")
env.reset(seed=0)
env.step(env.action_space.sample())
env.render()
"""


def test_nothing_is_printed_and_no_warning_given() -> None:
    done = {}
    for module in ("rlzoo.envs.zoo.bullet", "pybullet_envs_gymnasium"):
        command = [sys.executable, "-W", "error", "-c", PLAY.format(module=module)]
        done[module] = subprocess.run(command, capture_output=True, text=True, check=True)
    ours, theirs = done.values()
    assert "argv[0]=" in theirs.stdout
    assert ours.stdout == ""
    # pybullet itself says this, when it is imported.
    assert [line for line in ours.stderr.splitlines() if "build time" not in line] == []


def test_workers_play_the_same_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    shown = []
    for backend in ("sync", "process"):
        env_config = EnvConfig(id=config("Hopper").id, backend=backend, workers=2, restore="settle")
        vector = make_vector(env_config, run_seed=3, num_envs=2)
        rng = np.random.default_rng(0)
        steps = []
        for _ in range(40):
            step = vector.step(rng.uniform(-1, 1, (2, 3)).astype(np.float32))
            steps.append([a.tobytes() for a in (*step, vector.obs_B)])
        vector.close()
        shown.append(steps)
    assert shown[0] == shown[1]
    ctypes.CDLL(None).fflush(None)  # C keeps what it prints to a file or a pipe for a while
    assert capfd.readouterr().out == ""


def test_output_of_the_original_would_be_seen_here(capfd: pytest.CaptureFixture[str]) -> None:
    env = original("Hopper")
    env.reset(seed=0)
    env.close()
    ctypes.CDLL(None).fflush(None)
    assert "argv[0]=" in capfd.readouterr().out


# Repeatable ------------------------------------------------------------------------------------


def settled(name: str, resets: int = 1, render_mode: str | None = None) -> gymnasium.Env:
    env = make_env(config(name), render_mode=render_mode)
    for seed in range(resets):
        env.reset(seed=10_000 + seed)
    return env


def episode(env: gymnasium.Env, seed: int, actions: np.ndarray, draw_every: int = 0) -> list[tuple]:
    """What an episode shows under these actions, at most up to its end."""
    obs, _ = env.reset(seed=seed)
    shown: list[tuple] = [(obs.tobytes(),)]
    for t, action in enumerate(actions, start=1):
        obs, reward, terminated, truncated, _ = env.step(action)
        shown.append((obs.tobytes(), reward, terminated, truncated))
        if draw_every and t % draw_every == 0:
            env.render()
        if terminated or truncated:
            break
    return shown


def check_repeatable(name: str, actions_of_episodes: list[np.ndarray], draw_every: int) -> None:
    """Episodes of one instance, which draws, are the same in fresh ones and in any order."""
    used = settled(name, render_mode="rgb_array")
    expected = [episode(used, k, a, draw_every) for k, a in enumerate(actions_of_episodes)]
    other = settled(name, resets=3)
    for k in reversed(range(len(expected))):
        actions = actions_of_episodes[k]
        fresh = settled(name)
        assert episode(fresh, k, actions) == expected[k]
        fresh.close()
        episode(other, 77, actions[: k % 5])  # broken off
        assert episode(other, k, actions) == expected[k]
    used.close()
    other.close()


@pytest.mark.parametrize("name", WALKERS)
def test_after_one_reset_an_episode_is_a_function_of_its_seed(name: str) -> None:
    rng = np.random.default_rng(0)
    size = make_env(config(name)).action_space.shape
    check_repeatable(name, [rng.uniform(-1, 1, (50, *size)).astype("f4") for _ in range(5)], 23)


@pytest.mark.parametrize("name", WALKERS)
def test_the_first_episode_of_an_instance_is_another_one(name: str) -> None:
    actions = np.zeros((20, *make_env(config(name)).action_space.shape), np.float32)
    fresh, used = settled(name, resets=0), settled(name)
    assert episode(fresh, 0, actions) != episode(used, 0, actions)
    assert episode(fresh, 0, actions) == episode(used, 0, actions)
    assert episode(fresh, 1, actions) != episode(used, 0, actions)


@pytest.mark.slow
@pytest.mark.parametrize("name", WALKERS)
def test_long_episodes_are_functions_of_their_seeds(name: str) -> None:
    """Up to 1,000 steps of the wheel's experts, some of them far from their best."""
    from rlzoo.demonstrations.experts import load_expert

    expert, rng = load_expert(f"{name}BulletEnv-v0"), np.random.default_rng(0)
    env, episodes = settled(name), []
    for k in range(12):
        noise = (0.0, 0.1, 0.3, 3.0)[k % 4]
        obs, _ = env.reset(seed=k)
        actions, over = [], False
        while not over:
            action = expert.act(obs[None], explore=False)[0] + noise * rng.normal(
                size=expert.num_actions
            )
            actions.append(np.clip(action, -1, 1).astype(np.float32))
            obs, _, terminated, truncated, _ = env.step(actions[-1])
            over = terminated or truncated
        episodes.append(np.array(actions))
    env.close()
    # The expert for the walker was trained in another simulator, and falls soon.
    assert max(map(len, episodes)) >= (60 if name == "Walker2D" else 1000)
    check_repeatable(name, episodes, 211)


# Drawing ---------------------------------------------------------------------------------------


def test_drawing_asks_nothing_of_other_simulations(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(**_: int) -> None:
        raise pybullet.error("Not connected to physics server.")

    # What it does where client 0 is closed, whichever client is asked about.
    monkeypatch.setattr(pybullet, "getDebugVisualizerCamera", gone)
    drawn = {}
    for env in (make_env(config("Ant"), render_mode="rgb_array"), original("Ant")):
        env.unwrapped.render_mode = "rgb_array"
        env.reset(seed=0)
        try:
            drawn[type(env.unwrapped).__module__] = env.render()
        except pybullet.error:
            drawn[type(env.unwrapped).__module__] = None
        env.close()
    assert drawn[LOCOMOTION] is None
    frame = drawn["rlzoo.envs.zoo.bullet"]
    assert frame.shape == (240, 320, 3) and frame.dtype == np.uint8 and frame.std() > 10


@pytest.mark.parametrize("display", ["", ":4711"])  # none, and one that is gone
def test_without_a_display_a_window_is_an_error(
    display: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if display and find_library("X11") is None:
        pytest.skip("needs libX11")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", display)
    env = make_env(config("Hopper"), render_mode="human")
    with pytest.raises(RuntimeError, match="needs an X display"):
        env.reset(seed=0)


# Names -----------------------------------------------------------------------------------------


def test_a_misspelt_id_gets_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="Did you mean 'HopperBulletEnv-v0'"):
        find_spec("rlzoo.envs.zoo.bullet:HoperBulletEnv-v0")


def test_every_original_id_makes_an_env_of_ours() -> None:
    specs = [s for s in gymnasium.registry.values() if "BulletEnv-v0" in s.id]
    assert len(specs) >= 11
    for spec in specs:
        assert spec.entry_point.startswith("rlzoo.envs.")
        assert spec.max_episode_steps in (100, 150, 1000)


@pytest.mark.parametrize("package", ["pybullet", "pybullet_envs_gymnasium.env_bases"])
def test_a_missing_package_is_one_line(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "rlzoo.envs.zoo.bullet")
    monkeypatch.delattr("rlzoo.envs.zoo.bullet")
    with pytest.raises(UsageError, match=r"tools/setup\.sh bullet") as caught:
        find_spec("rlzoo.envs.zoo.bullet:HopperBulletEnv-v0")
    assert "\n" not in str(caught.value) and package in str(caught.value)


def test_an_env_that_cannot_start_is_an_env_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(mode: int) -> int:
        raise pybullet.error("no")

    monkeypatch.setattr(pybullet, "connect", refuse)
    with pytest.raises(EnvError, match="error: no"):
        make_vector(EnvConfig(id=config("Hopper").id, restore="settle"), run_seed=0)
