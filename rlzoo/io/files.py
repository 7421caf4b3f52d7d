"""Writing that survives a kill or a full disk, and reading of files that nobody has to trust."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlzoo.core.types import DataError, StorageError
from rlzoo.io.regular import open_regular

# What begins so is unfinished: the leftover of a kill, removed by the next one who writes there.
TEMPORARY = ".rlzoo-tmp-"
# Together they hold what parsing takes to about 200 MB: an empty list takes two characters in the
# file and some 60 bytes in memory, a mapping 240.
MAX_JSON_BYTES = 16 << 20
MAX_JSON_CONTAINERS = 500_000
MAX_JSON_DEPTH = 64


def write(path: Path, data: bytes | memoryview) -> None:
    """Create a file that does not exist yet and force its content to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Force the names in a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(source: Path, target: Path) -> None:
    """Rename within one directory and force the new name to the disk."""
    os.rename(source, target)
    sync_directory(target.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Put `data` in place of a file: a kill leaves the old or the new content, never neither."""
    temporary = _temporary(path)
    try:
        write(temporary, data)
        publish(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def overwrite(path: Path, data: bytes) -> None:
    """Put `data` into a file that exists: takes no more room, but a kill can leave a mixture."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        with open(descriptor, "wb", buffering=0) as file:
            file.write(data)
            file.truncate()
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def write_linked(path: Path, data: memoryview, twin: Path | None) -> None:
    """Write `data`, or share the bytes of `twin` by a hard link if it holds the same content.

    The twin is compared byte by byte, so that damage on the disk is never inherited.
    """
    if twin is not None:
        try:
            if read(twin, size=len(data)) == bytes(data):  # a memoryview compares far slower
                os.link(twin, path)
                return
        except (DataError, OSError):
            pass  # no longer the same, or a file system without hard links: write it anew
    write(path, data)


def read(path: Path, *, size: int | None = None, limit: int | None = None) -> bytes:
    """The content of a regular file of exactly `size` bytes, or of at most `limit` bytes.

    DataError for a missing file, any other size, a symbolic link, FIFO or device (none of which
    is opened); StorageError when reading fails.
    """
    try:
        descriptor = open_regular(path)
        with open(descriptor, "rb") as file:
            actual = os.fstat(descriptor).st_size
            if size is not None and actual != size:
                raise DataError(f"{path}: corrupt: {actual} bytes, expected {size}")
            if limit is not None and actual > limit:
                raise DataError(f"{path}: {actual} bytes, expected at most {limit}")
            require_memory(actual, path)
            return file.read(actual)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: missing") from error
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error


def require_memory(size: int, where: Path) -> None:
    """DataError for a size in bytes that this machine cannot hold, before anything is allocated."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise DataError(f"{where}: needs {size} bytes of memory, this machine has {memory}")


def parse_json(data: bytes, where: Path) -> Any:
    """Parse JSON from a file that nobody has to trust; DataError names the file."""
    containers = data.count(b"[") + data.count(b"{")  # or fewer: some may be in a text
    if containers > MAX_JSON_CONTAINERS:
        raise DataError(f"{where}: {containers} lists and mappings, too many to be read")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON: {error}") from error
    level = [content]
    for _ in range(MAX_JSON_DEPTH):
        level = [item for node in level for item in _items(node)]
    if level:
        raise DataError(f"{where}: nested deeper than {MAX_JSON_DEPTH} levels")
    return content


def _items(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def remove(path: Path) -> None:
    """Remove a file or tree; a kill half-way never leaves a part of it under its own name."""
    grave = _temporary(path)
    os.rename(path, grave)
    delete(grave)


def remove_leftovers(directory: Path) -> None:
    """Remove what a killed process left unfinished in a directory that nobody else writes to."""
    for name in os.listdir(directory):
        if name.startswith(TEMPORARY):
            delete(directory / name)


def delete(path: Path) -> None:
    """Delete a file, link or whole directory."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _temporary(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name}")
