"""Runs of an earlier version, one of each algorithm, open and act as they did then.

They were made and evaluated at commit 714f392 (checkpoint schema 1). World Models' old runs are
those in outputs/pretrained (tests/contract/test_pretrained.py).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rlzoo.cli.main import main
from rlzoo.core import registry
from rlzoo.io import checkpoint

OLD_RUNS = Path(__file__).parent / "data" / "old_runs"
NAMES = sorted(path.name for path in OLD_RUNS.iterdir() if path.is_dir())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the old runs, and the demonstrations that two of them name."""
    shutil.copytree(OLD_RUNS, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_is_one_of_each_algorithm() -> None:
    algorithms = {name for name in registry.names("algo") if name != "world_models"}
    assert algorithms <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_old_run_acts_as_it_did(name: str, here: Path) -> None:
    file = here / name / "evaluation_last.json"
    before = json.loads(file.read_text())
    assert main(["evaluate", name, "episodes=5", "checkpoint=last"]) == 0
    after = json.loads(file.read_text())
    assert after["seeds"] == before["seeds"]
    assert after["lengths"] == before["lengths"]
    # It acted on two observations at a time then: sums may be rounded differently.
    assert after["returns"] == pytest.approx(before["returns"], rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_an_old_run_goes_on(name: str, here: Path) -> None:
    longer = "algo.updates=500" if name == "bc" else "total_env_steps=500"
    assert main([f"resume={name}", longer]) == 0
    newest = checkpoint.newest(here / name / "checkpoints", pytest.fail)
    assert newest is not None
    counters = newest[1]["algorithm"]["counters"]
    assert counters["env_steps"] + counters["offline_units"] >= 500
