"""What a person at the terminal sees while something runs: bars, or a line a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from rlzoo.core.messages import note

if TYPE_CHECKING:
    from tqdm import tqdm

SHOWN = {"rollout/return_mean": "return", "train/loss": "loss", "eval/return_mean": "eval"}


FILE_SECONDS = 60.0  # between two lines of progress where stderr is a file or a pipe


def _bar(total: int, done: int, unit: str, *, unit_scale: bool, name: str = "") -> tqdm[NoReturn]:
    from tqdm import tqdm

    return tqdm(
        desc=name,
        total=total,
        initial=done,
        unit=unit,
        unit_scale=unit_scale,
        dynamic_ncols=True,
        mininterval=0.2,
        smoothing=0.1,
        disable=not sys.stderr.isatty(),
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


class Progress:
    """The run's clock on stderr, with speed, return and time left.

    At a terminal it is a bar, in a phase that has a length of its own one of the phase; in a file,
    a line a minute.
    """

    def __init__(self, total: int, done: int) -> None:
        self.bar = _bar(total, done, " steps", unit_scale=True)
        self.at, self.total = done, total
        self.line_before = done, time.monotonic()  # clock and time of the last line in a file
        self.phase_text, self.phase_has_length = "", False
        self.phase_began = "", 0, 0, 0.0  # name, units done then, the clock, when
        self.phase_moved = 0, 0.0  # by how much since then, and when it last did
        self.shown: dict[str, str] = {}

    def update(self, clock: int) -> None:
        if not self.phase_has_length:
            self.bar.update(clock - self.at)
        self.at = clock
        if self.bar.disable and time.monotonic() - self.line_before[1] >= FILE_SECONDS:
            self._line()

    def _line(self) -> None:
        before, then = self.line_before
        self.line_before = self.at, time.monotonic()
        text = f"{self.at:,} of {self.total:,} steps"
        if self.at > before:  # a generation may take minutes, and is not at a stand meanwhile
            text += f", {(self.at - before) / (time.monotonic() - then):,.0f}/s"
        parts = [text, self.phase_text]
        parts += [f"{name} {value}" for name, value in self.shown.items()]
        note("; ".join(part for part in parts if part))

    def phase(self, name: str, done: int, total: int, unit: str) -> None:
        """How far the current phase is; an estimate of its time left once there is a pace."""
        if name != self.phase_began[0]:
            self._next_bar(name, done, total, unit)
            self.phase_began = name, done, self.at, time.monotonic()
        _, first, first_at, start = self.phase_began
        text = f"{name} {done:,}" + (f" of {total:,}" if total else "") + f" {unit}"
        # A phase of no length of its own lasts until the run is over.
        gone, ahead = (
            (done - first, total - done) if total else (self.at - first_at, self.total - self.at)
        )
        if gone != self.phase_moved[0]:
            self.phase_moved = gone, time.monotonic()
        if gone > 0:
            moved = self.phase_moved[1]
            left = (moved - start) / gone * ahead - (time.monotonic() - moved)
            text += f", {max(left, 0.0) / 60:.0f} min left"
        self.phase_text = text
        self.bar.set_description(name if total else text, refresh=False)
        if total:
            self.bar.update(done - self.bar.n)

    def _next_bar(self, name: str, done: int, total: int, unit: str) -> None:
        """A new bar, without the old one's metrics; that of an earlier phase stays above it."""
        self.bar.leave = bool(self.phase_began[0])
        self.bar.close()
        self.phase_has_length, self.shown = total > 0, {}
        self.bar = (
            _bar(total, done, f" {unit}", unit_scale=False, name=name)
            if total
            else _bar(self.total, self.at, " steps", unit_scale=True, name=name)
        )

    def show(self, metrics: Mapping[str, float]) -> None:
        """The latest of a few metrics behind the bar; others are left out."""
        for name, short in SHOWN.items():
            if name in metrics:
                self.shown[short] = f"{metrics[name]:.4g}"
        self.bar.set_postfix(self.shown, refresh=False)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()
