"""What episodes on disk must survive: kills, full disks and damage. Each with a control."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlzoo.algos.world_models import frame_store
from rlzoo.algos.world_models.frame_store import RECORD, Column, FrameStore
from rlzoo.core.types import DataError, RlzooError, StorageError

COLUMNS = {"frame": Column("uint8", (8, 8, 3)), "reward": Column("float32", ())}
LENGTHS = (3, 4, 2, 5)
SHARD_BYTES = 8 * (8 * 8 * 3 + 4)  # two episodes


def episode(index: int) -> dict[str, np.ndarray]:
    length = LENGTHS[index]
    frame = np.random.default_rng(index).integers(0, 256, (length, 8, 8, 3), np.uint8)
    return {"frame": frame, "reward": np.full(length, index, np.float32)}


def append(store: FrameStore, begin: int, end: int = len(LENGTHS)) -> None:
    for index in range(begin, end):
        store.append_episode(episode(index), terminated=index == 1)


def create(directory: Path) -> FrameStore:
    return FrameStore.create(directory, COLUMNS, {"env": "Car-v0"}, shard_bytes=SHARD_BYTES)


def filled(directory: Path) -> FrameStore:
    store = create(directory)
    append(store, 0)
    return store


def check_holds(store: FrameStore, count: int) -> None:
    assert store.num_episodes == count
    for index in range(count):
        for name, array in store.episode(index).items():
            np.testing.assert_array_equal(array, episode(index)[name])


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def one_line(error: pytest.ExceptionInfo[Any]) -> str:
    text = str(error.value)
    assert "\n" not in text and isinstance(error.value, RlzooError)
    return text


# --- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard", ["shard_00000.bin", "shard_00001.bin"])
@pytest.mark.parametrize("left", [0.0, 0.5, 1.0], ids=["nothing", "half", "all but a byte"])
def test_a_truncated_shard_is_named(tmp_path: Path, shard: str, left: float) -> None:
    filled(tmp_path)
    path = tmp_path / shard
    size = path.stat().st_size
    kept = min(int(left * size), size - 1)
    os.truncate(path, kept)
    with pytest.raises(DataError) as caught:
        FrameStore.open(tmp_path)
    assert one_line(caught) == f"{path}: truncated: {kept} bytes, expected {size}"


@pytest.mark.parametrize("name", ["shard_00000.bin", "shard_00001.bin", "episodes.bin"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    filled(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError) as caught:
        FrameStore.open(tmp_path)
    assert one_line(caught) == f"{tmp_path / name}: missing"


def test_a_resumed_run_needs_only_what_its_checkpoint_knows_of(tmp_path: Path) -> None:
    """A power cut may keep a record and lose the shard that it speaks of."""
    straight = contents(filled(tmp_path).directory)
    (tmp_path / "shard_00001.bin").unlink()
    store = FrameStore.open(tmp_path, num_episodes=2, shard_bytes=SHARD_BYTES)
    append(store, 2)
    assert contents(tmp_path) == straight


@pytest.mark.parametrize("read", ["episode", "rows", "span"])
def test_a_shard_that_shrinks_later_is_an_error(tmp_path: Path, read: str) -> None:
    store = filled(tmp_path)
    os.truncate(tmp_path / "shard_00001.bin", 10)
    with pytest.raises(DataError, match=r"shard_00001\.bin: truncated: 10 bytes"):
        reading = {
            "episode": lambda: store.episode(3),
            "rows": lambda: store.rows("frame", np.array([0, store.num_steps - 1])),
            "span": lambda: store.span("frame", 3, 0, 2),
        }
        reading[read]()
    np.testing.assert_array_equal(store.episode(0)["frame"], episode(0)["frame"])


def test_reading_a_map_beyond_the_end_kills_the_process(tmp_path: Path) -> None:
    """The control of the size check: what would happen without it."""
    path = tmp_path / "shard"
    path.write_bytes(bytes(100_000))
    program = (
        "import mmap, os, sys\n"
        "file = open(sys.argv[1], 'r+b')\n"
        "view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "file.truncate(0)\n"
        "view[50_000]\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert ended.returncode == -signal.SIGBUS


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_flipped_bit_is_found(tmp_path: Path, place: int) -> None:
    store = filled(tmp_path)
    flip(tmp_path / "shard_00001.bin", place)
    index = 3 if place < 0 else 2
    with pytest.raises(DataError) as caught:
        store.episode(index)
    path = tmp_path / "shard_00001.bin"
    assert one_line(caught) == f"{path}: corrupt: the CRC-32 of episode {index} differs"
    store.episode(5 - index)


def test_a_flipped_bit_goes_unseen_without_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zlib, "crc32", lambda *data: 0)
    store = filled(tmp_path)
    flip(tmp_path / "shard_00001.bin", 0)
    assert (store.episode(2)["frame"] != episode(2)["frame"]).any()


def test_a_flipped_record_is_found(tmp_path: Path) -> None:
    """How long an episode was, and whether it terminated, is under the checksum, too."""
    filled(tmp_path)
    flip(tmp_path / "episodes.bin", RECORD.itemsize + RECORD.fields["terminated"][1])
    with pytest.raises(DataError, match="the CRC-32 of episode 1 differs"):
        FrameStore.open(tmp_path).episode(1)
    flip(tmp_path / "episodes.bin", RECORD.fields["shard"][1])
    with pytest.raises(DataError, match=r"episodes\.bin: corrupt: shards are out of order"):
        FrameStore.open(tmp_path)


HEADER = {"format": 1, "columns": {"frame": ["|u1", [8, 8, 3]]}, "about": {}}
BAD_HEADERS = [
    b"",
    b"{",
    b"[" * 100_000,
    b"[]",
    b"null",
    b'{"format": 1}',
    *(
        json.dumps(HEADER | change).encode()
        for change in (
            {"format": 2},
            {"columns": {}},
            {"columns": {"frame": ["|O", [8]]}},
            {"columns": {"frame": ["|u1", [-8]]}},
            {"columns": {"frame": ["|u1", ["x"]]}},
            {"columns": {"frame": 3}},
            {"columns": [1]},
            {"about": 5},
        )
    ),
]


@pytest.mark.parametrize("header", BAD_HEADERS, ids=lambda data: data[:60].decode())
def test_a_bad_header_is_one_line(tmp_path: Path, header: bytes) -> None:
    filled(tmp_path)
    (tmp_path / "store.json").write_bytes(header)
    with pytest.raises(DataError) as caught:
        FrameStore.open(tmp_path)
    assert one_line(caught).startswith(f"{tmp_path / 'store.json'}: not ")


def test_no_store_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        FrameStore.open(tmp_path / "nowhere")
    assert one_line(caught) == f"{tmp_path / 'nowhere' / 'store.json'}: missing"


# --- kills --------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone: nothing that it would do afterwards has any effect."""


Call = Callable[[], Any]


@contextmanager
def faults(at: int, error: BaseException, *, lasting: bool) -> Iterator[list[str]]:
    """The call number `at` that changes a file raises `error`; with `lasting` all later ones do.

    A write that fails has written half. Yields the log of calls.
    """
    log: list[str] = []

    def broken(name: str, half: Call, whole: Call) -> Any:
        log.append(name)
        if len(log) == at:
            half()
        if len(log) == at or (lasting and len(log) > at):
            raise error
        return whole()

    class File(io.FileIO):
        def write(self, data: Any) -> int:
            half = memoryview(data)[: len(data) // 2]
            parent = super()
            return broken("write", lambda: parent.write(half), lambda: parent.write(data))

        def truncate(self, size: int | None = None) -> int:
            parent = super()
            return broken("truncate", lambda: None, lambda: parent.truncate(size))

    def open_file(path: Path, mode: str, buffering: int = -1) -> Any:
        if mode == "rb":
            return builtins.open(path, mode, buffering)
        return File(path, mode.replace("b", ""))

    patch = pytest.MonkeyPatch()
    patch.setattr(frame_store, "open", open_file, raising=False)
    try:
        yield log
    finally:
        patch.undo()


def number_of_calls(directory: Path) -> int:
    store = create(directory)
    with faults(10**9, Killed(), lasting=True) as log:
        append(store, 0)
    return len(log)


def test_a_kill_at_any_moment_loses_nothing_that_counted(tmp_path: Path) -> None:
    """Resumed from the last episode that counted, or from any before, the files are the same."""
    filled(tmp_path / "straight")
    calls = number_of_calls(tmp_path / "count")
    assert calls >= 2 * 2 * len(LENGTHS)
    for at in range(1, calls + 1):
        shutil.rmtree(tmp_path / "killed", ignore_errors=True)
        store = create(tmp_path / "killed")
        with faults(at, Killed(), lasting=True), pytest.raises(Killed):
            append(store, 0)
        again = FrameStore.open(tmp_path / "killed", shard_bytes=SHARD_BYTES)
        assert again.num_episodes == store.num_episodes
        check_holds(again, again.num_episodes)
        kept = max(again.num_episodes - at % 2, 0)
        again = FrameStore.open(tmp_path / "killed", num_episodes=kept, shard_bytes=SHARD_BYTES)
        append(again, again.num_episodes)
        assert contents(tmp_path / "killed") == contents(tmp_path / "straight")


def test_a_kill_leaves_what_the_next_append_must_cut_off(tmp_path: Path) -> None:
    """The control of the test above: without the cut the files would differ."""
    store = create(tmp_path)
    append(store, 0, 1)
    with faults(4, Killed(), lasting=True), pytest.raises(Killed):
        append(store, 1, 2)  # cut, write, write of the shard are done
    size = (tmp_path / "shard_00000.bin").stat().st_size
    assert size > LENGTHS[0] * (8 * 8 * 3 + 4), "half of an episode lies behind the last one"


def test_a_kill_while_a_store_is_made_leaves_none(tmp_path: Path) -> None:
    filled(tmp_path)
    with faults(2, Killed(), lasting=True), pytest.raises(Killed):
        create(tmp_path)
    with pytest.raises(DataError, match=r"store\.json: "):
        FrameStore.open(tmp_path)
    filled(tmp_path)
    check_holds(FrameStore.open(tmp_path), len(LENGTHS))


# --- full disks ---------------------------------------------------------------------------------

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_a_full_disk_loses_nothing(tmp_path: Path, lasting: bool) -> None:
    filled(tmp_path / "straight")
    for at in range(1, number_of_calls(tmp_path / "count") + 1):
        shutil.rmtree(tmp_path / "full", ignore_errors=True)
        store = create(tmp_path / "full")
        with faults(at, FULL, lasting=lasting), pytest.raises(StorageError) as caught:
            append(store, 0)
        assert one_line(caught).endswith(": cannot be written: No space left on device")
        done = store.num_episodes
        check_holds(store, done)
        check_holds(FrameStore.open(tmp_path / "full"), done)
        append(store, done)  # there is space again
        assert contents(tmp_path / "full") == contents(tmp_path / "straight")


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A limit of the operating system: a write goes so far and then fails."""
    old, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (old, hard))


def test_a_write_that_really_fails_leaves_no_part(tmp_path: Path) -> None:
    store = create(tmp_path)
    append(store, 0, 1)
    before = contents(tmp_path)
    with files_of_at_most(len(before["shard_00000.bin"]) + 100), pytest.raises(StorageError):
        append(store, 1, 2)
    assert contents(tmp_path) == before
    append(store, 1)
    check_holds(store, len(LENGTHS))


def test_a_write_that_fails_leaves_a_part_in_an_ordinary_file(tmp_path: Path) -> None:
    """The control of the test above."""
    with files_of_at_most(100), pytest.raises(OSError), io.FileIO(tmp_path / "x", "w") as file:
        rest = memoryview(bytes(300))
        while rest:
            rest = rest[file.write(rest) :]
    assert (tmp_path / "x").stat().st_size == 100


def test_data_that_does_not_reach_the_disk_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path)

    def fail(descriptor: int) -> None:
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StorageError, match="cannot be written: No space left"):
            store.sync()
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    store.sync()
    expected = {"shard_00000.bin", "shard_00001.bin", "episodes.bin", "store.json", tmp_path.name}
    assert {Path(path).name for path in synced} == expected


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as caught:
        create(tmp_path / "file" / "store")
    assert one_line(caught).endswith("cannot be made: Not a directory")
