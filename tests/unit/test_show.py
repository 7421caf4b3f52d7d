"""`rlzoo evaluate` and `play` where the env, or the machine, is not quite the run's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rlzoo.cli.main import main

AGENT = Path(__file__).parents[2] / "outputs" / "pretrained" / "dqn_mountaincar"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return shutil.copytree(AGENT, tmp_path / "run")


def test_a_changed_env_has_a_record_of_its_own(run: Path) -> None:
    assert main(["evaluate", str(run), "episodes=3"]) == 0
    assert main(["evaluate", str(run), "episodes=3", "env.kwargs.goal_velocity=0.07"]) == 0
    own = json.loads((run / "evaluation_best.json").read_text())
    changed = json.loads((run / "evaluation_best,env.kwargs.goal_velocity=0.07.json").read_text())
    assert max(own["returns"]) > -120
    assert changed["returns"] == [-200] * 3, "nobody passes the flag at the greatest speed"


def test_an_evaluation_says_how_far_it_is(run: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("rlzoo.run.progress.FILE_SECONDS", 0.0)
    assert main(["evaluate", str(run), "episodes=3"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "of 3 episodes" in line]
    assert [line.split(",")[0] for line in lines] == [f"rlzoo: {n} of 3 episodes" for n in (1, 2)]


def test_so_has_a_film(run: Path, monkeypatch) -> None:
    monkeypatch.setattr("rlzoo.cli.show.has_display", lambda: False)
    before = list(run.rglob("test_episode_*"))
    assert main(["play", str(run), "env.max_episode_steps=5"]) == 0
    [film] = set(run.rglob("test_episode_*")) - set(before)
    assert film.name.startswith("test_episode_0_best,env.max_episode_steps=5")


def test_what_a_gpu_trained_is_shown_without_one(run: Path) -> None:
    assert main(["evaluate", str(run), "episodes=3"]) == 0
    own = json.loads((run / "evaluation_best.json").read_text())
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("device: cpu", "device: cuda"))
    assert main(["evaluate", str(run), "episodes=3"]) == 0
    assert json.loads((run / "evaluation_best.json").read_text()) == own


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("env=cartpole", "'env=cartpole' chooses a group"),
        ("env.id=CartPole-v1", "expected torch.float32[256, 4]"),
        ("env.kwrgs.gravity=1", "Did you mean 'kwargs'?"),
        ("algo.gamma=0.9", "evaluate: unknown option 'algo.gamma=0.9'"),
    ],
)
def test_what_cannot_be_changed(run: Path, capsys, word: str, message: str) -> None:
    before = sorted(run.iterdir())
    assert main(["evaluate", str(run), "episodes=1", word]) in (64, 65)
    assert message in capsys.readouterr().err
    assert sorted(run.iterdir()) == before
