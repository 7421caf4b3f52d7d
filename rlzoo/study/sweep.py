"""Sweeps: every combination of comma lists and ranges, one process a job, all checked first.

A sweep has a folder `outputs/sweeps/<name>/<n>`. Started again under the same name it skips the
jobs that finished and resumes the others.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rlzoo.core.messages import note
from rlzoo.core.types import CantCreateError, LockedError, UsageError
from rlzoo.io import files
from rlzoo.io.run_dir import SWEEPS, RunDir
from rlzoo.run import config as configuration
from rlzoo.run.stop import StopSignal

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Job:
    """One combination: a run in a process of its own, with a directory and a log of its own."""

    number: int
    words: tuple[str, ...]
    directory: Path

    @property
    def log(self) -> Path:
        return self.directory.with_suffix(".log")

    def is_finished(self) -> bool:
        return (self.directory / "result.json").exists()

    def start(self) -> subprocess.Popen[bytes]:
        words = [*self.words, f"run_dir={self.directory}"]
        if (self.directory / "config.yaml").exists():
            named = ("plugins=", "env.id=")  # what its own config.yaml may not import by itself
            allowed = [word for word in self.words if word.lstrip("+").startswith(named)]
            words = [f"resume={self.directory}", *allowed]
        with open(self.log, "a") as log:
            # A session of its own: the terminal's Ctrl-C would reach it as a second, hasty signal.
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "rlzoo.cli.job", *words],
                stdin=subprocess.PIPE,  # closed when this process ends: the job stops, too
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def holder(self) -> str:
        """Who else is at work on it, in words; empty if nobody is."""
        try:
            RunDir(self.directory).lock().unlock()
        except LockedError as error:
            return str(error)
        except CantCreateError:  # there is none yet, or it cannot be written: the job will say so
            pass
        return ""

    def describe(self, code: int) -> str:
        """What came of it; for a failure with the last line of its log, which is the error."""
        if code == 0:
            return f"job {self.number} finished: {' '.join(self.words)}"
        lines: list[str] = []
        with suppress(OSError):
            lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"job {self.number} FAILED with exit {code}: {lines[-1] if lines else 'no output'}"


def run_sweep(words: Sequence[str], *, jobs: int, name: str) -> int:
    """Run all jobs, `jobs` at a time. 0 if all finished, else the first failure's exit code."""
    combinations = configuration.sweep_jobs(words)
    configs = [configuration.compose(job) for job in combinations]  # all checked before any runs
    if len({str(config) for config in configs}) < len(configs):
        raise UsageError("sweep: two jobs have the same settings")
    name = name or datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(f"--name: got '{name}', expected letters, digits, '.', '_' and '-'")
    root = Path(configs[0].output_dir) / SWEEPS / name
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CantCreateError(f"{root}: cannot be created: {error.strerror}") from error
    with RunDir(root).lock():
        _check_same_sweep(root / "sweep.json", combinations)
        note(f"{len(combinations)} jobs, {jobs} at a time, in {root}")
        numbered = enumerate(combinations)
        return _run([Job(n, tuple(words), root / str(n)) for n, words in numbered], limit=jobs)


def _check_same_sweep(listing: Path, combinations: list[list[str]]) -> None:
    if not listing.exists():
        files.write_atomic(listing, json.dumps(combinations, indent=1).encode())
    content = files.read(listing, limit=files.MAX_JSON_BYTES)
    if files.parse_json(content, listing) != combinations:
        raise UsageError(f"{listing.parent}: holds a sweep of other settings; take another --name")


def _run(jobs: list[Job], *, limit: int) -> int:
    started = time.monotonic()
    codes = {job: 0 for job in jobs if job.is_finished()}
    if codes:
        note(f"{len(codes)} of them had finished before")
    waiting = [job for job in jobs if job not in codes]
    running: dict[Job, subprocess.Popen[bytes]] = {}
    held: set[Job] = set()  # by another process, such as a job of this sweep before it was killed

    def kill() -> None:
        for process in running.values():
            process.kill()

    with StopSignal(before_quit=kill).installed() as stop:
        told = False
        while running or (waiting and not stop()):
            for job in list(waiting):
                if len(running) == limit or stop():
                    break
                if holder := job.holder():
                    if job not in held:
                        held.add(job)
                        note(f"job {job.number} is still running, and is waited for: {holder}")
                    continue
                waiting.remove(job)
                if job.is_finished():
                    codes[job] = 0
                    note(job.describe(0))
                else:
                    running[job] = job.start()
            if stop() and not told:
                told = True
                for process in running.values():
                    process.terminate()
            time.sleep(POLL_SECONDS)
            for job in [job for job, process in running.items() if process.poll() is not None]:
                code = running.pop(job).returncode
                if code == LockedError.exit_code:
                    waiting.append(job)
                    continue
                codes[job] = code if code >= 0 else 128 - code  # as a shell shows a signal
                if code == 0 or not stop():
                    note(job.describe(codes[job]))
    failed = [job for job in jobs if codes.get(job)]
    finished = len(codes) - len(failed)
    note(f"{finished} of {len(jobs)} jobs finished in {time.monotonic() - started:.0f} s")
    if stop():
        note(f"stopped; the same command with --name {jobs[0].directory.parent.name} goes on")
        return stop.exit_code
    for job in failed:
        note(f"failed: job {job.number}: {' '.join(job.words)} (see {job.log})")
    return codes[failed[0]] if failed else 0
