"""Everything the program tells its user besides results: one line at a time, on stderr."""

from __future__ import annotations

import os
import shlex
import shutil
import sys

from rlzoo.core.types import RlzooError


def note(line: str) -> None:
    """Print a line on stderr; results go to stdout."""
    print(f"rlzoo: {line}", file=sys.stderr, flush=True)


def warn(line: str) -> None:
    """Print a line that says what may be wrong, although the program goes on."""
    note(f"warning: {line}")


def command(*words: object) -> str:
    """A command of rlzoo that can be pasted into the shell that this one was typed in."""
    name = os.environ.get("RLZOO_COMMAND") or ("rlzoo" if shutil.which("rlzoo") else "")
    name = shlex.quote(name) if name else f"{shlex.quote(sys.executable)} -m rlzoo"
    return " ".join([name, *(shlex.quote(str(word)) for word in words)])


def cause(error: BaseException) -> str:
    """Type and message of an exception in one line; of a RlzooError, the message says enough."""
    try:
        text = " ".join(str(error).split())
    except Exception as another:  # noqa: BLE001 - foreign code, which may do anything
        text = f"(no message: {type(another).__name__})"
    return text if isinstance(error, RlzooError) else f"{type(error).__name__}: {text}"
