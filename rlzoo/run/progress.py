"""What a person at the terminal sees while something runs: bars, or a line a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from rlzoo.core.algorithm import Progress
from rlzoo.core.messages import Unfailing, note

if TYPE_CHECKING:
    from tqdm import tqdm

SHOWN = {"rollout/return_mean": "return", "train/loss": "loss", "eval/return_mean": "eval"}


FILE_SECONDS = 60.0  # between two lines of progress where stderr is a file or a pipe


def _bar(total: int, done: int, unit: str, *, unit_scale: bool, name: str = "") -> tqdm[NoReturn]:
    from tqdm import tqdm

    is_seen = "ipykernel" in sys.modules  # a notebook
    with suppress(AttributeError, ValueError):  # None, or closed
        is_seen |= sys.stderr.isatty()
    return tqdm(
        desc=name,
        total=total,
        initial=done,
        unit=unit,
        unit_scale=unit_scale,
        dynamic_ncols=True,
        mininterval=0.2,
        smoothing=0.1,
        file=Unfailing(sys.stderr),
        disable=not is_seen,
    )


class EpisodesPlayed:
    """How many episodes of an evaluation are over: with images it takes minutes.

    At a terminal a bar, which goes away again; in a file, a line a minute.
    """

    def __init__(self, total: int) -> None:
        self.bar = _bar(total, 0, " episodes", unit_scale=False)
        self.bar.leave = False
        self.over, self.total = 0, total
        self.began = self.line_before = time.monotonic()

    def one_more(self) -> None:
        self.over += 1
        self.bar.update()
        now = time.monotonic()
        if self.bar.disable and now - self.line_before >= FILE_SECONDS and self.over < self.total:
            self.line_before = now
            left = (now - self.began) / self.over * (self.total - self.over)
            note(f"{self.over:,} of {self.total:,} episodes, {left / 60:.0f} min left")

    def close(self) -> None:
        self.bar.close()


class StepsPlayed:
    """How many steps of one episode have been played, of which nobody knows how long it will be."""

    def __init__(self, name: str) -> None:
        self.bar = _bar(0, 0, " steps", unit_scale=False, name=name)
        self.bar.leave, self.bar.total = False, None
        self.name, self.steps, self.line_before = name, 0, time.monotonic()

    def one_more(self) -> bool:
        """Count a step; never the last one (a `stop` of `film_episode`)."""
        self.steps += 1
        self.bar.update()
        now = time.monotonic()
        if self.bar.disable and now - self.line_before >= FILE_SECONDS:
            self.line_before = now
            note(f"{self.name}: {self.steps:,} steps so far")
        return False

    def close(self) -> None:
        self.bar.close()


class ProgressBar:
    """How far a run is, on stderr: units done, speed, a few metrics, time left.

    At a terminal it is a bar for each phase; in a file, a line a minute.
    """

    def __init__(self, progress: Progress) -> None:
        self.shown: dict[str, str] = {}
        self.line_written = time.monotonic()
        self._begin(progress)

    def _begin(self, progress: Progress) -> None:
        phase, done, total, unit = progress
        self.progress, self.first_done = progress, done
        self.began = self.moved = time.monotonic()
        self.line_done = done
        name = "" if phase == "train" else phase
        scaled = unit == "env steps"
        self.bar = _bar(total, done, f" {unit}", unit_scale=scaled, name=name)

    def update(self, progress: Progress) -> None:
        """Take over where the algorithm stands."""
        has_begun = self.progress.total == 0 and progress.total > 0  # now its length is known
        if progress.phase != self.progress.phase or has_begun:
            self.bar.leave = self.progress.total > 0
            self.bar.update(self.progress.total - self.bar.n)  # a phase ends at 100 %
            self.bar.close()
            self.shown = {}
            self._begin(progress)
        if progress.done != self.progress.done:
            self.moved = time.monotonic()
        self.progress = progress
        self.bar.update(progress.done - self.bar.n)
        if self.bar.disable and time.monotonic() - self.line_written >= FILE_SECONDS:
            self._write_line()

    def _write_line(self) -> None:
        phase, done, total, unit = self.progress
        now = time.monotonic()
        text = f"{done:,} of {total:,} {unit}" if phase == "train" else ""
        text = text or f"{phase}: {done:,} of {total:,} {unit}"
        if done > self.line_done:  # a generation may take minutes, and is not at a stand meanwhile
            text += f", {(done - self.line_done) / (now - self.line_written):,.3g}/s"
        self.line_written, self.line_done = now, done
        if done > self.first_done:
            pace = (self.moved - self.began) / (done - self.first_done)
            left = pace * (total - done) - (now - self.moved)
            text += f", {max(left, 0.0) / 60:.0f} min left"
        note("; ".join([text, *(f"{name} {value}" for name, value in self.shown.items())]))

    def show(self, metrics: Mapping[str, float]) -> None:
        """The latest of a few metrics behind the bar; others are left out."""
        for name, short in SHOWN.items():
            if name in metrics:
                self.shown[short] = f"{metrics[name]:.4g}"
        self.bar.set_postfix(self.shown, refresh=False)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()
