"""`rlzoo` commands as real processes, forked from one that has torch imported already."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rlzoo.cli.main import main

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["rlzoo.run.run", "rlzoo.io.events"])


def _run(words: list[str], folder: Path, output: str) -> None:
    os.chdir(folder)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    os.setsid()  # a terminal that is opened next is its own
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.exit(main(words))


class Command:
    """One running command; what it prints is in `output()`, or goes to a terminal (a device)."""

    def __init__(self, folder: Path, *words: str, terminal: str = "") -> None:
        self._output = folder / f"output-{time.monotonic_ns()}.txt"
        arguments = (list(words), folder, terminal or str(self._output))
        self.process = _CONTEXT.Process(target=_run, args=arguments)
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def output(self) -> str:
        return self._output.read_text() if self._output.exists() else ""

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 60) -> int:
        """The exit code, negative for a signal; the test fails where it takes too long."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after {seconds} s: {self.output()}")
        return self.process.exitcode

    def until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        """Wait for something to become true while the command runs."""
        end = time.monotonic() + seconds
        while not condition():
            alive = self.process.is_alive()
            if not alive or time.monotonic() > end:
                self.process.kill()
                raise AssertionError(f"{'too late' if alive else 'ended'}: {self.output()}")
            time.sleep(0.01)


def metrics(run: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl (whole lines only) without times."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]
