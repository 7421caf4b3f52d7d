"""Paired speed measurements: the sides take turns, each time in a process of its own.

A benchmark script calls `main` with what it can measure. Called again with `--child SIDE TASK`, it
does one measurement and prints it as JSON; so neither side warms up or slows down the other, and
what the machine does meanwhile hits both. Ratios are therefore taken pair by pair.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rlzoo.core.algorithm import Algorithm
from rlzoo.run.loop import Hooks, Loop


@dataclass(frozen=True)
class Measurement:
    """What happened between the end of the warm-up and the end of the work."""

    env_steps: int
    updates: int
    seconds: float

    @property
    def speed(self) -> float:
        return self.env_steps / self.seconds


# side -> function from task to measurement
Sides = Mapping[str, Callable[[str], Measurement]]


def drive(algorithm: Algorithm, warm_up: int, work: int) -> Measurement:
    """Train through the framework's own loop; evaluation, files and progress bar are left out."""
    counters = algorithm.counters
    marks: list[tuple[int, int, float]] = []

    def stop() -> bool:
        due = (warm_up, warm_up + work)[min(len(marks), 1)]
        if counters.env_steps >= due:
            marks.append((counters.env_steps, counters.updates, time.perf_counter()))
        return len(marks) == 2

    hooks = Hooks(
        log=lambda env_steps, metrics: None,
        evaluate=lambda env_steps: True,
        save=lambda env_steps: None,
        stop=stop,
        progress=lambda env_steps: None,
    )
    Loop(log_every=1000, evaluate_every=10**9, save_every=10**9).run(algorithm, hooks)
    algorithm.env.close()
    begin, end = marks
    return Measurement(end[0] - begin[0], end[1] - begin[1], end[2] - begin[2])


def main(script: str, title: str, sides: Sides, tasks: list[str], peer: str) -> int:
    """Measure every task with every side in turn, print medians and ratios to `peer`."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--pairs", type=int, default=5, help="repetitions (default: 5)")
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=tasks)
    parser.add_argument("--json", type=Path, help="also write everything measured to this file")
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "TASK"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        side, task = arguments.child
        print(json.dumps(asdict(sides[side](task))))
        return 0
    print(title)
    results = {}
    for task in arguments.tasks:
        results[task] = measure_task(script, list(sides), task, arguments.pairs)
        print(table(task, results[task], peer), flush=True)
    if arguments.json:
        report = {"title": title, "machine": machine(), "peer": peer, "results": results}
        arguments.json.write_text(json.dumps(report, indent=1, default=asdict) + "\n")
    return 0


def measure_task(
    script: str, sides: list[str], task: str, pairs: int
) -> dict[str, list[Measurement]]:
    found: dict[str, list[Measurement]] = {side: [] for side in sides}
    for pair in range(pairs):
        # Each side goes first in its turn.
        for side in sides[pair % len(sides) :] + sides[: pair % len(sides)]:
            found[side].append(measure_in_child(script, side, task))
            print(f"  pair {pair + 1} {side}: {found[side][-1].speed:.0f}", file=sys.stderr)
    return found


def measure_in_child(script: str, side: str, task: str) -> Measurement:
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script, "--child", side, task],
        env={**os.environ, **threads},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def ratios(found: Mapping[str, list[Measurement]], side: str, peer: str) -> list[float]:
    return [ours.speed / other.speed for ours, other in zip(found[side], found[peer], strict=True)]


def table(task: str, found: Mapping[str, list[Measurement]], peer: str) -> str:
    """Medians of env steps per second, and the ratios to the peer over the pairs."""
    lines = [
        f"\n{task}: {found[peer][0].env_steps:,} env steps, {found[peer][0].updates:,} updates",
        f"{'':24}{'env steps/s':>12}   {'ratio to ' + peer + ': median (min .. max)'}",
    ]
    for side, measurements in found.items():
        line = f"{side:24}{median(m.speed for m in measurements):12,.0f}"
        if side != peer:
            r = ratios(found, side, peer)
            line += f"   {median(r):.2f} ({min(r):.2f} .. {max(r):.2f})"
        lines.append(line)
        if measurements[0].updates != found[peer][0].updates:
            lines.append(f"{'':24}  (with {measurements[0].updates:,} updates)")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    names = ("torch", "numpy", "gymnasium", "stable-baselines3")
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {d: importlib.metadata.version(d) for d in names if _is_installed(d)},
    }


def _is_installed(name: str) -> bool:
    return any(importlib.metadata.distributions(name=name))
