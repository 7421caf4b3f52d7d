"""rlzoo in a program: the page about it runs as printed, and importing it costs nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rlzoo
from rlzoo.core.types import UsageError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "python.md"]
PROGRAMS = [
    (page.name, program)
    for page in PAGES
    for program in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
]
SMALL = {"experiment": "none", "debug": "tiny", "logger": "jsonl"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("page", "program"), PROGRAMS)
def test_the_programs_of_the_pages_run(page: str, program: str, here: Path) -> None:
    """As printed, but for the length of training."""
    short = program.replace("seed=1)", "seed=1, total_env_steps=1500)")
    (here / "program.py").write_text(short)
    ran = subprocess.run(
        [sys.executable, "program.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    said = re.findall(r"print\(.*\)  # (.*) \.\.\.", program)
    assert all(words in ran.stdout for words in said)
    assert ran.stdout


def test_importing_it_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, rlzoo; sys.exit(bool({'torch', 'numpy', 'hydra'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_public_name_is_there_and_no_other() -> None:
    assert all(getattr(rlzoo, name) is not None for name in rlzoo.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        rlzoo.trian  # type: ignore[attr-defined]  # noqa: B018


def test_a_run_from_settings_to_its_policy(here: Path) -> None:
    run = rlzoo.train("algo=ppo", "env=cartpole", seed=3, run_dir="run", **SMALL)
    assert run.path == Path("run") and run.config().seed == 3
    policy, obs_B = run.policy(), np.zeros((3, 4), np.float32)
    assert policy(obs_B).shape == (3,)
    assert int(policy(obs_B[0])) == int(policy(obs_B)[0])
    with pytest.raises(UsageError, match=r"got observations \(5,\), expected \(4,\)"):
        policy(np.zeros(5))
    assert rlzoo.evaluate(run, episodes=3).returns == rlzoo.evaluate("run", episodes=3).returns
    longer = rlzoo.resume(run, total_env_steps=700)
    assert longer.config().total_env_steps == 700


def test_settings_are_written_as_the_command_line_has_them() -> None:
    config = rlzoo.compose(
        "algo=dqn",
        "env=cartpole",
        algo={"lr": 1e-3, "double": True, "max_grad_norm": None},
        network={"hidden": [8, 16]},
        output_dir="it's here",
    )
    assert (config.algo.lr, config.algo.double, config.algo.max_grad_norm) == (1e-3, True, None)
    assert config.network.hidden == (8, 16)
    assert config.output_dir == "it's here"
    with pytest.raises(rlzoo.UsageError, match="Did you mean 'gamma'"):
        rlzoo.compose("algo=dqn", algo={"gama": 1})
