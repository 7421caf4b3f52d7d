"""Reading .npz files that nobody has to trust: what they hold is known before it is read.

An .npz is a zip of .npy members. The zip's directory and the members' headers are parsed here,
every size in them is held against the file's own size, and only then is an array allocated.
Nothing is ever unpickled. Arrays that are large and not compressed are mapped, not read.
"""

from __future__ import annotations

import ast
import math
import os
import re
import stat
import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from rlzoo.core.types import DataError, StorageError

MAX_MEMBERS = 64
MAX_DIRECTORY_BYTES = 64 << 10
MAX_HEADER_BYTES = 4096
MAX_DIMENSIONS = 32
# Compressed members may grow to so many bytes, or to so many times the size of the file. Deflate
# can do 1030 to 1; a recording comes near that only where it is small or holds nothing.
MAX_EXPANDED_BYTES = 32 << 20
MAX_EXPANSION = 100
MAP_FROM_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20
_STORED, _DEFLATED = 0, 8
_NAME = re.compile(r"\w{1,100}\.npy", re.ASCII)
# Escapes, and numbers that are not decimal: of no header that anyone writes, and Python warns of
# some and cannot print others.
_ODD = re.compile(r"\\|\d[a-z_]", re.IGNORECASE)
_DTYPE = re.compile(r"\|b1|\|[iu]1|[<>][iu][248]|[<>]f[248]|[<>]U\d{1,3}", re.ASCII)


@dataclass(frozen=True)
class Entry:
    """A member as the zip's directory describes it; sizes in bytes."""

    name: str
    method: int
    crc: int
    stored_size: int
    size: int
    offset: int  # of its local header
    begin: int  # of its content


@dataclass(frozen=True)
class Header:
    """An array as its .npy header describes it."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    size: int  # of the header itself, bytes

    @property
    def array_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Npz:
    """An open .npz whose directory and headers have been checked: `with Npz(path) as file`.

    `headers` says what `array(name)` will give. Members named in `skip` are never looked into.
    DataError names the file, the member, what is there and what was expected; also for a path
    that is a symbolic link (the last part of it), a FIFO or a device, none of which is opened.
    """

    def __init__(self, path: Path, skip: Collection[str] = ()) -> None:
        self.path = path
        self._file = _open_regular(path)
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self.names, self._entries = self._directory()
            self.headers: dict[str, Header] = {}
            for name in self.names:
                if name not in skip:
                    self.headers[name] = self._header(name)
            self._check_expansion()
        except OSError as error:
            self._file.close()
            raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
        except BaseException:
            self._file.close()
            raise

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
        entry, header = self._entries[name], self.headers[name]
        data = self._content(entry)
        array = np.ndarray(header.shape, header.dtype, data, header.size, order=header.order)
        array = array.astype(header.dtype.newbyteorder("="), copy=False)
        array.setflags(write=False)
        return array

    def _content(self, entry: Entry) -> bytearray | np.memmap[Any, Any]:
        if entry.method == _STORED and entry.size >= MAP_FROM_BYTES:
            for _ in self._chunks(entry):
                pass
            return np.memmap(self._file, np.uint8, "r", entry.begin, (entry.size,))
        content, position = bytearray(entry.size), 0
        for chunk in self._chunks(entry):
            content[position : position + len(chunk)] = chunk
            position += len(chunk)
        return content

    # The directory of the zip --------------------------------------------------------------------

    def _directory(self) -> tuple[list[str], dict[str, Entry]]:
        count, offset, size = self._directory_place()
        self._require(count <= MAX_MEMBERS, f"{count} members, expected at most {MAX_MEMBERS}")
        self._require(size <= MAX_DIRECTORY_BYTES, f"a directory of {size} bytes")
        data, position = self._read(offset, size), 0
        entries: dict[str, Entry] = {}
        for _ in range(count):
            entry, position = self._entry(data, position)
            self._require(entry.name not in entries, f"two members named '{entry.name}'")
            entries[entry.name] = entry
        self._require(position == size, "the directory has bytes that belong to no member")
        end = 0
        for entry in sorted(entries.values(), key=lambda e: e.offset):
            apart = end <= entry.offset and entry.begin + entry.stored_size <= offset
            self._require(apart, f"{entry.name}: truncated, or overlaps another member")
            end = entry.begin + entry.stored_size
        return list(entries), entries

    def _directory_place(self) -> tuple[int, int, int]:
        """How many members the directory has, where it begins, how many bytes it is long."""
        start = self._read(0, min(self._size, 6))
        if not start.startswith(b"PK"):
            raise DataError(f"{self.path}: {_what_it_is(start)}, expected an .npz file")
        tail_size = min(self._size, 22 + 0xFFFF)
        tail = self._read(self._size - tail_size, tail_size)
        at = tail.rfind(b"PK\5\6")
        self._require(0 <= at <= len(tail) - 22, "truncated: the zip has no directory at its end")
        _, disk, first_disk, here, count, size, offset, comment = struct.unpack_from(
            "<4s4H2LH", tail, at
        )
        end = self._size - tail_size + at
        self._require(at + 22 + comment == len(tail), "bytes after the zip's end")
        self._require(disk == first_disk == 0 and here == count, "a zip in several parts")
        if count == 0xFFFF or 0xFFFFFFFF in (size, offset):  # zip64
            self._require(end >= 76, "truncated: the zip has no directory at its end")
            magic, _, place, _ = struct.unpack("<4sLQL", self._read(end - 20, 20))
            sound = magic == b"PK\6\7" and place + 56 <= end - 20
            self._require(sound, "the zip's directory is malformed")
            magic, *_, count, size, offset = struct.unpack("<4sQ2H2L4Q", self._read(place, 56))
            self._require(magic == b"PK\6\6", "the zip's directory is malformed")
            end = place
        self._require(offset + size == end, "truncated, or the zip's directory is misplaced")
        return count, offset, size

    def _entry(self, data: bytes, at: int) -> tuple[Entry, int]:
        malformed = "the zip's directory is malformed"
        self._require(at + 46 <= len(data) and data[at : at + 4] == b"PK\1\2", malformed)
        (flags, method, _, _, crc, stored_size, size, name_size, extra_size, comment_size) = (
            struct.unpack_from("<2H2H3L3H", data, at + 8)
        )
        mode, offset = struct.unpack_from("<LL", data, at + 38)
        end = at + 46 + name_size + extra_size + comment_size
        self._require(end <= len(data), malformed)
        raw_name = data[at + 46 : at + 46 + name_size]
        name = raw_name.decode("ascii", "replace")
        self._require(
            _NAME.fullmatch(name) is not None,
            f"a member named {name!r:.60}, expected a plain name such as 'obs.npy'",
        )
        extra = data[at + 46 + name_size : at + 46 + name_size + extra_size]
        size, stored_size, offset = self._long_numbers(extra, [size, stored_size, offset])
        kind = stat.S_IFMT(mode >> 16)
        self._require(kind in (0, stat.S_IFREG), f"{name}: not a regular file inside of the zip")
        self._require(not flags & 1, f"{name}: encrypted")
        plain = method == _DEFLATED or (method == _STORED and size == stored_size)
        self._require(plain, f"{name}: compression method {method}, expected none or deflate")
        self._require(offset + 30 <= self._size, f"{name}: truncated")
        local = self._read(offset, 30)
        begin = offset + 30 + sum(struct.unpack_from("<2H", local, 26))
        same = local[:4] == b"PK\3\4" and self._read(offset + 30, name_size) == raw_name
        self._require(same, f"{name}: the zip's directory points to something else")
        return Entry(name.removesuffix(".npy"), method, crc, stored_size, size, offset, begin), end

    def _long_numbers(self, extra: bytes, numbers: list[int]) -> list[int]:
        """Numbers beyond 32 bits stand in an extra field (zip64)."""
        wanted = [i for i, number in enumerate(numbers) if number == 0xFFFFFFFF]
        at = 0
        while wanted and at + 4 <= len(extra):
            kind, size = struct.unpack_from("<2H", extra, at)
            if kind == 1 and size >= 8 * len(wanted) and at + 4 + size <= len(extra):
                for place, i in enumerate(wanted):
                    [numbers[i]] = struct.unpack_from("<Q", extra, at + 4 + 8 * place)
                return numbers
            at += 4 + size
        self._require(not wanted, "the zip's directory is malformed")
        return numbers

    # Headers and contents ------------------------------------------------------------------------

    def _header(self, name: str) -> Header:
        entry = self._entries[name]
        start = b""
        for chunk in self._chunks(entry, limit=12 + MAX_HEADER_BYTES):
            start += chunk
        version = start[6:7]
        if start[:6] != b"\x93NUMPY" or version not in (b"\1", b"\2", b"\3"):
            raise self.error(name, f"{_what_it_is(start)}, expected an .npy array")
        width = 2 if version == b"\1" else 4
        begin = 8 + width
        size = begin + int.from_bytes(start[8:begin], "little")
        if size > min(len(start), begin + MAX_HEADER_BYTES):
            raise self.error(name, f"a header of {size} bytes, expected at most {MAX_HEADER_BYTES}")
        header = self._parse_header(name, start[begin:size].decode("latin1"), size)
        if header.size + header.array_bytes != entry.size:
            raise self.error(
                name,
                f"{header.dtype} {header.shape} in the header, which is {header.array_bytes} bytes,"
                f" got {entry.size - header.size}",
            )
        return header

    def _parse_header(self, name: str, text: str, size: int) -> Header:
        if _ODD.search(text):
            raise self.error(name, "a malformed .npy header")
        try:
            fields = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
            raise self.error(name, "a malformed .npy header") from error
        if not isinstance(fields, dict) or fields.keys() != {"descr", "fortran_order", "shape"}:
            raise self.error(name, "a malformed .npy header")
        descr, shape = fields["descr"], fields["shape"]
        if isinstance(descr, str) and "O" in descr:
            raise self.error(
                name,
                "an object array (a pickle, which is never loaded), expected numbers. Trajectories "
                "of several lengths are saved one after the other, or padded with zeros",
            )
        if not isinstance(descr, str) or not _DTYPE.fullmatch(descr):
            raise self.error(name, f"got the dtype {descr!r:.60}, expected a plain number type")
        counts = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        # NumPy also multiplies the other dimensions of an empty array.
        if not counts or len(shape) > MAX_DIMENSIONS or math.prod(max(n, 1) for n in shape) > 2**56:
            raise self.error(name, f"got the shape {shape!r:.60}")
        return Header(np.dtype(descr), shape, "F" if fields["fortran_order"] else "C", size)

    def _check_expansion(self) -> None:
        entries = [self._entries[name] for name in self.headers]
        expanded = sum(entry.size for entry in entries if entry.method == _DEFLATED)
        limit = max(MAX_EXPANDED_BYTES, MAX_EXPANSION * self._size)
        limit = min(limit, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        self._require(
            expanded <= limit,
            f"{self._size} bytes that expand to {expanded}, expected at most {limit}",
        )

    def _chunks(self, entry: Entry, limit: int | None = None) -> Iterator[bytes]:
        """The content of a member, of exactly the size and checksum that the directory says.

        With `limit` at most so many bytes of it, unverified.
        """
        position, end = entry.begin, entry.begin + entry.stored_size
        inflate = zlib.decompressobj(-15) if entry.method == _DEFLATED else None
        wanted = min(entry.size, limit) if limit is not None else entry.size
        produced, crc, pending = 0, 0, b""
        while produced < wanted:
            if not pending:
                pending = self._read(position, min(_CHUNK_BYTES, end - position))
                position += len(pending)
            most = min(_CHUNK_BYTES, wanted - produced)
            if inflate is None:
                chunk, pending = pending[:most], pending[most:]
            else:
                fed = bool(pending)
                try:
                    chunk = inflate.decompress(pending, most)
                except zlib.error as error:
                    raise self.error(entry.name, f"corrupt: {error}") from error
                pending = inflate.unconsumed_tail
                if not chunk and (inflate.eof or not fed):
                    break
            if not chunk and inflate is None:
                break
            produced += len(chunk)
            crc = zlib.crc32(chunk, crc)
            yield chunk
        if produced < wanted:
            raise self.error(entry.name, f"corrupt: {produced} bytes, expected {wanted}")
        if limit is None and crc != entry.crc:
            raise self.error(entry.name, "corrupt: the checksum (CRC-32) does not match")

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)

    def _require(self, condition: bool, complaint: str) -> None:
        if not condition:
            raise DataError(f"{self.path}: {complaint}")


def _open_regular(path: Path) -> BinaryIO:
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            target = os.readlink(path)
            raise DataError(f"{path}: a symbolic link to {target}, expected the file itself")
        if not stat.S_ISREG(mode):
            raise DataError(f"{path}: not a regular file, expected an .npz file")
        # The flags hold the check above against a swap of the file in between.
        return open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error


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
