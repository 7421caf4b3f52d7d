"""Ctrl-C, SIGTERM and kill -9 at every stage of a run: saved in time, resumable, nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import Command, metrics

from rlzoo.run.stop import StopSignal

GRACE_SECONDS = 10  # what batch systems give between SIGTERM and SIGKILL, at the least
RUN = ["algo=q_learning", "env=cliffwalking", "experiment=none", "logger.tensorboard=false"]
QUICK = ["eval.episodes=2", "eval.test_episodes=2", "log_every=128"]
FOREVER = 10**9
# An env that says when it is stepped, and never comes back from its 50th step.
HANGING_ENV = """
import time
from pathlib import Path
import gymnasium
from gymnasium.envs.toy_text import CliffWalkingEnv

class Hanging(CliffWalkingEnv):
    steps = 0
    def step(self, action):
        Hanging.steps += 1
        if Hanging.steps == 50:
            Path("hanging").touch()
            time.sleep(600)
        return super().step(action)

gymnasium.register("Hanging-v0", Hanging, max_episode_steps=200)
"""


def status(run: Path) -> str:
    return json.loads((run / "status.json").read_text())["status"]


def has_test_results(run: Path) -> bool:
    return (run / "result.json").exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_in_training_saves_and_the_run_goes_on(tmp_path, number, code):
    run = tmp_path / "run"
    command = Command(tmp_path, *RUN, *QUICK, f"run_dir={run}", f"total_env_steps={FOREVER}")
    command.until(lambda: len(metrics(run)) > 3)
    command.send(number)
    assert command.wait(GRACE_SECONDS) == code
    assert f"rlzoo resume={run}" in command.output()
    assert "Traceback" not in command.output()
    assert status(run) == "stopped"
    assert not has_test_results(run)

    reached = metrics(run)[-1]["step"]
    again = Command(tmp_path, f"resume={run}", f"total_env_steps={int(reached) + 512}")
    assert again.wait() == 0, again.output()
    assert has_test_results(run)
    steps = [row["step"] for row in metrics(run) if "train/epsilon" in row]
    assert steps == list(range(128, int(reached) + 513, 128))


def test_a_signal_in_an_evaluation_does_it_again_on_resume(tmp_path):
    run = tmp_path / "run"
    words = [*RUN, *QUICK, f"run_dir={run}", "total_env_steps=256", "eval.every=128"]
    command = Command(tmp_path, *words, f"eval.episodes={10**6}")
    command.until(lambda: metrics(run))  # logged at 128, and evaluated right after
    time.sleep(0.2)
    command.send(signal.SIGTERM)
    assert command.wait(GRACE_SECONDS) == 143
    assert [row["step"] for row in metrics(run)] == [128]
    again = Command(tmp_path, f"resume={run}", "eval.episodes=2")
    assert again.wait() == 0, again.output()
    evaluated = [row["step"] for row in metrics(run) if "eval/return_mean" in row]
    assert evaluated == [128, 256]


def test_a_signal_in_the_final_test_does_it_again_on_resume(tmp_path):
    run = tmp_path / "run"
    words = [*RUN, *QUICK, f"run_dir={run}", "total_env_steps=128", f"eval.test_episodes={10**6}"]
    command = Command(tmp_path, *words)
    command.until(lambda: "testing the last policy on 1,000,000 episodes" in command.output())
    command.send(signal.SIGINT)
    assert command.wait(GRACE_SECONDS) == 130
    assert status(run) == "stopped"
    assert not has_test_results(run)
    again = Command(tmp_path, f"resume={run}", "eval.test_episodes=2")
    assert again.wait() == 0, again.output()
    assert has_test_results(run)
    trained, tested = metrics(run)
    assert trained["step"] == tested["step"] == 128
    assert any(name.startswith("test/") for name in tested)


def test_the_second_signal_quits_at_once(tmp_path):
    (tmp_path / "hanging_env.py").write_text(HANGING_ENV)
    run = tmp_path / "run"
    words = ["env=gym", "env.id=hanging_env:Hanging-v0", "env.restore=replay", f"run_dir={run}"]
    command = Command(tmp_path, "algo=q_learning", "logger.tensorboard=false", *words)
    command.until((tmp_path / "hanging").exists)
    command.send(signal.SIGINT)
    command.until(lambda: "stopping" in command.output())
    time.sleep(0.3)
    assert command.process.is_alive(), "the first signal waits for the step to end"
    command.send(signal.SIGINT)
    assert command.wait(2) == 130


def test_kill_and_resume_shows_every_step_once(tmp_path):
    words = [*RUN, "total_env_steps=60_000", "log_every=640", "eval.episodes=2"]
    words += ["eval.test_episodes=2", "eval.every=20_000", "save_every=3000"]
    straight, run = tmp_path / "straight", tmp_path / "run"
    one = Command(tmp_path, *words, f"run_dir={straight}")
    killed = Command(tmp_path, *words, f"run_dir={run}")
    for at_least in (8, 40):  # the second kill hits a run that was resumed
        killed.until(lambda rows=at_least: len(metrics(run)) > rows)
        killed.send(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        killed = Command(tmp_path, f"resume={run}")
    assert killed.wait() == 0, killed.output()
    assert one.wait() == 0
    assert metrics(run) == metrics(straight)
    steps = [row["step"] for row in metrics(run) if "train/epsilon" in row]
    assert len(steps) == len(set(steps)) == 94  # 93 periods, and the rest of the run


def test_killed_before_the_first_checkpoint_starts_over(tmp_path):
    run = tmp_path / "run"
    words = [*RUN, *QUICK, f"save_every={FOREVER}", "total_env_steps=20_000"]
    command = Command(tmp_path, *words, f"run_dir={run}")
    command.until(lambda: len(metrics(run)) > 2)
    command.send(signal.SIGKILL)
    command.wait()
    again = Command(tmp_path, f"resume={run}")
    assert again.wait() == 0, again.output()
    steps = [row["step"] for row in metrics(run) if "train/epsilon" in row]
    assert steps == [*range(128, 20_000, 128), 20_000]


def test_two_processes_cannot_have_one_run(tmp_path):
    run = tmp_path / "run"
    words = [*RUN, *QUICK, f"run_dir={run}", f"total_env_steps={FOREVER}"]
    first = Command(tmp_path, *words)
    first.until(lambda: metrics(run))
    second = Command(tmp_path, f"resume={run}", "algo.alpha=0.5")
    third = Command(tmp_path, *words)
    assert second.wait() == 75
    assert f"process {first.pid}" in second.output()
    assert third.wait() in (73, 75)
    assert str(run) in third.output()
    assert "alpha: 0.1" in (run / "config.yaml").read_text(), "the intruder has changed nothing"
    first.send(signal.SIGKILL)
    first.wait()
    reclaimed = Command(tmp_path, f"resume={run}", "total_env_steps=200_000_000")
    reclaimed.until(lambda: "run directory" in reclaimed.output())
    reclaimed.send(signal.SIGTERM)
    assert reclaimed.wait(GRACE_SECONDS) == 143


@pytest.mark.parametrize("module", ["rlzoo.core.types", "numpy.linalg", "torch.nn.functional"])
def test_ctrl_c_while_starting_up_is_quiet(tmp_path, module):
    """Sent when that module has been imported: long before training, in the middle of imports."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "rlzoo", *RUN, f"total_env_steps={FOREVER}"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert any(line.rpartition("|")[2].strip() == module for line in process.stderr)
    process.send_signal(signal.SIGINT)
    errors = process.stderr.read()
    assert process.wait(60) in (130, -signal.SIGINT), errors
    assert "Traceback" not in errors
    assert not list(tmp_path.rglob("config.yaml")), "no run has begun"


def test_first_signal_sets_the_flag_and_an_ignored_one_stays_ignored(capfd):
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with StopSignal().installed() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop()
            os.kill(os.getpid(), signal.SIGINT)
            assert stop()
            assert stop.exit_code == 130
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopping" in capfd.readouterr().err
