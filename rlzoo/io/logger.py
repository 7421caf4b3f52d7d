"""What a run says about itself: metrics.jsonl is the durable record, TensorBoard a view of it."""

from __future__ import annotations

import json
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rlzoo.core.settings import setting
from rlzoo.core.types import DataError, State
from rlzoo.io import files
from rlzoo.io.append import AppendFile, rewind_lines
from rlzoo.io.regular import foreign, open_regular

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

    from rlzoo.io.events import EventFile

RECORD, TENSORBOARD = "metrics.jsonl", "tensorboard"  # the two backends
MAX_UNWRITTEN = 10_000  # lines that wait for a full disk to have space again
MAX_RECORD_BYTES = 256 << 20  # a run of 100M env steps that logs every 1,000 takes some 60 MB
MAX_LINE_BYTES = 64 << 10
MAX_POINTS = 200_000


def read_curve(path: Path, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps and values of a metric in metrics.jsonl, None where it has no finite value.

    A last line without its end is a run that is just being written, and is left out. DataError
    names the first line that is not as a run writes it.
    """
    points: dict[int, float] = {}
    name = json.dumps(metric).encode()
    for number, line in enumerate(_lines(path), start=1):
        if name not in line and line.startswith(b"{") and line.endswith(b"}\n"):
            continue  # parsing takes far longer
        with foreign(f"{path}, line {number}"):
            row = json.loads(line)
            if row.get(metric) is not None:
                points[_step(row["step"])] = bounded(row[metric])
        if len(points) > MAX_POINTS:
            raise DataError(f"{path}: more than {MAX_POINTS} values of {metric}")
    if not points:
        return None
    steps = sorted(points)
    return np.array(steps), np.array([points[step] for step in steps])


def _lines(path: Path) -> Iterator[bytes]:
    """The whole lines of a file, one after the other; DataError for what is too large."""
    try:
        with open(open_regular(path), "rb") as file:
            if (size := os.fstat(file.fileno()).st_size) > MAX_RECORD_BYTES:
                raise DataError(f"{path}: {size} bytes, expected at most {MAX_RECORD_BYTES}")
            while line := file.readline(MAX_LINE_BYTES):
                if line.endswith(b"\n"):
                    yield line
                elif len(line) == MAX_LINE_BYTES:
                    raise DataError(f"{path}: a line of more than {MAX_LINE_BYTES} bytes")
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing") from error


def _step(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise DataError(f"step: got {value!r:.60}, expected a whole number")
    return value


def bounded(value: Any) -> float:
    """A number from a file that can be averaged with others: finite, and no more than 1e100."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e100:
        raise DataError(f"got {value!r:.60}, expected a number")
    return float(value)


@dataclass(frozen=True)
class LoggerConfig:
    tensorboard: bool = setting(True, "write TensorBoard event files into the run's tb/")
    histograms: bool = setting(True, "TensorBoard: histograms of weights and values")
    videos: bool = setting(True, "TensorBoard: evaluation films as animated GIF")
    every_video: bool = setting(
        False, "a film of every evaluation, not only of those with a new best policy"
    )


class Logger:
    """Writes metrics, pictures and texts of one run, and never stops it.

    An exception of a backend is counted in `failures`, the first one of each is also passed to
    `warn` as one line; the next call tries again. `resume_at` is what `state()` gave to the
    checkpoint that the run goes on from: everything that was logged later is taken back.
    """

    def __init__(
        self,
        directory: Path,
        config: LoggerConfig,
        *,
        resume_at: State | None,
        warn: Callable[[str], None],
    ) -> None:
        self.failures: Counter[str] = Counter()
        self._directory = directory
        self._config = config
        self._warn = warn
        self._last_step = -1 if resume_at is None else int(resume_at["last_step"])
        self._purge_step = self._last_step + 1
        self._events: EventFile | None = None
        # Where the event files end that count; older checkpoints do not say.
        self._events_end = ("", 0) if resume_at is None else resume_at.get("events_end")
        self._record = AppendFile(directory / RECORD)
        self._record_bytes = 0 if resume_at is None else int(resume_at["metrics_bytes"])
        self._unwritten: deque[bytes] = deque(maxlen=MAX_UNWRITTEN)
        with self._survive(RECORD):
            self._rewind(self._record_bytes)

    def _rewind(self, size: int) -> None:
        kept = rewind_lines(self._record.path, size)
        if kept < size:
            self._warn(
                f"{RECORD}: got {kept} bytes, expected {size} as in the checkpoint: "
                "some of the lines before it are lost"
            )

    @contextmanager
    def _survive(self, backend: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  logging must not be able to kill training
            self.failures[backend] += 1
            if self.failures[backend] == 1:
                message = " ".join(f"{type(error).__name__}: {error}".split())
                self._warn(f"logging to {backend} failed ({message}); training goes on")

    def scalars(self, step: int, metrics: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl and one TensorBoard event; values are numbers or 0-d arrays.

        A value that is not finite becomes null in the line and is left out of TensorBoard.
        """
        self._last_step = max(self._last_step, step)
        finite: dict[str, float | None] = {}
        with self._survive(RECORD):
            numbers = {name: float(value) for name, value in metrics.items()}
            finite = {n: v if math.isfinite(v) else None for n, v in numbers.items()}
            line = json.dumps({"step": step, **finite}, allow_nan=False)
            self._unwritten.append(line.encode() + b"\n")
            self._write_lines()
        self._show(
            step, lambda events: [events.scalar(n, v) for n, v in finite.items() if v is not None]
        )

    def _write_lines(self) -> None:
        if self._unwritten:
            self._record.append(b"".join(self._unwritten))
            self._unwritten.clear()

    def histogram(self, step: int, name: str, array: np.ndarray) -> None:
        """The distribution of an array of any shape."""
        if self._config.histograms:
            self._show(step, lambda events: [events.histogram(name, array)])

    def image(self, step: int, name: str, pixels_HWC: np.ndarray) -> None:
        """A picture, uint8."""
        self._show(step, lambda events: [events.image(name, pixels_HWC)])

    def figure(self, step: int, name: str, pixels_HWC: np.ndarray) -> None:
        """A drawing (uint8) that is also <name>.png in the run directory, until the next one."""
        with self._survive("figures"):
            import io

            from PIL import Image

            buffer = io.BytesIO()
            Image.fromarray(pixels_HWC).save(buffer, format="PNG")
            files.write_atomic(self._directory / f"{name}.png", buffer.getvalue())
        self.image(step, f"figures/{name}", pixels_HWC)

    def video(self, step: int, name: str, frames_THWC: np.ndarray, fps: float) -> None:
        """A film (uint8) as a small animated GIF among the images; its speed is kept."""

        def summary(events: Any) -> list[Summary.Value]:
            from rlzoo.io import video

            small_THWC, small_fps = video.preview(frames_THWC, fps)
            data = video.encode_gif(small_THWC, small_fps)
            return [events.encoded_image(name, data, small_THWC.shape[1:])]

        if self._config.videos:
            self._show(step, summary)

    def text(self, name: str, markdown: str) -> None:
        """A text about the run from here on, for example its settings."""
        self._show(self._last_step + 1, lambda events: [events.text(name, markdown)])

    def hparams(self, settings: Mapping[str, Any]) -> None:
        """Show the run's settings (a flat dict) in the HPARAMS tab, beside its own scalars."""

        def summary(events: Any) -> list[Summary.Value]:
            (self._directory / "tb").mkdir(parents=True, exist_ok=True)
            events.write_hparams(self._directory / "tb", settings)
            return []

        self._show(self._last_step + 1, summary)

    def session_end(self, status: Literal["success", "failure"]) -> None:
        """Close the run in the HPARAMS tab; TensorBoard keeps the first one, so call it last."""
        self._show(self._last_step, lambda events: [events.session_end(status)])

    def _show(self, step: int, summary: Callable[[Any], list[Summary.Value]]) -> None:
        """Write what `summary` makes with the module `rlzoo.io.events` to TensorBoard."""
        if not self._config.tensorboard:
            return
        with self._survive(TENSORBOARD):
            from rlzoo.io import events  # here, because TensorBoard may be missing or broken

            if self._events is None:
                if self._events_end is not None:
                    events.rewind(self._directory / "tb", *self._events_end)
                self._events = events.EventFile(self._directory / "tb", self._purge_step)
            self._events.write(max(step, 0), summary(events))

    def state(self) -> State:
        """Where the log stands, for the checkpoint."""
        with self._survive(RECORD):
            self._write_lines()
        with self._survive(RECORD):
            self._record_bytes = self._record.size
            self._record.sync()
        with self._survive(TENSORBOARD):
            if self._events is not None:
                self._events_end = self._events.end
        return {
            "metrics_bytes": self._record_bytes,
            "last_step": self._last_step,
            **({} if self._events_end is None else {"events_end": list(self._events_end)}),
        }

    def close(self) -> None:
        with self._survive(RECORD):
            self._write_lines()
            self._record.close()
        with self._survive(TENSORBOARD):
            if self._events is not None:
                self._events.close()
