"""Reading .npz files that nobody has to trust: what they hold is known before it is read.

An .npz is a zip of .npy members. The standard library reads the zip and NumPy the headers; here
every size in them is held against the file's own size before an array is allocated. Nothing is
ever unpickled. Arrays that are large and not compressed are mapped, not read.
"""

from __future__ import annotations

import io
import math
import os
import re
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy

from rlzoo.core.types import DataError, StorageError
from rlzoo.io.regular import open_regular

MAX_MEMBERS = 64
MAX_HEADER_BYTES = 4096
MAX_DIMENSIONS = 32
# Compressed members may grow to so many bytes, or to so many times the size of the file. Deflate
# can do 1030 to 1; a recording comes near that only where it is small or holds nothing.
MAX_EXPANDED_BYTES = 32 << 20
MAX_EXPANSION = 100
MAP_FROM_BYTES = 16 << 20
_READ_BYTES = 64 << 10
_NAME = re.compile(r"\w{1,100}\.npy", re.ASCII)
_DTYPE = re.compile(r"\|b1|\|[iu]1|[<>][iu][248]|[<>]f[248]|[<>]U\d{1,3}", re.ASCII)
# Version 3 is for names of fields that are not Latin, and there are no fields here.
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# What zipfile and zlib raise for a file that is damaged or beyond them; DataError is a ValueError.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OverflowError, RuntimeError, ValueError
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """An array as its .npy header describes it."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    size: int  # of the header itself, bytes


class Npz:
    """An open .npz whose directory and headers have been checked: `with Npz(path) as file`.

    `headers` says what `array(name)` will give. Members named in `skip` are never looked into.
    DataError names the file, the member, what is there and what was expected; also for a path
    that is a symbolic link (the last part of it), a FIFO or a device, none of which is opened.
    """

    def __init__(self, path: Path, skip: Collection[str] = ()) -> None:
        self.path = path
        try:
            with ExitStack() as if_refused:
                self._file = if_refused.enter_context(_SmallReads(open_regular(path), "rb"))
                self._members = self._directory()
                self.names = list(self._members)
                self.headers = {name: self._header(name) for name in self.names if name not in skip}
                self._check_expansion()
                if_refused.pop_all()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(f"{path}: no such file") from error
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror}") from error

    def __enter__(self) -> Npz:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def error(self, name: str, complaint: str) -> DataError:
        return DataError(f"{self.path}: {name}: {complaint}")

    def array(self, name: str) -> np.ndarray:
        """The array of a member, read-only and in this machine's byte order.

        Its checksum is verified first, also where it is mapped: then the file must not be changed
        while the array is in use.
        """
        member, header = self._members[name], self.headers[name]
        is_stored = member.compress_type == zipfile.ZIP_STORED
        is_mapped = is_stored and member.file_size >= MAP_FROM_BYTES
        data: Any = bytearray(0 if is_mapped else member.file_size)
        position = 0
        with self._refused(f"{name}: corrupt"), self._zip.open(member) as content:
            while chunk := content.read(_READ_BYTES):  # the last one verifies the checksum
                if not is_mapped:
                    data[position : position + len(chunk)] = chunk
                position += len(chunk)
        if position != member.file_size:
            raise self.error(name, f"corrupt: {position} bytes, expected {member.file_size}")
        if is_mapped:
            data = np.memmap(self._file, np.uint8, "r", self._begin(member), (position,))
        array = np.ndarray(header.shape, header.dtype, data, header.size, order=header.order)
        array = array.astype(header.dtype.newbyteorder("="), copy=False)
        array.setflags(write=False)
        return array

    def _directory(self) -> dict[str, zipfile.ZipInfo]:
        """The members by name, each with bytes of its own inside of the file."""
        start = self._file.read(6)
        if not start.startswith(b"PK"):
            raise DataError(f"{self.path}: {_what_it_is(start)}, expected an .npz file")
        with self._refused("truncated, or a malformed zip"):
            self._zip = zipfile.ZipFile(self._file)
        count = len(self._zip.infolist())
        self._require(count <= MAX_MEMBERS, f"{count} members, expected at most {MAX_MEMBERS}")
        self._file.seek(-22 - len(self._zip.comment), os.SEEK_END)
        self._require(self._file.read(4) == b"PK\5\6", "bytes after the zip's end")
        members: dict[str, zipfile.ZipInfo] = {}
        end = 0
        for member in sorted(self._zip.infolist(), key=lambda m: m.header_offset):
            self._check_kind(member)
            name, at = member.filename.removesuffix(".npy"), member.header_offset
            self._require(name not in members, f"two members named '{name}'")
            in_place = at == 0 or len(members) > 0
            self._require(in_place, "truncated, or the zip's directory is misplaced")
            self._require(end <= at < self._zip.start_dir, f"{name}: overlaps another member")
            end = self._begin(member) + member.compress_size
            self._require(end <= self._zip.start_dir, f"{name}: truncated")
            members[name] = member
        return members

    def _check_kind(self, member: zipfile.ZipInfo) -> None:
        name, method = member.orig_filename, member.compress_type
        self._require(
            _NAME.fullmatch(name) is not None,
            f"a member named {name!r:.60}, expected a plain name such as 'obs.npy'",
        )
        kind = stat.S_IFMT(member.external_attr >> 16)
        self._require(kind in (0, stat.S_IFREG), f"{name}: not a regular file inside of the zip")
        self._require(not member.flag_bits & 1, f"{name}: encrypted")
        known = method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        self._require(known, f"{name}: compression method {method}, expected none or deflate")
        as_it_is = method == zipfile.ZIP_DEFLATED or member.compress_size == member.file_size
        self._require(as_it_is, f"{name}: not compressed, and yet of two sizes")

    def _begin(self, member: zipfile.ZipInfo) -> int:
        """Where the content of a member begins: behind a header of its own, of any length."""
        self._file.seek(member.header_offset + 26)
        return member.header_offset + 30 + sum(struct.unpack("<2H", self._file.read(4)))

    def _header(self, name: str) -> Header:
        member = self._members[name]
        with self._refused(f"{name}: corrupt"), self._zip.open(member) as content:
            start = content.read(_READ_BYTES)
        if not start.startswith(npy.MAGIC_PREFIX):
            raise self.error(name, f"{_what_it_is(start)}, expected an .npy array")
        file = io.BytesIO(start)
        try:
            with warnings.catch_warnings(action="error"):  # of odd text, which no array has
                read = _READERS[npy.read_magic(file)]
                shape, is_fortran, dtype = read(file, max_header_size=MAX_HEADER_BYTES)
            shape_text = f"{shape!r:.60}"  # a number can be too long to be printed
        except Exception as error:  # NumPy lets through whatever the text brings up
            reason = str(error).partition("\n")[0]
            raise self.error(name, f"a malformed .npy header: {reason:.100}") from error
        if dtype.hasobject:
            raise self.error(
                name,
                "an object array (a pickle, which is never loaded), expected numbers. Trajectories "
                "of several lengths are saved one after the other, or padded with zeros",
            )
        if not _DTYPE.fullmatch(dtype.str):
            raise self.error(name, f"got the dtype {dtype!s:.60}, expected a plain number type")
        counts = len(shape) <= MAX_DIMENSIONS and all(type(n) is int and n >= 0 for n in shape)
        # NumPy also multiplies the other dimensions of an empty array.
        if not counts or math.prod(max(n, 1) for n in shape) > 2**56:
            raise self.error(name, f"got the shape {shape_text}")
        expected, got = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
        if got != expected:
            described = f"{dtype} {shape} in the header, which is {expected} bytes"
            raise self.error(name, f"{described}, got {got}")
        return Header(dtype, shape, "F" if is_fortran else "C", file.tell())

    def _check_expansion(self) -> None:
        members = [self._members[name] for name in self.headers]
        expanded = sum(m.file_size for m in members if m.compress_type == zipfile.ZIP_DEFLATED)
        size = os.fstat(self._file.fileno()).st_size
        limit = max(MAX_EXPANDED_BYTES, MAX_EXPANSION * size)
        limit = min(limit, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        complaint = f"{size} bytes that expand to {expanded}, expected at most {limit}"
        self._require(expanded <= limit, complaint)

    @contextmanager
    def _refused(self, what: str) -> Iterator[None]:
        try:
            yield
        except DataError:
            raise
        except _DAMAGE as error:
            raise DataError(f"{self.path}: {what}: {str(error) or 'it ends early':.200}") from error

    def _require(self, condition: bool, complaint: str) -> None:
        if not condition:
            raise DataError(f"{self.path}: {complaint}")


class _SmallReads(io.FileIO):
    """A file that refuses to give much at once; zipfile would read a directory of any size."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _READ_BYTES:
            raise ValueError(f"a directory of {size} bytes, expected at most {_READ_BYTES}")
        return super().read(size) or b""


def _what_it_is(start: bytes) -> str:
    if not start:
        return "empty"
    if start[0] == 0x80:
        return "a pickle, which could run code and is never loaded"
    if start.startswith(b"\x93NUMPY"):
        return "a single .npy array"
    if start.startswith(b"\x89HDF"):
        return "an HDF5 file"
    return f"begins with {start[:6]!r}"
