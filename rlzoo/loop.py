"""The training loop: step, guard, log, evaluate, save, stop. One loop drives every algorithm.

The loop owns *when*; an algorithm owns *what* (see `types.Algorithm`). Between two calls of
`step` a run is at a safe point: everything that it depends on is in `state()`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlzoo.types import Algorithm, Metrics, NonFiniteError, State


class Every:
    """A cadence: `due(clock)` is true once for each multiple of `period` that the clock passes."""

    def __init__(self, period: int) -> None:
        self.period = period
        self.next_at = period

    def due(self, clock: int) -> bool:
        if clock < self.next_at:
            return False
        self.next_at = (clock // self.period + 1) * self.period
        return True


class MetricWindow:
    """Means of the metrics since the last log line. Tensors are summed unread, to stay cheap."""

    def __init__(self) -> None:
        self.sums: dict[str, Any] = {}
        self.counts: dict[str, int] = {}

    def add(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            if name in self.sums:
                self.sums[name] = self.sums[name] + value
                self.counts[name] += 1
            else:
                self.sums[name] = value
                self.counts[name] = 1

    def take(self) -> dict[str, float]:
        """The means by name; the window is empty afterwards."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means

    def state(self) -> State:
        return {"sums": {k: float(v) for k, v in self.sums.items()}, "counts": dict(self.counts)}

    def load(self, state: State) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])


def check_finite(metrics: dict[str, float]) -> dict[str, float]:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise NonFiniteError(f"metric {name} is {value}: training is stopped")
    return metrics


@dataclass
class Clock:
    """Wall time over all sessions of a run, and where it went since the last log line."""

    elapsed_seconds: float = 0.0
    last_seconds: float = 0.0
    last_env_steps: int = 0

    def start(self, env_steps: int) -> None:
        self._zero = time.perf_counter() - self.elapsed_seconds
        self.last_seconds, self.last_env_steps = self.elapsed_seconds, env_steps

    def metrics(self, env_steps: int) -> dict[str, float]:
        self.elapsed_seconds = time.perf_counter() - self._zero
        seconds = max(self.elapsed_seconds - self.last_seconds, 1e-9)
        speed = (env_steps - self.last_env_steps) / seconds
        self.last_seconds, self.last_env_steps = self.elapsed_seconds, env_steps
        return {"time/env_steps_per_second": speed, "time/elapsed_seconds": self.elapsed_seconds}


@dataclass
class Hooks:
    """What the loop calls when it is due. Each is a plain function, so tests can count calls."""

    log: Callable[[int, dict[str, float]], None]
    evaluate: Callable[[int], bool]  # False: interrupted, to be done again after a resume
    save: Callable[[int], None]
    stop: Callable[[], bool]
    progress: Callable[[int], None]


class Loop:
    """Drives an algorithm until it is done or told to stop."""

    def __init__(self, log_every: int, evaluate_every: int, save_every: int) -> None:
        self.log_due = Every(log_every)
        self.evaluate_due = Every(evaluate_every)
        self.save_due = Every(save_every)
        self.window = MetricWindow()
        self.clock = Clock()
        self.evaluation_pending = False

    def run(self, algorithm: Algorithm, hooks: Hooks) -> str:
        """'finished' or 'stopped'. Both leave a checkpoint of the safe point that was reached."""
        counters = algorithm.counters
        self.clock.start(counters.env_steps)
        while self.evaluation_pending or not algorithm.done():
            if hooks.stop():
                hooks.save(counters.env_steps)
                return "stopped"
            if self.evaluation_pending:
                self.evaluation_pending = False
                self.evaluation_pending = not hooks.evaluate(counters.env_steps)
                continue
            self.window.add(algorithm.step())
            now = counters.env_steps
            hooks.progress(now)
            if self.log_due.due(now):
                metrics = check_finite(self.window.take() | algorithm.gauges())
                hooks.log(now, metrics | self.clock.metrics(now))
            self.evaluation_pending = self.evaluate_due.due(now)
            if self.save_due.due(now):
                hooks.save(now)
        hooks.save(counters.env_steps)
        return "finished"

    def state(self) -> State:
        cadences = (self.log_due, self.evaluate_due, self.save_due)
        return {
            "next_at": [cadence.next_at for cadence in cadences],
            "evaluation_pending": self.evaluation_pending,
            "window": self.window.state(),
            "elapsed_seconds": self.clock.elapsed_seconds,
        }

    def load(self, state: State) -> None:
        cadences = (self.log_due, self.evaluate_due, self.save_due)
        for cadence, next_at in zip(cadences, state["next_at"], strict=True):
            # A period changed on resume takes effect at once.
            cadence.next_at = min(next_at, next_at // cadence.period * cadence.period or next_at)
        self.evaluation_pending = state["evaluation_pending"]
        self.window.load(state["window"])
        self.clock.elapsed_seconds = state["elapsed_seconds"]
