"""Every env preset whose package is there: sound, restored as its file says, stepped as it should.

The observations, rewards, ends and final observations that a collector stores are those of a plain
loop over gymnasium's own envs.
"""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import yaml
from gymnasium.utils.env_checker import check_env

import rlzoo
from rlzoo.core.seeding import TRAIN, episode_seed
from rlzoo.core.types import Step
from rlzoo.data.collector import Collector
from rlzoo.envs.make import EnvConfig, find_spec, make_env, make_vector
from rlzoo.envs.restore import probe_restore
from rlzoo.envs.sync import SyncVectorEnv
from rlzoo.run.strict import read

FILES = sorted((Path(rlzoo.__file__).parents[1] / "conf" / "env").glob("*.yaml"))
PRESETS = [path.stem for path in FILES if path.stem != "gym"]
# Presets that need what not every installation has, by a part of their names.
PACKAGES = {
    "_bullet": "pybullet_envs_gymnasium",
    "hopper11": "pybullet",
    "_mujoco": "mujoco",
    "takecover": "vizdoom",
    "_envpool": "envpool",
}
SLOW = ("car_racing", "takecover")  # their resets take a good part of a second
NUM_ENVS = 3


def preset(name: str, **changes: int) -> EnvConfig:
    for part, package in PACKAGES.items():
        if part in name:
            pytest.importorskip(package)
    if "_mujoco" in name:
        pytest.importorskip("imageio")  # gymnasium imports it for MuJoCo's sake
    [path] = [path for path in FILES if path.stem == name]
    return read(EnvConfig, yaml.safe_load(path.read_text()) | changes, "env")


def short(name: str) -> EnvConfig:
    """The preset with episodes of few env steps."""
    return preset(name, max_episode_steps=8 if name.startswith(SLOW) else 50)


@pytest.mark.parametrize("name", PRESETS)
def test_gymnasiums_checker_passes(name: str) -> None:
    env = make_env(short(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on wrappers and on infinite bounds
        check_env(env, skip_render_check=True)


def test_the_checker_would_object() -> None:
    class OutOfBounds(gymnasium.ObservationWrapper):
        def observation(self, observation: np.ndarray) -> np.ndarray:
            return observation + 100

    env = OutOfBounds(make_env(short("cartpole")))
    with warnings.catch_warnings(), pytest.raises(AssertionError, match="observation"):
        warnings.simplefilter("ignore")
        check_env(env, skip_render_check=True)


@pytest.mark.parametrize("name", PRESETS)
def test_episodes_end(name: str) -> None:
    config = preset(name)
    assert config.max_episode_steps or find_spec(config.id).max_episode_steps


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n.startswith(SLOW) else n for n in PRESETS],
)
def test_the_restore_class_is_the_one_found_by_experiment(name: str) -> None:
    config = preset(name)
    assert probe_restore(partial(make_env, config), 0) == config.restore


class ScalarLoop:
    """Plain gymnasium envs, each stepped and reset by hand, under our seeds of episodes."""

    def __init__(self, config: EnvConfig) -> None:
        arguments = dict(max_episode_steps=config.max_episode_steps, **(config.kwargs or {}))
        self.envs = [gymnasium.make(config.id, **arguments) for _ in range(NUM_ENVS)]
        if config.restore == "settle":
            for env in self.envs:
                env.reset(seed=1)
        else:
            assert config.restore == "replay"
        self.episode = [0] * NUM_ENVS
        self.rewards: list[list[float]] = [[] for _ in range(NUM_ENVS)]
        self.finished: list[tuple[float, int]] = []  # returns and lengths
        self.obs = [self._reset(i) for i in range(NUM_ENVS)]

    def _reset(self, i: int) -> np.ndarray:
        obs, _ = self.envs[i].reset(seed=episode_seed(5, TRAIN, i, self.episode[i]))
        return np.array(obs)

    def step(self, action_B: np.ndarray) -> list[tuple]:
        records = []
        for i, env in enumerate(self.envs):
            next_obs, reward, terminated, truncated, _ = env.step(action_B[i])
            next_obs = np.array(next_obs)
            records.append(record(self.obs[i], next_obs, reward, terminated, truncated))
            self.obs[i] = next_obs
            self.rewards[i].append(float(reward))
            if terminated or truncated:
                self.finished.append((sum(self.rewards[i]), len(self.rewards[i])))
                self.rewards[i].clear()
                self.episode[i] += 1
                self.obs[i] = self._reset(i)
        return records


def record(
    obs: np.ndarray, next_obs: np.ndarray, reward: float, terminated: bool, truncated: bool
) -> tuple:
    ends = bool(terminated), bool(truncated)
    return np.asarray(obs).tobytes(), np.asarray(next_obs).tobytes(), float(reward), *ends


def collected(
    config: EnvConfig, actions: list[np.ndarray]
) -> tuple[list[tuple], list[tuple[float, int]]]:
    """What the collector returns of each env step, and the finished episodes that it reports."""
    records: list[tuple] = []
    collector = Collector(make_vector(config, run_seed=5, num_envs=NUM_ENVS))
    try:
        for action_B in actions:
            obs_B, _, step = collector.step(action_B)
            records.extend(record(obs_B[i], *(array[i] for array in step)) for i in range(NUM_ENVS))
    finally:
        collector.env.close()
    return records, [tuple(episode) for episode in collector.env.statistics.recent]


def random_actions(config: EnvConfig) -> list[np.ndarray]:
    """Enough of them that each env begins its second episode."""
    env, steps = make_env(config), (config.max_episode_steps or 0) * 3 // 2
    env.action_space.seed(0)
    actions = [np.stack([env.action_space.sample() for _ in range(NUM_ENVS)]) for _ in range(steps)]
    env.close()
    return actions


@pytest.mark.parametrize("name", PRESETS)
def test_the_collector_equals_a_scalar_loop(name: str) -> None:
    config = short(name)
    if config.backend == "envpool":
        pytest.skip("trains in another program's copy of the env, by design")
    actions = random_actions(config)
    loop = ScalarLoop(config)
    expected = [record for action_B in actions for record in loop.step(action_B)]
    assert min(loop.episode) >= 1
    records, finished = collected(config, actions)
    assert records == expected
    assert [length for _, length in finished] == [length for _, length in loop.finished]
    assert [r for r, _ in finished] == pytest.approx([r for r, _ in loop.finished])


def test_a_wrong_final_observation_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(SyncVectorEnv):
        def step(self, action_B: np.ndarray) -> Step:
            return super().step(action_B)._replace(next_obs_B=self.obs_B)

    config = short("cartpole")
    actions = random_actions(config)
    right, _ = collected(config, actions)
    monkeypatch.setattr("rlzoo.envs.make.SyncVectorEnv", Wrong)
    wrong, _ = collected(config, actions)
    is_end = [terminated or truncated for *_, terminated, truncated in right]
    assert [a != b for a, b in zip(right, wrong, strict=True)] == is_end and any(is_end)
