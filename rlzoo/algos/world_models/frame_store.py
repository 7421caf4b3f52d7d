"""Episodes on the disk: frames, or the latents that stand for them, with actions and rewards.

A store is a directory:

    store.json       the columns (such as frame, action, reward), and what they were made of
    episodes.bin     for each episode its shard, length, end and CRC-32
    shard_00000.bin  whole episodes, one after the other; each column of an episode in one piece

An episode counts once its record in episodes.bin is complete. What lies behind the last one is the
leftover of a kill and will be overwritten. A shard is mapped into memory for one reading and let go
again: so neither memory nor open files grow with the store, and a shard that was cut short is an
error instead of a crash. Shape suffixes: T steps of an episode, B batch, E episodes.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlzoo.core.types import DataError, NonFiniteError, StorageError
from rlzoo.io.regular import open_regular, read_regular

FORMAT = 1
SHARD_BYTES = 64 << 20  # a shard is full when another episode would make it larger
MAX_HEADER_BYTES = 1 << 20
MAX_EPISODES = 1 << 20
MAX_STEP_NUMBERS = 1 << 24  # of one step, in one column
HEADER, EPISODES, SHARD = "store.json", "episodes.bin", "shard_{:05d}.bin"
DTYPES = ("|u1", "<f2", "<f4")  # in numpy's notation
RECORD = np.dtype([("shard", "<u4"), ("length", "<u4"), ("terminated", "<u4"), ("crc", "<u4")])


class Column(NamedTuple):
    """What a store holds for each step."""

    dtype: str  # uint8, float16 or float32
    shape: tuple[int, ...]

    @property
    def step_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=int)) * np.dtype(self.dtype).itemsize

    def array(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, self.dtype).reshape(-1, *self.shape)


class FrameStore:
    """Episodes that are appended once and read in any order; made by `create` or `open`.

    `about` says what the episodes were made of, in plain JSON values such as the env's name. Steps
    are counted over all episodes in their order: episode e is the steps start_E[e]:start_E[e + 1].
    """

    def __init__(
        self,
        directory: Path,
        columns: Mapping[str, Column],
        about: Mapping[str, Any],
        record_E: np.ndarray,
        shard_bytes: int,
    ) -> None:
        self.directory, self.columns, self.about = directory, dict(columns), dict(about)
        self.shard_bytes = shard_bytes
        self._unsynced: set[Path] = set()
        self._set_records(record_E)

    def _set_records(self, record_E: np.ndarray) -> None:
        self._record_E = record_E
        self.start_E = np.concatenate([[0], np.cumsum(self.length_E)])
        step_bytes = sum(column.step_bytes for column in self.columns.values())
        begin_E = self.start_E[:-1] * step_bytes
        first_of_shard_E = np.searchsorted(record_E["shard"], record_E["shard"])
        self._offset_E = begin_E - begin_E[first_of_shard_E]
        end_E = self._offset_E + self.length_E * step_bytes
        self._shard_size = dict(zip(record_E["shard"].tolist(), end_E.tolist(), strict=True))

    @property
    def num_episodes(self) -> int:
        return len(self._record_E)

    @property
    def num_steps(self) -> int:
        return int(self.start_E[-1])

    @property
    def length_E(self) -> np.ndarray:
        """Steps of each episode."""
        return self._record_E["length"].astype(np.int64)

    @property
    def terminated_E(self) -> np.ndarray:
        """Whether the last action of each episode led to a terminal state."""
        return self._record_E["terminated"].astype(bool)

    # ---------------------------------------------------------------- making and opening

    @classmethod
    def create(
        cls,
        directory: str | Path,
        columns: Mapping[str, Column],
        about: Mapping[str, Any],
        *,
        shard_bytes: int = SHARD_BYTES,
    ) -> FrameStore:
        """An empty store, in place of one that may be there. StorageError where that fails."""
        directory = Path(directory)
        columns = {n: Column(np.dtype(c.dtype).str, tuple(c.shape)) for n, c in columns.items()}
        assert all(column.dtype in DTYPES for column in columns.values()), columns
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # The header goes first and comes last: without it there is no store.
            for path in (directory / HEADER, directory / EPISODES, *directory.glob("shard_*.bin")):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{directory}: cannot be made: {error.strerror}") from error
        store = cls(directory, columns, about, np.empty(0, RECORD), shard_bytes)
        store._write(directory / EPISODES, 0, [])
        header = {"format": FORMAT, "columns": columns, "about": store.about}
        store._write(directory / HEADER, 0, [json.dumps(header, indent=1).encode()])
        return store

    @classmethod
    def open(
        cls,
        directory: str | Path,
        *,
        about: Mapping[str, Any] | None = None,
        num_episodes: int | None = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> FrameStore:
        """The store in a directory.

        With `num_episodes`, how many a checkpoint knows of, all later ones are forgotten: the
        resumed run makes them again. DataError, one line: there is no store, or not so many
        episodes, a shard is missing or too short, or it was made of something else than `about`,
        of which each key must agree.
        """
        directory = Path(directory)
        columns, found = _read_header(directory / HEADER)
        for key, expected in (about or {}).items():
            if found.get(key) != expected:
                raise DataError(f"{directory}: {key} is {found.get(key)!r}, expected {expected!r}")
        data = read_regular(directory / EPISODES, limit=MAX_EPISODES * RECORD.itemsize)
        # A kill may have left a part of a record at the end.
        record_E = np.frombuffer(data, RECORD, len(data) // RECORD.itemsize)
        if (np.diff(record_E["shard"].astype(np.int64), prepend=0) < 0).any():
            raise DataError(f"{directory / EPISODES}: corrupt: shards are out of order")
        if not record_E["length"].all():
            raise DataError(f"{directory / EPISODES}: corrupt: an episode without steps")
        if num_episodes is not None and num_episodes > len(record_E):
            raise DataError(f"{directory}: has {len(record_E)} episodes, expected {num_episodes}")
        store = cls(directory, columns, found, record_E[:num_episodes], shard_bytes)
        if num_episodes is not None:
            store._write(directory / EPISODES, num_episodes * RECORD.itemsize, [])
        for shard in store._shard_size:
            with store._mapped(shard):
                pass
        return store

    # ---------------------------------------------------------------- writing

    def append_episode(self, columns: Mapping[str, np.ndarray], *, terminated: bool) -> None:
        """Add T steps, given as one array [T, ...] for each column.

        StorageError where the disk is full: nothing is added then, and what was there stays.
        NonFiniteError for NaN or infinity.
        """
        pieces, length = self._pieces(columns)
        size = sum(piece.nbytes for piece in pieces)
        shard, offset = 0, 0
        if self._shard_size:
            shard, offset = max(self._shard_size.items())
            if offset + size > self.shard_bytes:
                shard, offset = shard + 1, 0
        head = np.array([(shard, length, terminated, 0)], RECORD)
        crc = _crc(head[0], pieces)
        head["crc"] = crc
        self._write(self._path(shard), offset, pieces)
        index_size = self.num_episodes * RECORD.itemsize
        self._write(self.directory / EPISODES, index_size, [memoryview(head.tobytes())])
        self._set_records(np.concatenate([self._record_E, head]))

    def _pieces(self, columns: Mapping[str, np.ndarray]) -> tuple[list[memoryview], int]:
        assert columns.keys() == self.columns.keys(), (list(columns), list(self.columns))
        length = len(next(iter(columns.values())))
        pieces = []
        for name, column in self.columns.items():
            array_T = columns[name]
            assert array_T.dtype == column.dtype, (name, array_T.dtype, column)
            assert array_T.shape == (length, *column.shape) and length, (name, array_T.shape)
            if array_T.dtype.kind == "f" and not np.isfinite(array_T).all():
                raise NonFiniteError(f"{self.directory}: {name} of an episode is not finite")
            pieces.append(np.ascontiguousarray(array_T).data.cast("B"))
        return pieces, length

    def sync(self) -> None:
        """Wait until everything appended is on the disk; StorageError if it does not get there."""
        for path in (*self._unsynced, self.directory):
            try:
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as error:
                raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
        self._unsynced.clear()

    def _write(self, path: Path, offset: int, pieces: Sequence[bytes | memoryview]) -> None:
        """Put pieces at `offset`, which becomes the end of what was there: all of them or none."""
        self._unsynced.add(path)
        try:
            with open(open_regular(path, os.O_RDWR | os.O_CREAT), "r+b", buffering=0) as file:
                file.truncate(offset)
                file.seek(offset)
                try:
                    for piece in pieces:
                        rest = memoryview(piece)
                        while rest:
                            rest = rest[file.write(rest) :]
                except OSError:
                    with suppress(OSError):
                        file.truncate(offset)
                    raise
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}") from error

    # ---------------------------------------------------------------- reading

    def episode(self, index: int) -> dict[str, np.ndarray]:
        """All columns of an episode, [T, ...] and read-only; DataError if its CRC-32 differs."""
        record, begin = self._record_E[index], int(self._offset_E[index])
        length = int(record["length"])
        pieces = []
        with self._mapped(int(record["shard"])) as data:
            for column in self.columns.values():
                end = begin + length * column.step_bytes
                pieces.append(data[begin:end])
                begin = end
        if _crc(record, pieces) != record["crc"]:
            path = self._path(int(record["shard"]))
            raise DataError(f"{path}: corrupt: the CRC-32 of episode {index} differs")
        columns = zip(self.columns.items(), pieces, strict=True)
        return {name: column.array(piece) for (name, column), piece in columns}

    def span(self, name: str, episode: int, first: int, count: int) -> np.ndarray:
        """[count, ...] values of a column from step `first` of an episode on, read-only."""
        assert 0 <= first <= first + count <= self.length_E[episode], (episode, first, count)
        column = self.columns[name]
        [begin] = self._places(name, np.array([episode]), np.array([first])).tolist()
        with self._mapped(int(self._record_E["shard"][episode])) as data:
            return column.array(data[begin : begin + count * column.step_bytes])

    def rows(self, name: str, step_B: np.ndarray) -> np.ndarray:
        """[B, ...] values of a column at any steps, counted over all episodes."""
        column = self.columns[name]
        episode_B = np.searchsorted(self.start_E, step_B, side="right") - 1
        place_B = self._places(name, episode_B, step_B - self.start_E[episode_B])
        shard_B = self._record_E["shard"][episode_B]
        value_B = np.empty((len(step_B), *column.shape), column.dtype)
        for shard in np.unique(shard_B).tolist():
            with self._mapped(shard) as data:
                for i in np.flatnonzero(shard_B == shard).tolist():
                    begin = int(place_B[i])
                    value_B[i] = column.array(data[begin : begin + column.step_bytes])[0]
        return value_B

    def _places(self, name: str, episode_B: np.ndarray, t_B: np.ndarray) -> np.ndarray:
        """Bytes in their shards where a column's values at step t of these episodes begin."""
        names = list(self.columns)
        before = sum(self.columns[n].step_bytes for n in names[: names.index(name)])
        begin_B = self._offset_E[episode_B] + before * self.length_E[episode_B]
        return begin_B + t_B * self.columns[name].step_bytes

    @contextmanager
    def _mapped(self, shard: int) -> Iterator[mmap.mmap]:
        """The bytes of a shard, checked to be all there: beyond a file's end a map is fatal."""
        path, expected = self._path(shard), self._shard_size[shard]
        try:
            with open(open_regular(path), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < expected:
                    raise DataError(f"{path}: truncated: {size} bytes, expected {expected}")
                with mmap.mmap(file.fileno(), expected, access=mmap.ACCESS_READ) as data:
                    yield data
        except FileNotFoundError as error:
            raise DataError(f"{path}: missing") from error
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror}") from error

    def _path(self, shard: int) -> Path:
        return self.directory / SHARD.format(shard)


def _crc(record: np.void, pieces: Sequence[bytes | memoryview]) -> int:
    """The CRC-32 of an episode with what its record says about it."""
    crc = zlib.crc32(f"{record['length']} {record['terminated']}".encode())
    for piece in pieces:
        crc = zlib.crc32(piece, crc)
    return crc


def _read_header(path: Path) -> tuple[dict[str, Column], dict[str, Any]]:
    """The columns of a store, and what it was made of; DataError for anything unexpected."""
    data = read_regular(path, limit=MAX_HEADER_BYTES)
    try:
        header = json.loads(data)
        known = header["format"] == FORMAT
        columns = {
            n: Column(d, tuple(map(int, shape))) for n, (d, shape) in header["columns"].items()
        }
        sound = all(c.dtype in DTYPES and min(c.shape, default=1) > 0 for c in columns.values())
        sound = sound and all(math.prod(c.shape) <= MAX_STEP_NUMBERS for c in columns.values())
        about = dict(header["about"])
        if "env" in about:  # earlier versions named the module, too, which may have moved since
            about["env"] = str(about["env"]).rpartition(":")[2]
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise DataError(f"{path}: not the header of a store: {error}") from error
    if not known or not sound or not columns:
        raise DataError(f"{path}: not a store of format {FORMAT}")
    return columns, about
