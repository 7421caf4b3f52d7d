"""`rlzoo export`: a run's record and policy in a directory of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rlzoo.cli import export
from rlzoo.cli.main import main
from rlzoo.io import checkpoint
from rlzoo.run.saved import SavedRun

TINY = [
    "algo=dqn",
    "env=cartpole",
    "experiment=none",
    "total_env_steps=300",
    "algo.learning_starts_env_steps=100",
    "eval.every=100",
    "eval.episodes=2",
    "eval.test_episodes=2",
    "network.hidden=[32,32]",
    "logger.videos=false",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    assert main([*TINY, f"run_dir={path}"]) == 0
    return path


def actions(path: Path) -> np.ndarray:
    obs_B = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    return SavedRun(path).policy()(obs_B)


@pytest.mark.parametrize("half", ["false", "true"])
def test_an_exported_policy_acts_as_the_runs(run: Path, tmp_path: Path, half: str, capsys) -> None:
    to = tmp_path / "given away"
    assert main(["export", str(run), f"to={to}", f"half={half}"]) == 0
    assert capsys.readouterr().out.startswith(f"{to}: 0.")
    assert np.mean(actions(to) == actions(run)) == (1.0 if half == "false" else pytest.approx(1))
    q = checkpoint.load(checkpoint.best(to / "checkpoints"))["algorithm"]["q"]
    large = {tensor.dtype for tensor in q.values() if tensor.numel() >= 1024}
    assert large == {torch.float16 if half == "true" else torch.float32}
    assert (to / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    assert (to / "result.json").exists() and list((to / "tb").iterdir())
    assert main(["evaluate", str(to), "episodes=2"]) == 0


def test_an_export_says_which_checkpoint_it_has(run: Path, tmp_path: Path, capsys) -> None:
    other = tmp_path / "run"
    shutil.copytree(run, other)
    first = min(path.name for path in (other / "checkpoints").glob("step_*"))
    assert first != max(path.name for path in (other / "checkpoints").glob("step_*"))
    checkpoint.mark_best(other / "checkpoints", first)
    for which, said in (("last", "(last)"), ("best", f"{first} (best on the selection seeds)")):
        assert main(["export", str(other), f"to={tmp_path}/{which}", f"checkpoint={which}"]) == 0
        capsys.readouterr()
        assert main(["evaluate", f"{tmp_path}/{which}", "episodes=1"]) == 0
        assert said in capsys.readouterr().err


def test_what_only_training_needs_is_left_behind(run: Path, tmp_path: Path) -> None:
    to = tmp_path / "policy"
    assert main(["export", str(run), f"to={to}"]) == 0
    state = checkpoint.load(checkpoint.best(to / "checkpoints"))["algorithm"]
    assert state.keys() == {"q"}
    assert main(["export", str(to), f"to={tmp_path / 'again'}"]) == 0  # of an export, too


def test_an_export_is_not_resumed(run: Path, tmp_path: Path, capsys) -> None:
    to = tmp_path / "policy"
    assert main(["export", str(run), f"to={to}"]) == 0
    assert main([f"resume={to}", "total_env_steps=400"]) == 64
    assert "was exported" in capsys.readouterr().err
    assert main(["evaluate", str(to), "episodes=2"]) == 0  # and is as it was


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        ([], 64, "export: got no to="),
        (["to=new", "half=yes"], 64, "half: got 'yes', expected true or false"),
        (["to=new", "checkpoint=worst"], 64, "checkpoint: got 'worst', expected best or last"),
        (["to=."], 73, "exists already"),
    ],
)
def test_bad_words_get_a_line(
    run: Path, tmp_path: Path, monkeypatch, capsys, words: list[str], code: int, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), *words]) == code
    assert line in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_half_written(
    run: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.shutil, "copytree", full)
    assert main(["export", str(run), f"to={tmp_path / 'policy'}"]) == 74
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
