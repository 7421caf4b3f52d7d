"""Stopping on request: signals only set a flag, which every long loop polls."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopSignal:
    """The first SIGINT or SIGTERM sets the flag; the second one quits at once.

    Call it to poll; `exit_code` is 130 or 143 once it is set.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self.number = 0
        self.note = note

    def __call__(self) -> bool:
        return self.number != 0

    @property
    def exit_code(self) -> int:
        return 128 + self.number

    @contextmanager
    def installed(self) -> Iterator[StopSignal]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, self._receive) for number in numbers]
        try:
            yield self
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            os._exit(128 + number)
        self.number = number
        self.note("stopping: saving at the next safe point (once more to quit without)")
