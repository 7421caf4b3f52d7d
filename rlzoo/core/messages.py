"""Everything the program tells its user besides results: one line at a time, on stderr."""

from __future__ import annotations

import sys


def note(line: str) -> None:
    """Print a line on stderr; results go to stdout."""
    print(f"rlzoo: {line}", file=sys.stderr, flush=True)


def warn(line: str) -> None:
    """Print a line that says what may be wrong, although the program goes on."""
    note(f"warning: {line}")
