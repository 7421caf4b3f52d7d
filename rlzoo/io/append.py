"""A file that grows by whole records, whatever happens to the disk."""

from __future__ import annotations

import os
from contextlib import suppress
from io import FileIO
from pathlib import Path

from rlzoo.io.regular import open_regular

BLOCK_BYTES = 64 << 10


class AppendFile:
    """Appends each record at once and unbuffered; an append that fails leaves no part of it.

    So a process that is killed loses no record, and a full disk tears none. The file is opened
    by the first append, which is also the first call that can fail. Its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None
        self._torn_at: int | None = None  # end of the last whole record, where more follows it

    @property
    def size(self) -> int:
        """Bytes of whole records in the file."""
        if self._torn_at is not None:
            return self._torn_at
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, record: bytes) -> None:
        """Write the whole record or none of it; raises OSError."""
        if self._file is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._file = FileIO(open_regular(self.path, flags), "ab")
        self._mend(self._file)
        self._torn_at = os.fstat(self._file.fileno()).st_size
        try:
            rest = memoryview(record)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with suppress(OSError):
                self._mend(self._file)
            raise
        self._torn_at = None

    def _mend(self, file: FileIO) -> None:
        if self._torn_at is not None:
            file.truncate(self._torn_at)
            self._torn_at = None

    def sync(self) -> None:
        """Wait until the records are on the disk; raises OSError."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def rewind_lines(path: Path, size: int) -> int:
    """Cut a text file back to at most `size` bytes of whole lines; returns what is left of it."""
    try:
        descriptor = open_regular(path, os.O_RDWR)
    except FileNotFoundError:
        return 0
    with open(descriptor, "r+b") as file:
        kept = min(size, os.fstat(descriptor).st_size)
        while kept:  # the last line end before, a block at a time from behind
            begin = max(0, kept - BLOCK_BYTES)
            file.seek(begin)
            found = file.read(kept - begin).rfind(b"\n") + 1
            kept = begin + found
            if found:
                break
        file.truncate(kept)
    return kept
