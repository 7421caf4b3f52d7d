"""Everything the program tells its user besides results: one line at a time, on stderr."""

from __future__ import annotations

import sys

from rlzoo.core.types import RlzooError


def note(line: str) -> None:
    """Print a line on stderr; results go to stdout."""
    print(f"rlzoo: {line}", file=sys.stderr, flush=True)


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
