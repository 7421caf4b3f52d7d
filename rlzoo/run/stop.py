"""Stopping on request: signals only set a flag, which every long loop polls."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

FIRST = b"\nrlzoo: stopping: saving at the next safe point (once more to quit without)\n"
SECOND = b"\nrlzoo: quitting without saving\n"


class StopSignal:
    """The first SIGINT, SIGTERM or SIGHUP sets the flag; a second SIGINT or SIGTERM quits at once.

    SIGHUP is never taken for impatience: where a terminal is closed, kernel and shell both send it.
    Call it to poll; `exit_code` is 130, 143 or 129 once it is set. `before_quit` is called on the
    way out of a hasty end.
    """

    def __init__(self, before_quit: Callable[[], None] | None = None) -> None:
        self.number = 0
        self.was_asked = False  # by SIGINT or SIGTERM
        self.before_quit = before_quit

    def __call__(self) -> bool:
        return self.number != 0

    @property
    def exit_code(self) -> int:
        return 128 + self.number

    @contextmanager
    def installed(self) -> Iterator[StopSignal]:
        """Handle the signals in a block; a SIGHUP that is ignored (nohup) stays ignored."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        before = [signal.signal(number, self._receive) for number in numbers]
        try:
            yield self
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        is_hasty = self.was_asked and number != signal.SIGHUP
        if is_hasty or not self.number:
            with suppress(OSError):  # print() is not safe here: the signal may come inside of one
                os.write(2, SECOND if is_hasty else FIRST)
        if is_hasty:
            if self.before_quit:
                self.before_quit()
            os._exit(128 + number)
        self.number = self.number or number
        self.was_asked |= number != signal.SIGHUP
