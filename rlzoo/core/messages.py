"""Everything the program tells its user besides results: one line at a time, on stderr."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from rlzoo.core.types import RlzooError

_LOST = (OSError, ValueError, AttributeError)  # of a stream that is full or gone, closed, None


class Unfailing:
    """Writes to a stream; what that cannot take (a full disk, a closed pipe) is lost."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(*_LOST):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(*_LOST):
            self._stream.flush()


def note(line: str) -> None:
    """Print a line on stderr; results go to stdout."""
    print(f"rlzoo: {printable(line)}", file=Unfailing(sys.stderr), flush=True)


def printable(text: str) -> str:
    """The same with what could steer a terminal spelt out: it may come from anybody's file."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def warn(line: str) -> None:
    """Print a line that says what may be wrong, although the program goes on."""
    note(f"warning: {line}")


def cause(error: BaseException) -> str:
    """Type and message of an exception in one line; of a RlzooError, the message says enough."""
    try:
        text = " ".join(str(error).split())
    except Exception as another:  # noqa: BLE001 - foreign code, which may do anything
        text = f"(no message: {type(another).__name__})"
    return text if isinstance(error, RlzooError) else f"{type(error).__name__}: {text}"
