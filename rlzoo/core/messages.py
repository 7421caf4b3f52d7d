"""Everything the program tells its user besides results: one line at a time, on stderr."""

from __future__ import annotations

import sys

from rlzoo.core.types import RlzooError


def note(line: str) -> None:
    """Print a line on stderr; results go to stdout."""
    print(f"rlzoo: {printable(line)}", file=sys.stderr, flush=True)


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
