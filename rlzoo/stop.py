"""Stopping on request: signals only set a flag, which every long loop polls."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

NOTE = b"\nrlzoo: stopping: saving at the next safe point (once more to quit without)\n"


class StopSignal:
    """The first SIGINT, SIGTERM or SIGHUP sets the flag; the second one quits at once.

    Call it to poll; `exit_code` is 130, 143 or 129 once it is set. `before_quit` is called on the
    way out of a hasty end.
    """

    def __init__(self, before_quit: Callable[[], None] | None = None) -> None:
        self.number = 0
        self.before_quit = before_quit

    def __call__(self) -> bool:
        return self.number != 0

    @property
    def exit_code(self) -> int:
        return 128 + self.number

    @contextmanager
    def installed(self) -> Iterator[StopSignal]:
        """Handle the signals in a block; one that is ignored (nohup, &) stays ignored."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.getsignal(number) for number in numbers}
        handled = [number for number in numbers if before[number] != signal.SIG_IGN]
        try:
            for number in handled:
                signal.signal(number, self._receive)
            yield self
        finally:
            for number in handled:
                signal.signal(number, before[number])

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            if self.before_quit:
                self.before_quit()
            os._exit(128 + number)
        self.number = number
        with suppress(OSError):
            os.write(2, NOTE)  # print() is not safe here: the signal may have come inside of one
