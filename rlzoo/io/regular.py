"""Opening files that nobody has to trust: regular files and real folders, and nothing else.

A link would lead out of the folder that it came in; a FIFO or a device can hang who opens it.
What is in them is foreign, too: `foreign` makes one clear error of whatever that brings up.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlzoo.core.types import DataError, RlzooError, StorageError

MAX_ENTRIES = 100_000  # files and folders in a run directory

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# What a value of another type, name or size than expected can raise, in NumPy and torch, too.
_FOREIGN = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RecursionError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip


def open_regular(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file, which nothing else is opened to find out.

    To write in place, it must have no second name (a hard link) either, as that may be anybody's.
    DataError names what is there instead; OSError as `os.open`.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    else:
        if not stat.S_ISREG(found.st_mode):
            raise _refusal(path, found.st_mode)
        if flags & (os.O_WRONLY | os.O_RDWR) and found.st_nlink > 1:
            raise DataError(f"{path}: has another name (a hard link), so it is not written to")
    # The flags hold the check above against a swap of the file in between.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)


def read_regular(path: Path, *, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    DataError for a missing or larger file and for what `open_regular` refuses; StorageError when
    reading fails.
    """
    try:
        with open(open_regular(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise DataError(f"{path}: {size} bytes, expected at most {limit}")
            return file.read(size)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: missing") from error
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error


def check_tree(root: Path) -> None:
    """DataError unless everything below a folder is a regular file or a folder."""
    count, folders = 0, [os.fspath(root)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    count += 1
                    if count > MAX_ENTRIES:
                        raise DataError(f"{root}: has more than {MAX_ENTRIES} files")
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif not entry.is_file(follow_symlinks=False):
                        raise _refusal(entry.path, entry.stat(follow_symlinks=False).st_mode)
        except FileNotFoundError:
            pass  # a running process has just removed it
        except OSError as error:
            raise StorageError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _refusal(path: str | Path, mode: int) -> DataError:
    kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
    if stat.S_ISLNK(mode):
        kind += f" to {os.readlink(path)!r}"
    return DataError(f"{path}: not a regular file but {kind}")


@contextmanager
def foreign(where: str | Path) -> Iterator[None]:
    """Whatever foreign content brings up inside becomes a DataError that names its place."""
    try:
        yield
    except DataError as error:
        if str(where) in str(error):
            raise
        raise DataError(f"{where}: {error}") from error
    except RlzooError:
        raise
    except _FOREIGN as error:
        got = (
            f"has no {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        )
        raise DataError(f"{where}: not as rlzoo writes it: {got:.300}") from error
