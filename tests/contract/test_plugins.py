"""The example of docs/extending.md is a real plug-in: it keeps the contract and learns."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlzoo.cli.main import main
from rlzoo.core import registry
from rlzoo.core.algorithm import Algorithm
from rlzoo.core.types import UsageError
from rlzoo.run import config as configuration
from rlzoo.run import plugins
from rlzoo.run.build import build
from rlzoo.run.config import RunConfig
from rlzoo.run.evaluate import never
from rlzoo.run.run import Run
from rlzoo.study.contract import StopAt, fingerprint, outcome
from rlzoo.study.contract import begin as start

DOCS = Path(__file__).parents[2] / "docs"
PLUGIN = "plugins=[my_algos.monte_carlo]"
WORDS = [PLUGIN, "algo=monte_carlo", "env=frozenlake", "debug=tiny", "logger=jsonl"]


@pytest.fixture(autouse=True)
def example_plugin(monkeypatch):
    """The example can be imported here, and is forgotten after each test."""
    monkeypatch.syspath_prepend(DOCS / "example_plugin")
    monkeypatch.setattr(registry, "_ENTRIES", copy.deepcopy(registry._ENTRIES))
    monkeypatch.setattr(plugins, "conf_dirs", [])
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "my_algos"]:
        del sys.modules[name]


def tiny(*words: str) -> RunConfig:
    return configuration.compose([*WORDS, *words])


def test_same_seed_same_everything(tmp_path):
    one, _ = start(tiny(), tmp_path / "one")
    two, _ = start(tiny(), tmp_path / "two")
    other, _ = start(tiny("seed=1"), tmp_path / "other")
    assert outcome(one) == outcome(two)
    assert outcome(one)[0] != outcome(other)[0]


@pytest.mark.parametrize("polls", [2, 100, 250])
def test_stopped_and_resumed_equals_straight(tmp_path, polls):
    config = tiny("env.num_envs=2")
    straight, _ = start(config, tmp_path / "straight")
    run, status = start(config, tmp_path / "run", StopAt(polls))
    for stop in (StopAt(30), never):
        assert status == "stopped"
        run = Run(config, run.directory, stop)
        status = run.train()
    assert outcome(run) == outcome(straight)


def test_contract():
    algorithm = build(tiny())
    assert isinstance(algorithm, Algorithm)
    for _ in range(200):
        algorithm.step()
    before = fingerprint(algorithm.state())
    action_B = algorithm.act(np.array([0, 14]), explore=False)
    assert action_B.shape == (2,)
    assert fingerprint(algorithm.state()) == before
    fresh = build(tiny())
    fresh.load_policy(algorithm.state())
    assert np.array_equal(fresh.act(np.array([0, 14]), explore=False), action_B)
    with pytest.raises(UsageError, match="algo=monte_carlo: got Box"):
        build(tiny("env=cartpole"))


def test_it_learns_and_goes_on_from_the_command_line(tmp_path, capsys):
    words = [PLUGIN, "algo=monte_carlo", "env=frozenlake", "env.kwargs.is_slippery=false"]
    words += ["total_env_steps=12_000", "eval.test_episodes=5", "logger=jsonl"]
    assert main([*words, f"run_dir={tmp_path}/run"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["test"]["last"]["return"]["mean"] == 1
    # The run remembers its plug-in: nobody has to name it again.
    assert main([f"resume={tmp_path}/run", "total_env_steps=13_000"]) == 0
    assert main(["evaluate", f"{tmp_path}/run", "episodes=3"]) == 0
    assert main(["list", "algo", PLUGIN]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert "monte_carlo Every-visit Monte Carlo control" in listed


def test_without_the_plugin_its_name_is_unknown(capsys):
    assert main(["algo=monte_carlo", "env=frozenlake"]) == 64
    assert "unknown algo 'monte_carlo'" in capsys.readouterr().err


def test_the_document_shows_the_commands_that_work(tmp_path):
    """From a folder with the example in it, with the console script's module, as written."""
    text = (DOCS / "extending.md").read_text()
    commands = re.findall(r"^ +rlzoo (.*my_algos.*)$", text, flags=re.MULTILINE)
    assert commands
    for words in commands:
        done = subprocess.run(
            [sys.executable, "-m", "rlzoo", *words.split(), "--cfg", "job"],
            cwd=DOCS / "example_plugin",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    for file in re.findall(r"`(docs/example_plugin/[\w./]+)`", text):
        assert (DOCS.parent / file).exists(), file
