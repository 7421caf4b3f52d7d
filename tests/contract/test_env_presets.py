"""The files of env presets, and that worker processes see the same as one process.

What each env has to keep is in test_env_contract.py.
"""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import yaml

import rlzoo
from rlzoo.core.types import UsageError
from rlzoo.envs.make import EnvConfig, make_env, make_vector
from rlzoo.run.strict import read

FILES = sorted((Path(rlzoo.__file__).parents[1] / "conf" / "env").glob("*.yaml"))
PRESETS = [path.stem for path in FILES if path.stem != "gym"]


def preset(name: str, **changes) -> EnvConfig:
    [path] = [path for path in FILES if path.stem == name]
    return read(EnvConfig, yaml.safe_load(path.read_text()) | changes, "env")


def test_what_was_promised_is_there() -> None:
    promised = """frozenlake frozenlake8x8 cliffwalking taxi cartpole acrobot mountaincar
                  lunarlander lunarlander_continuous hopper_bullet walker2d_bullet
                  half_cheetah_bullet ant_bullet hopper11 hopper_mujoco"""
    assert set(promised.split()) <= set(PRESETS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_are_described_and_named_after_the_preset(path: Path) -> None:
    first, *_ = path.read_text().splitlines()
    assert first.startswith("# ") and len(first) <= 100
    assert yaml.safe_load(path.read_text())["name"] == path.stem


def test_the_generic_preset_asks_for_an_id() -> None:
    with pytest.raises(UsageError, match="expected a gymnasium id"):
        preset("gym")
    assert preset("gym", id="Pendulum-v1").id == "Pendulum-v1"


NUM_ENVS, STEPS = 3, 250


def random_actions(space: gymnasium.Space) -> list[np.ndarray]:
    space.seed(0)
    return [np.stack([space.sample() for _ in range(NUM_ENVS)]) for _ in range(STEPS)]


def record(obs, next_obs, reward, terminated, truncated) -> tuple:
    return (
        np.asarray(obs).tobytes(),
        np.asarray(next_obs).tobytes(),
        float(reward),
        bool(terminated),
        bool(truncated),
    )


def collected(config: EnvConfig, actions: list[np.ndarray]) -> list[tuple]:
    vector = make_vector(config, run_seed=5, num_envs=NUM_ENVS)
    seen = []
    try:
        for action_B in actions:
            obs_B = vector.obs_B
            step = vector.step(action_B)
            seen += [record(obs_B[i], *(a[i] for a in step)) for i in range(NUM_ENVS)]
        assert vector.obs_B.dtype == vector.observation_space.dtype
    finally:
        vector.close()
    return seen


@pytest.mark.parametrize("name", ["taxi", "lunarlander_continuous"])
def test_worker_processes_see_the_same_as_one_process(name: str) -> None:
    config = preset(name, backend="process", workers=2)
    actions = random_actions(make_env(config).action_space)
    assert collected(config, actions) == collected(preset(name), actions)


def test_an_id_registered_here_is_known_in_the_workers() -> None:
    entry_point = "gymnasium.envs.classic_control:MountainCarEnv"
    gymnasium.register("OnlyHere-v0", entry_point=entry_point, max_episode_steps=20)
    try:
        config = EnvConfig(id="OnlyHere-v0", backend="process", workers=1)
        actions = random_actions(gymnasium.spaces.Discrete(3))[:30]
        ended = [truncated for *_, truncated in collected(config, actions)]
        assert sum(ended) == NUM_ENVS
    finally:
        del gymnasium.registry["OnlyHere-v0"]
