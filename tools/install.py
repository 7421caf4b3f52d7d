"""Make or mend .venv; tools/setup.sh calls this when .venv is missing or out of date.

    python tools/install.py CHECKSUM [EXTRA...]

The stamp in .venv is written last and says what was installed. While an installation runs, it says
so: finding that later means that the installation was killed, and the next one starts from nothing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "rlzoo-stamp"
UNFINISHED = "unfinished"
EX_UNAVAILABLE, EX_CANTCREAT, INTERRUPTED = 69, 73, 130


class Stamp(NamedTuple):
    """What .venv holds, in three lines that tools/setup.sh reads too."""

    checksum: str = ""  # of pyproject.toml and the constraints, or UNFINISHED
    root: str = str(ROOT)  # a moved or copied clone needs a new .venv, scripts and all
    extras: frozenset[str] = frozenset()

    @classmethod
    def read(cls) -> Stamp:
        if not STAMP.exists():
            return cls()
        lines = STAMP.read_text().splitlines()
        if len(lines) != 3:
            return cls(UNFINISHED)
        return cls(lines[0], lines[1], frozenset(lines[2].split()))

    def write(self) -> None:
        STAMP.write_text(f"{self.checksum}\n{self.root}\n{' '.join(sorted(self.extras))}\n")


def main(checksum: str, *extras: str) -> int:
    # The lock is on this file itself, so there is nothing to clean up: the kernel frees it when its
    # last holder dies. pip holds it too, so nobody overtakes a pip that outlives a killed caller.
    with open(__file__, "r+") as lock:
        wait_for_turn(lock)
        found = Stamp.read()
        wanted = Stamp(checksum, str(ROOT), found.extras.union(extras))
        is_sound = PYTHON.exists() and found.checksum != UNFINISHED and found.root == wanted.root
        if is_sound and found == wanted:
            return 0  # done by the call that was waited for
        say("updating .venv" if is_sound else "first start: installing into .venv (about a minute)")
        if not is_sound:
            shutil.rmtree(VENV, ignore_errors=True)
            VENV.mkdir()
        wanted._replace(checksum=UNFINISHED).write()
        status = install(wanted.extras, is_sound, lock)
        if status == 0:
            wanted.write()
            return 0
        if status > 0:
            STAMP.unlink()  # it gave up by itself: the next call builds on what is there
        say("the installation failed, see above. It needs a network; the next call tries again")
        return EX_UNAVAILABLE


def wait_for_turn(lock: IO[str]) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another call is installing into .venv: waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)


def install(extras: frozenset[str], has_venv: bool, lock: IO[str]) -> int:
    """Run venv and pip; returns the first exit status that is not 0 (negative: killed)."""
    # The resolved interpreter, so that .venv visibly breaks when the system's Python is replaced.
    venv = [os.path.realpath(sys.executable), "-m", "venv", str(VENV)]
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--no-input"]
    pip += ["--disable-pip-version-check", "--constraint", "tools/constraints.txt"]
    package = f".[{','.join(sorted(extras))}]" if extras else "."
    commands = [
        *([] if has_venv else [venv]),
        # The build backend first: a build in isolation would take an unpinned one.
        [*pip, "setuptools"],
        [*pip, "--no-build-isolation", "--editable", package],
    ]
    for command in commands:
        status = subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,  # stdout belongs to the command that comes after
            pass_fds=[lock.fileno()],
        ).returncode
        if status != 0:
            return status
    return 0


def say(text: str) -> None:
    print(f"rlzoo: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        say("installation interrupted; the next call starts over")
        sys.exit(INTERRUPTED)
    except OSError as error:
        say(f"cannot set up {VENV}: {error}")
        sys.exit(EX_CANTCREAT)
