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

PATIENCE_SECONDS = 300.0  # with what hangs
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

    def wait(self, cpu_seconds: float | None = None) -> int:
        """The exit code, negative for a signal.

        The test fails where it hangs, or takes more than these seconds of a processor of its own:
        on a busy machine nobody knows how long that is.
        """
        end, begun, used = time.monotonic() + PATIENCE_SECONDS, self.used(), 0.0
        while self.process.exitcode is None:
            self.process.join(0.05)
            used = max(used, self.used() - begun)
            if time.monotonic() > end or used > (cpu_seconds or PATIENCE_SECONDS):
                self.process.kill()
                raise AssertionError(f"still running, {used:.1f} s of CPU: {self.output()}")
        return self.process.exitcode

    def used(self) -> float:
        """Seconds of CPU so far; 0 of a process that is over."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for something to become true while the command runs."""
        end = time.monotonic() + PATIENCE_SECONDS
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
