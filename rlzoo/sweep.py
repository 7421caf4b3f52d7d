"""Sweeps: every combination of comma lists and ranges, one process a job, all checked first.

A sweep has a folder `outputs/sweeps/<name>/<n>`. Started again under the same name it skips the
jobs that finished and resumes the others.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from rlzoo import config as configuration
from rlzoo.stop import StopSignal
from rlzoo.types import CantCreateError, UsageError


def run_sweep(words: Sequence[str], *, jobs: int, name: str) -> int:
    """Run all jobs, `jobs` at a time. 0 if all finished, else the first failure's exit code."""
    combinations = configuration.sweep_jobs(words)
    configs = [configuration.compose(job) for job in combinations]  # all checked before any runs
    if len(configs) > 1 and len({str(config) for config in configs}) < len(configs):
        raise UsageError("sweep: two jobs have the same settings")
    name = name or datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    root = Path(configs[0].output_dir) / "sweeps" / name
    _check_same_sweep(root, combinations)
    started = time.monotonic()
    with StopSignal(_say).installed() as stop, ThreadPoolExecutor(jobs) as pool:
        _say(f"{len(combinations)} jobs, {jobs} at a time, in {root}")
        numbered = list(enumerate(combinations))
        codes = list(pool.map(lambda item: _run_job(root, *item, stop), numbered))
    seconds = time.monotonic() - started
    failed = [n for n, code in enumerate(codes) if code]
    _say(f"{len(codes) - len(failed)} of {len(codes)} jobs finished in {seconds:.0f} s")
    for n in failed:
        _say(f"  job {n} exit {codes[n]}: {' '.join(combinations[n])} (see {root / str(n)}.log)")
    if stop():
        return stop.exit_code
    return codes[failed[0]] if failed else 0


def _check_same_sweep(root: Path, combinations: list[list[str]]) -> None:
    """Claim the sweep's folder, or make sure that it belongs to the same jobs."""
    listing = root / "sweep.json"
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not listing.exists():
            listing.write_text(json.dumps(combinations, indent=1))
    except OSError as error:
        raise CantCreateError(f"cannot create {root}: {error.strerror}") from error
    if json.loads(listing.read_text()) != combinations:
        raise UsageError(f"sweep: {root} holds a sweep of other settings; choose another --name")


def _run_job(root: Path, number: int, words: list[str], stop: StopSignal) -> int:
    """One job as a process of its own. Its exit code; a failure is named at once."""
    directory = root / str(number)
    if (directory / "result.json").exists() or stop():
        return stop.exit_code if stop() else 0
    begun = (directory / "config.yaml").exists()
    command = [f"resume={directory}"] if begun else [*words, f"run_dir={directory}"]
    with open(f"{directory}.log", "a") as log:
        code = _call([sys.executable, "-m", "rlzoo", *command], log, stop)
    if code and not stop():
        last = (Path(f"{directory}.log").read_text().strip().splitlines() or ["no output"])[-1]
        _say(f"job {number} FAILED with exit {code}: {last}")
    elif not code:
        _say(f"job {number} finished: {' '.join(words)}")
    return code


def _call(command: list[str], log: IO[str], stop: StopSignal) -> int:
    """Run a command to its end; a stop is handed on to it once, as SIGTERM."""
    # A session of its own: the terminal's Ctrl-C would reach it as a second, hasty signal.
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    told = False
    while True:
        try:
            return process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            if stop() and not told:
                process.terminate()
                told = True


def _say(line: str) -> None:
    print(f"rlzoo: {line}", file=sys.stderr, flush=True)
