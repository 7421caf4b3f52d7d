"""Logging cannot kill training, and leaves no half line behind."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import rlzoo.io
from rlzoo.core.types import State
from rlzoo.io import append, events
from rlzoo.io.append import AppendFile
from rlzoo.io.logger import RECORD, TENSORBOARD, Logger, LoggerConfig


class Run:
    """A logger and the warnings it gave."""

    def __init__(self, directory: Path, resume_at: State | None = None) -> None:
        self.directory = directory
        self.warnings: list[str] = []
        self.logger = Logger(
            directory, LoggerConfig(), resume_at=resume_at, warn=self.warnings.append
        )

    def log(self, first: int, last: int) -> None:
        for step in range(first, last + 1):
            self.logger.scalars(step, {"a": float(step)})

    def record_steps(self) -> list[int]:
        lines = (self.directory / RECORD).read_bytes().splitlines(keepends=True)
        assert all(line.endswith(b"\n") for line in lines)
        return [json.loads(line)["step"] for line in lines]

    def event_steps(self) -> list[int]:
        reader = EventAccumulator(str(self.directory / "tb")).Reload()
        return [event.step for event in reader.Scalars("a")]


@contextmanager
def full_disk(*, bytes_left: int, file: Path) -> Iterator[None]:
    """No file may grow past the size of `file` plus some bytes: the kernel cuts writes short."""
    old, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + bytes_left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (old, hard))


def test_full_disk_is_two_warnings_and_no_half_line(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.log(1, 3)
    with full_disk(bytes_left=10, file=tmp_path / RECORD):
        run.log(4, 8)
        run.logger.image(8, "picture", np.zeros((4, 4, 3), np.uint8))
        run.logger.histogram(8, "h", np.ones(4))
        assert run.record_steps() == [1, 2, 3]
        assert run.event_steps() == [1, 2, 3]
        saved = run.logger.state()
        assert saved["metrics_bytes"] == (tmp_path / RECORD).stat().st_size
    # The write of state() failed too.
    assert run.logger.failures == {RECORD: 6, TENSORBOARD: 7}
    assert len(run.warnings) == 2
    assert all("\n" not in line and "training goes on" in line for line in run.warnings)
    run.log(9, 10)
    # Space again: the record is complete, TensorBoard has a gap and is readable behind it.
    assert run.record_steps() == list(range(1, 11))
    assert run.event_steps() == [1, 2, 3, 9, 10]
    assert len(run.warnings) == 2


def test_full_disk_leaves_a_half_line_in_an_ordinary_file(tmp_path: Path) -> None:
    """The negative control: the planted fault does tear."""
    path = tmp_path / "plain"
    path.write_bytes(b"one\n")
    with full_disk(bytes_left=2, file=path), pytest.raises(OSError), FileIO(path, "ab") as file:
        rest = b"two\n"
        while rest:
            rest = rest[file.write(rest) :]
    assert path.read_bytes() == b"one\ntw"


def test_record_whose_repair_fails_is_repaired_by_the_next_append(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Torn(FileIO):
        broken = False

        def write(self, data: Any) -> int:
            if self.broken:
                super().write(data[:2])
                raise OSError("no space")
            return super().write(data)

        def truncate(self, size: int | None = None) -> int:
            if self.broken:
                raise OSError("no space")
            return super().truncate(size)

    monkeypatch.setattr(append, "FileIO", Torn)
    file = AppendFile(tmp_path / "f")
    file.append(b"one\n")
    Torn.broken = True
    with pytest.raises(OSError):
        file.append(b"two\n")
    assert (tmp_path / "f").read_bytes() == b"one\ntw"
    assert file.size == 4
    Torn.broken = False
    file.append(b"three\n")
    assert (tmp_path / "f").read_bytes() == b"one\nthree\n"


def test_raising_writer_is_one_warning_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(self: Any, step: int, values: Any) -> None:
        raise RuntimeError("the writer\nis dead")

    monkeypatch.setattr(events.EventFile, "write", raising)
    run = Run(tmp_path)
    run.log(1, 5)
    assert run.record_steps() == [1, 2, 3, 4, 5]
    assert run.logger.failures == {TENSORBOARD: 5}
    assert run.warnings == [
        "logging to tensorboard failed (RuntimeError: the writer is dead); training goes on"
    ]
    # Negative control: without the guard the same fault does reach training.
    monkeypatch.setattr(Logger, "_survive", lambda self, backend: nullcontext())
    with pytest.raises(RuntimeError, match="dead"):
        run.log(6, 6)


def test_missing_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(rlzoo.io, "events")
    monkeypatch.setitem(sys.modules, "rlzoo.io.events", None)
    run = Run(tmp_path)
    run.log(1, 3)
    run.logger.close()
    assert run.record_steps() == [1, 2, 3]
    assert run.logger.failures == {TENSORBOARD: 3}
    assert len(run.warnings) == 1


def test_unwritable_record(tmp_path: Path) -> None:
    (tmp_path / RECORD).mkdir()
    run = Run(tmp_path)
    run.log(1, 3)
    assert run.event_steps() == [1, 2, 3]
    assert run.logger.failures[RECORD] == 4  # with the one at the start
    assert len(run.warnings) == 1
    run.logger.state()
    run.logger.close()


@pytest.mark.parametrize(
    "use",
    [
        lambda logger: logger.scalars(2, {"a": "no number"}),
        lambda logger: logger.histogram(2, "h", np.full(3, np.nan)),
        lambda logger: logger.image(2, "i", np.zeros((2, 2, 2, 2))),
        lambda logger: logger.video(2, "v", np.zeros((0, 2, 2, 3), np.uint8), 30),
        lambda logger: logger.text("t", None),
        lambda logger: logger.session_end("unheard of"),
    ],
)
def test_value_that_cannot_be_shown(tmp_path: Path, use: Callable[[Logger], None]) -> None:
    run = Run(tmp_path)
    run.log(1, 1)
    use(run.logger)
    run.log(3, 3)
    assert sum(run.logger.failures.values()) == len(run.warnings) == 1
    assert run.record_steps() == [1, 3]
    assert run.event_steps() == [1, 3]


def test_lines_waiting_for_space_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlzoo.io.logger.MAX_UNWRITTEN", 3)
    (tmp_path / RECORD).mkdir()
    run = Run(tmp_path)
    run.log(1, 5)
    (tmp_path / RECORD).rmdir()
    run.log(6, 6)
    assert run.record_steps() == [4, 5, 6]


@pytest.mark.parametrize("left", [0, 1, 20])
def test_record_shorter_than_the_checkpoint_says_is_a_warning(tmp_path: Path, left: int) -> None:
    first = Run(tmp_path)
    first.log(1, 5)
    saved = first.logger.state()
    content = (tmp_path / RECORD).read_bytes()
    line = len(content) // 5
    (tmp_path / RECORD).write_bytes(content[: 2 * line + left])
    second = Run(tmp_path, saved)
    assert len(second.warnings) == 1
    expected = f"got {(2 + left // line) * line} bytes, expected {len(content)}"
    assert expected in second.warnings[0]
    second.log(6, 6)
    assert second.record_steps() == [1, 2, 6] if left < line else [1, 2, 3, 6]


def test_missing_record_on_resume_is_a_warning(tmp_path: Path) -> None:
    first = Run(tmp_path)
    first.log(1, 5)
    saved = first.logger.state()
    (tmp_path / RECORD).unlink()
    second = Run(tmp_path, saved)
    second.log(6, 6)
    assert len(second.warnings) == 1
    assert second.record_steps() == [6]
