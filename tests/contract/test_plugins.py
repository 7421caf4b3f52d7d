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
# algorithm: an env to try it in, and observations that it acts on there
EXAMPLES = {
    "monte_carlo": ("frozenlake", np.array([0, 14])),
    "reinforce": ("cartpole", np.array([[0.0, 0.1, 0.02, -0.3], [0.5, -1, -0.1, 1]], np.float32)),
}
PLUGIN = "plugins=[my_algos.monte_carlo]"


@pytest.fixture(autouse=True)
def example_plugin(monkeypatch):
    """The example can be imported here, and is forgotten after each test."""
    monkeypatch.syspath_prepend(DOCS / "example_plugin")
    monkeypatch.setattr(registry, "_ENTRIES", copy.deepcopy(registry._ENTRIES))
    monkeypatch.setattr(plugins, "conf_dirs", [])
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "my_algos"]:
        del sys.modules[name]


def tiny(algo: str, *words: str) -> RunConfig:
    chosen = [f"plugins=[my_algos.{algo}]", f"algo={algo}", f"env={EXAMPLES[algo][0]}"]
    return configuration.compose(
        [*chosen, "experiment=none", "debug=tiny", "logger=jsonl", *words],
    )


@pytest.mark.parametrize("algo", EXAMPLES)
def test_same_seed_same_everything(tmp_path, algo):
    one, _ = start(tiny(algo), tmp_path / "one")
    two, _ = start(tiny(algo), tmp_path / "two")
    other, _ = start(tiny(algo, "seed=1"), tmp_path / "other")
    assert outcome(one) == outcome(two)
    assert outcome(one)[0] != outcome(other)[0]


@pytest.mark.parametrize(
    ("algo", "words", "polls"),
    [
        ("monte_carlo", ["env.num_envs=2"], 2),
        ("monte_carlo", ["env.num_envs=2"], 100),
        ("monte_carlo", ["env.num_envs=2"], 250),
        ("reinforce", [], 2),
        ("reinforce", [], 50),
    ],
)
def test_stopped_and_resumed_equals_straight(tmp_path, algo, words, polls):
    config = tiny(algo, *words)
    straight, _ = start(config, tmp_path / "straight")
    run, status = start(config, tmp_path / "run", StopAt(polls))
    for stop in (StopAt(10), never):
        assert status == "stopped"
        run = Run(config, run.directory, stop)
        status = run.train()
    assert outcome(run) == outcome(straight)


@pytest.mark.parametrize("algo", EXAMPLES)
def test_contract(algo):
    algorithm, obs_B = build(tiny(algo)), EXAMPLES[algo][1]
    assert isinstance(algorithm, Algorithm)
    for _ in range(20):
        algorithm.step()
    before = fingerprint(algorithm.state())
    action_B = algorithm.act(obs_B, explore=False)
    assert action_B.shape == (2,)
    assert fingerprint(algorithm.state()) == before
    fresh = build(tiny(algo))
    fresh.load_policy(algorithm.state())
    assert np.array_equal(fresh.act(obs_B, explore=False), action_B)


@pytest.mark.parametrize(
    ("algo", "words", "message"),
    [
        ("monte_carlo", ["env=cartpole"], "algo=monte_carlo: got Box"),
        ("reinforce", ["env=frozenlake"], "algo=reinforce: got Discrete"),
        ("reinforce", ["env=lunarlander_continuous"], "algo=reinforce: got Box"),
        ("reinforce", ["env.num_envs=2"], "env.num_envs: got 2, expected 1"),
    ],
)
def test_what_cannot_work_is_refused(algo, words, message):
    with pytest.raises(UsageError, match=message):
        build(tiny(algo, *words))


def test_reinforce_learns_cartpole(tmp_path):
    words = ["total_env_steps=10_000", "env.max_episode_steps=500", "eval.episodes=5"]
    run, status = start(tiny("reinforce", *words, "eval.every=5_000"), tmp_path / "run")
    assert status == "finished"
    assert run.best_return > 100  # random actions: about 22


def test_it_learns_and_goes_on_from_the_command_line(tmp_path, capsys):
    words = [PLUGIN, "algo=monte_carlo", "env=frozenlake", "env.kwargs.is_slippery=false"]
    words += ["total_env_steps=12_000", "eval.test_episodes=5", "logger=jsonl"]
    assert main([*words, f"run_dir={tmp_path}/run"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["test"]["last"]["return"]["mean"] == 1
    assert main([f"resume={tmp_path}/run", "total_env_steps=13_000"]) == 0
    assert main(["evaluate", f"{tmp_path}/run", "episodes=3"]) == 0
    # In another process the run names its plug-in, and the user has to name it, too.
    del sys.modules["my_algos.monte_carlo"]
    capsys.readouterr()
    assert main([f"resume={tmp_path}/run", "total_env_steps=14_000"]) == 64
    assert f"If you trust this code, add {PLUGIN} " in capsys.readouterr().err
    assert main([f"resume={tmp_path}/run", "total_env_steps=14_000", PLUGIN]) == 0
    del sys.modules["my_algos.monte_carlo"]
    assert main(["evaluate", f"{tmp_path}/run", "episodes=3", PLUGIN]) == 0
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


def test_the_document_shows_the_example_as_it_is():
    text = (DOCS / "extending.md").read_text()
    shown = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[0]
    assert shown in (DOCS / "example_plugin/my_algos/reinforce.py").read_text()


def test_the_document_lists_all_members_of_an_algorithm():
    text = (DOCS / "extending.md").read_text().split("\n## The members of an algorithm\n")[1]
    rows = [line.split(" | ")[0] for line in text.split("\n## ")[0].splitlines()]
    listed = {name for row in rows for name in re.findall(r"`(\w+)", row) if row.startswith("|")}
    members = {*Algorithm.__annotations__, *vars(Algorithm)}
    assert listed == {name for name in members if not name.startswith("_")}


def test_the_test_in_the_document_passes(tmp_path):
    text = (DOCS / "extending.md").read_text()
    namespace = {}
    exec(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[1], namespace)
    namespace["test_it_keeps_the_contract"]()
