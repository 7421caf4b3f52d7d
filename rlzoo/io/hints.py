"""Commands in messages, as they can be pasted into the shell that the user typed in."""

from __future__ import annotations

import os
import shlex
import shutil
import sys


def command(*words: object) -> str:
    """A command of rlzoo. tools/rlzoo says how it was called; else it may not be on the PATH."""
    name = os.environ.get("RLZOO_COMMAND") or ("rlzoo" if shutil.which("rlzoo") else "")
    start = [name] if name else [sys.executable, "-m", "rlzoo"]
    return shlex.join([*start, *map(str, words)])
