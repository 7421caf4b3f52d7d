"""kill -9 at random instants, also inside saves: the run then equals one that was never hurt."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
from commands import Command, metrics

from rlzoo.io import checkpoint, files

WORDS = {
    "q_learning": ["algo=q_learning", "env=cliffwalking"],
    "dqn": ["algo=dqn", "env=cartpole", "network.hidden=[16,16]"],
}
OFTEN = ["experiment=none", "logger=jsonl", "save_every_env_steps=64", "log_every_env_steps=128"]
SELDOM = ["eval.every_env_steps=1500", "eval.episodes=2", "eval.test_episodes=3", "seed=7"]
MOST_RESTARTS = 400


def outcome(run: Path) -> tuple[object, object, object]:
    """Last checkpoint (without times and log positions), metrics, test results."""
    found = checkpoint.newest(run / "checkpoints", pytest.fail)
    assert found is not None
    state = found[1]
    state["loop"].pop("elapsed_seconds")
    state.pop("logger")
    return plain(state), metrics(run), json.loads((run / "result.json").read_text())["test"]


def plain(tree: object) -> object:
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    return (str(tree.dtype), tree.shape, tree.tobytes()) if hasattr(tree, "tobytes") else tree


def kill_until_finished(folder: Path, words: list[str], kills: int) -> tuple[Path, int, int]:
    """Run and kill up to so often, then let it end: (run, kills, kills inside a save)."""
    run, rng, inside = folder / "killed", random.Random(0), 0
    done = 0
    for _ in range(MOST_RESTARTS):
        begun = (run / "config.yaml").exists()
        command = Command(folder, *([f"resume={run}"] if begun else [*words, f"run_dir={run}"]))
        if done == kills:
            assert command.wait() == 0, command.output()
            return run, done, inside
        time.sleep(rng.uniform(0.05, 0.4))
        if command.process.exitcode is None:
            command.send(signal.SIGKILL)
            command.wait()
            done += 1
            inside += any((run / "checkpoints").glob(f"{files.TEMPORARY}*"))
        elif (run / "result.json").exists():
            assert done, "it had finished before the first kill"
            return run, done, inside  # a quick machine
    raise AssertionError("no progress between the kills")


@pytest.mark.parametrize("algo", WORDS)
def test_killed_run_equals_a_straight_one(tmp_path, algo):
    check(tmp_path, algo, kills=4, env_steps=12_000)


@pytest.mark.slow
@pytest.mark.parametrize("algo", WORDS)
def test_killed_fifty_times_equals_a_straight_one(tmp_path, algo):
    kills, inside = check(tmp_path, algo, kills=50, env_steps=200_000)
    assert kills == 50, "too quick a machine: raise env_steps"
    assert inside > 0


def check(folder: Path, algo: str, kills: int, env_steps: int) -> tuple[int, int]:
    """The kills made, and those of them that were inside a save."""
    words = [*WORDS[algo], *OFTEN, *SELDOM, f"total_env_steps={env_steps}"]
    straight = folder / "straight"
    command = Command(folder, *words, f"run_dir={straight}")
    assert command.wait(180) == 0, command.output()
    run, done, inside = kill_until_finished(folder, words, kills)
    assert outcome(run) == outcome(straight)
    return done, inside


def test_a_checkpoint_that_a_kill_left_half_replaced_is_gone_on_from(tmp_path):
    run = tmp_path / "run"
    words = [*WORDS["q_learning"], *OFTEN, *SELDOM, "total_env_steps=256"]
    assert Command(tmp_path, *words, f"run_dir={run}").wait() == 0
    newest = max((run / "checkpoints").glob("step_*"))
    newest.rename(f"{newest}.old")
    (run / "result.json").unlink()
    again = Command(tmp_path, f"resume={run}", "total_env_steps=512")
    assert again.wait() == 0, again.output()
