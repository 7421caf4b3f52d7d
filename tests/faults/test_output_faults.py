"""A terminal, pipe or log that is closed, full or gone: a run goes on, and ends as it should."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import gymnasium
import pytest
from commands import Command, metrics
from gymnasium.envs.toy_text import CliffWalkingEnv

import rlzoo
from rlzoo.cli.main import main
from rlzoo.core import messages
from rlzoo.io import checkpoint
from rlzoo.run import progress

RUN = ["algo=q_learning", "experiment=none", "debug=tiny", "logger=jsonl", "run_dir=run"]


class Talkative(CliffWalkingEnv):
    """Prints in each step, as many an env does."""

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        print("a step of a talkative env, which has a lot to say about each of its steps")
        print("and complains", file=sys.stderr)
        return super().step(action)


gymnasium.register("Talkative-v0", Talkative, max_episode_steps=50)
TALKATIVE = [
    "env=gym",
    f"env.id={__name__}:Talkative-v0",
    "env.restore=replay",
    "env.max_episode_steps=50",
]


def full() -> TextIO:
    return open("/dev/full", "w", buffering=1)


def closed_pipe() -> TextIO:
    there, here = os.pipe()
    os.close(there)
    return open(here, "w", buffering=1)


def closed() -> TextIO:
    stream = full()
    stream.close()
    return stream


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def streams(stdout: TextIO | None, stderr: TextIO | None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(sys, "stderr", stderr)
        yield


def status(run: Path = Path("run")) -> str:
    found: str = json.loads((run / "status.json").read_text())["status"]
    return found


@pytest.mark.parametrize("broken", [full, closed_pipe])
def test_a_run_that_nobody_can_read_is_finished(folder: Path, broken: Callable[[], TextIO]) -> None:
    with streams(broken(), broken()):
        assert main([*RUN, *TALKATIVE]) == 0
    assert status() == "finished"
    assert (folder / "run" / "result.json").exists()
    assert metrics(folder / "run")


def test_control_streams_that_fail_do_reach_training(folder, monkeypatch) -> None:
    monkeypatch.setattr(messages, "_LOST", ())
    with streams(full(), full()), pytest.raises(OSError, match="No space left"):
        rlzoo.train(*RUN[:-1], *TALKATIVE, run_dir="run")


@pytest.mark.parametrize("stream", [closed_pipe, closed, lambda: None])
def test_a_run_in_a_program_whose_output_is_gone(folder: Path, stream: Callable[[], Any]) -> None:
    with streams(stream(), stream()):
        rlzoo.train(*RUN[:-1], *TALKATIVE, run_dir="run")
    assert status() == "finished"


def test_a_bar_at_a_terminal_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = full()
    monkeypatch.setattr(broken, "isatty", lambda: True, raising=False)
    with streams(full(), broken):
        bar = progress.EpisodesPlayed(3)
        assert not bar.bar.disable
        bar.bar.mininterval = 0
        bar.one_more()
        bar.close()


def test_envs_in_workers_may_print(folder: Path) -> None:
    """A worker inherits the descriptors."""
    words = ["algo=dqn", *RUN[1:], *TALKATIVE, "env.backend=process", "env.workers=1"]
    command = Command(folder, *words, terminal="/dev/full")
    assert command.wait() == 0
    assert status() == "finished"


@pytest.mark.parametrize("words", ["list algo", "--help"])
def test_results_that_cannot_be_printed_are_an_error(folder: Path, words: str) -> None:
    script = f"exec {sys.executable} -m rlzoo {words} >&- 2>errors"
    assert subprocess.run(["/bin/sh", "-c", script], check=False, timeout=300).returncode == 74
    [line] = (folder / "errors").read_text().splitlines()
    assert line == "rlzoo: error: [Errno 9] Bad file descriptor"


def test_a_run_whose_streams_are_closed_prints_into_no_file(folder: Path) -> None:
    script = f"exec {sys.executable} -m rlzoo {' '.join([*RUN, 'env=cliffwalking'])} <&- >&- 2>&-"
    assert subprocess.run(["/bin/sh", "-c", script], check=False, timeout=300).returncode == 0
    assert status() == "finished"
    assert (folder / "run" / "lock").read_bytes() == b""
    assert not [file for file in folder.rglob("*") if b"rlzoo: " in bytes_of(file)]


def bytes_of(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


@pytest.mark.parametrize("closing", ["a terminal", "its log's disk is full"])
def test_who_closes_the_terminal_finds_the_run_saved(folder: Path, closing: str) -> None:
    """The kernel and the shell both send SIGHUP."""
    run = folder / "run"
    words = [*RUN[:-1], "env=cliffwalking", f"run_dir={run}", "total_env_steps=1_000_000_000"]
    if closing == "a terminal":
        master, slave = os.openpty()
        command = Command(folder, *words, terminal=os.ttyname(slave))
        os.close(slave)
        command.until(lambda: len(metrics(run)) > 3)
        os.close(master)
    else:
        command = Command(folder, *words, terminal="/dev/full")
        command.until(lambda: len(metrics(run)) > 3)
        command.send(signal.SIGHUP)
    command.send(signal.SIGHUP)
    assert command.wait() == 129
    assert status(run) == "stopped"
    assert checkpoint.reached_step(run / "checkpoints") >= metrics(run)[-1]["step"]
