"""An env without a time limit: said at the start, and what plays whole episodes comes to an end."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import rlzoo
from rlzoo.cli.main import main
from rlzoo.core.algorithm import Reactive
from rlzoo.envs.make import EnvConfig, MoreEnvs, make_env, with_time_limit
from rlzoo.run import config as configuration
from rlzoo.run.evaluate import evaluate, film_episode


class Endless(gymnasium.Env[np.ndarray, np.int64]):
    """Goes on for ever; what takes too many steps in it has no cap."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012
    observation_space = gymnasium.spaces.Discrete(2)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None, patience: int = 100) -> None:
        self.render_mode, self.patience = render_mode, patience

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return 0, {}

    def step(self, action):
        self.t += 1
        assert self.t <= self.patience, "an episode without an end"
        return self.t % 2, 1.0, False, False, {}

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)


gymnasium.register("Endless-v0", Endless)
ID = f"{__name__}:Endless-v0"
CAPPED = EnvConfig(id=ID, eval_episode_steps=30, restore="replay")
RUN = [
    *["algo=q_learning", "env=gym", f"env.id={ID}", "env.restore=replay", "logger=jsonl"],
    *["env.eval_episode_steps=30", "env.kwargs.patience=400", "total_env_steps=300"],
    *["eval.every=200", "eval.episodes=3", "eval.test_episodes=4", "run_dir=run"],
]
ALWAYS = Reactive(lambda obs_B, *, explore: np.zeros(len(obs_B), np.int64))
CUT = f"were cut off after 30 env steps (env.eval_episode_steps): {ID} has no time limit"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_said_at_the_start_and_where_the_cap_is_reached(folder, capsys) -> None:
    assert main(RUN) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == (
        f"rlzoo: warning: {ID} has no time limit: evaluations cut off an episode after 30 env "
        "steps (env.eval_episode_steps), training does not. env.max_episode_steps=N is a limit "
        "for both"
    )
    assert [line for line in lines if CUT in line] == [
        f"rlzoo: 3 of 3 episodes {CUT}",
        *[f"rlzoo: 4 of 4 episodes {CUT}"] * 2,  # the last policy and the best
    ]
    result = json.loads(Path("run/result.json").read_text())
    assert result["test"]["last"]["lengths"] == [30] * 4

    assert main(["evaluate", "run", "episodes=2"]) == 0
    assert f"rlzoo: 2 of 2 episodes {CUT}" in capsys.readouterr().err
    assert main(["play", "run", "file=film.gif"]) == 0
    assert "return 30" in capsys.readouterr().out
    assert main(["demos", "record", "run", "file=demos.npz", "episodes=2"]) == 0
    assert "0 terminated, 2 ended by a time limit" in capsys.readouterr().out
    env = rlzoo.load("run").make_env()
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(30)] == [False] * 29 + [True]


@pytest.mark.parametrize("words", [["env.max_episode_steps=20"], ["env=cliffwalking"]])
def test_an_env_with_a_time_limit_keeps_it_and_nothing_is_said(folder, capsys, words) -> None:
    changed = {word.partition("=")[0] for word in words}
    kept = [word for word in RUN if not (word.startswith("env") and "env" in changed)]
    assert main([*kept, *words, "experiment=none"]) == 0
    errors = capsys.readouterr().err
    assert "time limit" not in errors and "cut off" not in errors
    lengths = json.loads(Path("run/result.json").read_text())["test"]["last"]["lengths"]
    assert max(lengths) > 30 if "env" in changed else lengths == [20] * 4


def test_control_without_the_cap_it_does_not_end(monkeypatch) -> None:
    monkeypatch.setattr("rlzoo.run.evaluate.with_time_limit", lambda config: config)
    for play in (evaluate, film_episode):
        more = {"episodes": 1, "num_envs": 1} if play is evaluate else {}
        with pytest.raises(Exception, match="an episode without an end"):
            play(ALWAYS, CAPPED, run_seed=0, purpose="test", **more)


def test_a_batch_of_episodes_ends_too() -> None:
    batch = MoreEnvs(CAPPED).make_batch()
    batch.reset([1, 2])
    for _ in range(30):
        assert batch.alive_B.all()
        batch.step(np.zeros(2, np.int64))
    assert not batch.alive_B.any()
    batch.close()


def test_every_preset_has_a_time_limit() -> None:
    for name in configuration.groups()["env"]:
        if name not in ("gym", "takecover"):
            words = ["algo=ppo", f"env={name}", "experiment=none"]
            config = configuration.compose(words).env
            assert with_time_limit(config) == config, name
    assert make_env(with_time_limit(CAPPED)).spec.max_episode_steps == 30
