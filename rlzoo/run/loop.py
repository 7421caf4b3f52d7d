"""The training loop: step, guard, log, evaluate, save, stop. One loop drives every algorithm.

The loop owns *when*; an algorithm owns *what* (see `core.algorithm`). Between two calls of
`step` a run is at a safe point: everything that it depends on is in `state()`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rlzoo.core.algorithm import Algorithm
from rlzoo.core.types import FINISHED, Counters, DataError, Metrics, NonFiniteError, State, passed


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
        self.sums = {name: float(total) for name, total in state["sums"].items()}
        self.counts = {name: int(count) for name, count in state["counts"].items()}
        if self.sums.keys() != self.counts.keys() or min(self.counts.values(), default=1) < 1:
            raise DataError(f"window: got counts {self.counts}, expected one or more for each sum")


def check_finite(metrics: dict[str, float]) -> dict[str, float]:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise NonFiniteError(f"metric {name} is {value}: training is stopped")
    return metrics


class Stopwatch:
    """Wall time over all sessions of a run, and speed since the last log line."""

    def __init__(self) -> None:
        self.start(0.0, Counters())

    def start(self, elapsed_seconds: float, counters: Counters) -> None:
        self._zero = time.perf_counter() - elapsed_seconds
        self._last_seconds, self._last = elapsed_seconds, replace(counters)

    @property
    def elapsed_seconds(self) -> float:
        return time.perf_counter() - self._zero

    def metrics(self, counters: Counters) -> dict[str, float]:
        """Elapsed time, and the speed of what has moved: env steps, work without an env."""
        last, seconds = self._last, max(self.elapsed_seconds - self._last_seconds, 1e-9)
        moved = {
            "env_steps": counters.env_steps - last.env_steps,
            "offline_units": counters.offline_units - last.offline_units,
        }
        self._last_seconds, self._last = self.elapsed_seconds, replace(counters)
        speeds = {f"time/{name}_per_second": n / seconds for name, n in moved.items() if n}
        return {**speeds, "time/elapsed_seconds": self._last_seconds}


@dataclass
class Hooks:
    """What the loop calls when it is due, with `counters.clock`.

    Each is a plain function, so tests can count calls.
    """

    log: Callable[[int, dict[str, float]], None]
    evaluate: Callable[[int], bool]  # False: interrupted, to be done again after a resume
    save: Callable[[int], None]
    stop: Callable[[], bool]
    progress: Callable[[int], None]


class Loop:
    """Drives an algorithm until it is done or told to stop. Periods are of `counters.clock`.

    Besides, a checkpoint is saved `save_every_seconds` after the last one, if the clock has moved:
    a minibatch of an LSTM may take as long as a thousand env steps. No result depends on it.
    """

    def __init__(
        self,
        log_every: int,
        evaluate_every: int,
        save_every: int,
        save_every_seconds: float | None = None,
    ) -> None:
        self.log_every = log_every
        self.evaluate_every = evaluate_every
        self.save_every = save_every
        self.save_every_seconds = math.inf if save_every_seconds is None else save_every_seconds
        self.window = MetricWindow()
        self.stopwatch = Stopwatch()
        self.evaluation_pending = False

    def run(self, algorithm: Algorithm, hooks: Hooks) -> str:
        """'finished' or 'stopped'. Both leave a checkpoint of the safe point that was reached."""
        counters = algorithm.counters
        self.stopwatch.start(self.stopwatch.elapsed_seconds, counters)
        saved, saved_seconds = counters.clock, self.stopwatch.elapsed_seconds
        while self.evaluation_pending or not algorithm.done():
            if hooks.stop():
                hooks.save(counters.clock)
                return "stopped"
            if self.evaluation_pending:
                self.evaluation_pending = False
                self.evaluation_pending = not hooks.evaluate(counters.clock)
                continue
            before, phase = counters.clock, counters.phase
            self.window.add(algorithm.step())
            now = counters.clock
            hooks.progress(now)
            # A phase that ends is logged up to its end, however short it was.
            if passed(self.log_every, before, now) or counters.phase not in (phase, FINISHED):
                self._log(algorithm, hooks)
            self.evaluation_pending = passed(self.evaluate_every, before, now)
            unsaved_seconds = self.stopwatch.elapsed_seconds - saved_seconds
            is_late = now > saved and unsaved_seconds >= self.save_every_seconds
            if is_late or passed(self.save_every, before, now):
                hooks.save(now)
                saved, saved_seconds = now, self.stopwatch.elapsed_seconds
        hooks.save(counters.clock)
        if self.window.sums:
            # What no line has yet: not of the checkpoint, as a longer run would not log it here.
            self._log(algorithm, hooks)
        return "finished"

    def _log(self, algorithm: Algorithm, hooks: Hooks) -> None:
        counters = algorithm.counters
        metrics = check_finite(self.window.take() | algorithm.env.gauges() | algorithm.gauges())
        hooks.log(counters.clock, metrics | self.stopwatch.metrics(counters))

    def state(self) -> State:
        return {
            "evaluation_pending": self.evaluation_pending,
            "window": self.window.state(),
            "elapsed_seconds": self.stopwatch.elapsed_seconds,
        }

    def load(self, state: State) -> None:
        self.evaluation_pending = bool(state["evaluation_pending"])
        self.window.load(state["window"])
        elapsed_seconds = float(state["elapsed_seconds"])
        if not 0 <= elapsed_seconds < math.inf:
            raise DataError(f"elapsed_seconds: got {elapsed_seconds}, expected a number >= 0")
        self.stopwatch.start(elapsed_seconds, Counters())
