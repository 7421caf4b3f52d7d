"""kill -9 at random instants, also inside saves: the run then equals one that was never hurt."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Command, metrics

from rlzoo.io import checkpoint, files

WORDS = {
    "q_learning": ["algo=q_learning", "env=cliffwalking"],
    "dqn": ["algo=dqn", "env=cartpole", "network.hidden=[16,16]"],
}
OFTEN = ["experiment=none", "logger=jsonl", "save_every=64", "log_every=128"]
SELDOM = ["eval.every=1500", "eval.episodes=2", "eval.test_episodes=3", "seed=7"]
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
    if not isinstance(tree, np.ndarray | torch.Tensor):
        return tree
    array = np.asarray(tree)
    return type(tree), str(array.dtype), array.shape, array.tobytes()


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
    assert command.wait() == 0, command.output()
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


# World Models: once in each phase -----------------------------------------------------------------

WORLD = [
    *[
        "algo=world_models",
        "env=gym",
        "env.id=small_lamp:Lamp-v0",
        "debug=tiny",
        "env.restore=replay",
    ],
    *[
        "total_env_steps=99999",
        "logger=jsonl",
        "eval.every=99999",
        "eval.test_episodes=2",
    ],
    *["log_every=1", "save_every=100", "save_every_seconds=1"],
    *["algo.collect.episodes=60", "algo.vision.epochs=2", "algo.vision.block_updates=1"],
    *["algo.memory.epochs=20", "algo.memory.block_updates=1", "algo.controller.generations=25"],
    "algo.controller.evaluate_every_generations=10",
]
STOPS = [  # a metric of a phase, what hits the run within it, and how it ends
    ("rollout/return_mean", signal.SIGKILL, -signal.SIGKILL),
    ("train/vae_loss", signal.SIGKILL, -signal.SIGKILL),
    ("train/rnn_loss", signal.SIGKILL, -signal.SIGKILL),
    ("train/generations", signal.SIGKILL, -signal.SIGKILL),
    ("train/generations", signal.SIGTERM, 143),
]


def test_world_models_stopped_in_each_phase_equals_a_straight_run(tmp_path):
    straight, run = tmp_path / "straight", tmp_path / "run"
    command = Command(tmp_path, *WORLD, f"run_dir={straight}")
    assert command.wait() == 0, command.output()
    command = Command(tmp_path, *WORLD, f"run_dir={run}")
    for mark, number, code in STOPS:
        seen = sum(mark in row for row in metrics(run))
        command.until(lambda mark=mark, seen=seen: sum(mark in r for r in metrics(run)) > seen + 2)
        command.send(number)
        assert command.wait() == code
        command = Command(tmp_path, f"resume={run}", "plugins=[small_lamp]")
    assert command.wait() == 0, command.output()
    assert outcome(run) == outcome(straight)
