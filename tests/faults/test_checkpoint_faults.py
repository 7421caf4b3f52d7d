"""What a checkpoint must survive: kills, full disks and damage. Each with a control."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlzoo.core.types import DataError, StorageError
from rlzoo.io import checkpoint, files
from rlzoo.io.checkpoint import load, mark_best, newest, save

REAL_FSYNC = os.fsync


@pytest.fixture(autouse=True)
def small_chunks_and_no_wait(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(checkpoint, "LARGE_BYTES", 1000)
    monkeypatch.setattr(checkpoint, "CHUNK_BYTES", 500)


def state_of(step: int) -> dict[str, Any]:
    """A state in which every part tells the step, with some chunks shared between steps."""
    buffer = np.zeros(2000, np.uint8)
    buffer[:700] = step % 256
    return {"step": step, "weights": np.full(20, float(step)), "buffer": buffer}


def step_of(state: dict[str, Any]) -> int:
    """The step of a state, which must not be a mixture."""
    step = int(state["step"])
    np.testing.assert_equal(state, state_of(step))
    return step


def fail(line: str) -> None:
    raise AssertionError(f"unexpected warning: {line}")


def newest_step(directory: Path, warn: Callable[[str], None] = fail) -> int:
    found = newest(directory, warn)
    assert found is not None
    return step_of(found[1])


# --- rows 4 and 7: a kill or an error at each call that touches the disk ------------------------

CALLS = ("write", "fsync", "rename", "link", "mkdir", "unlink", "rmdir")


class Killed(BaseException):
    """The process is gone: nothing it would do afterwards, clean-up included, has any effect."""


@contextmanager
def faults(at: int, error: BaseException, broken: Callable[[str, int], bool]) -> Iterator[list]:
    """From the call number `at` on, calls for which broken(name, number) holds raise `error`.

    A write that fails has written half. Yields the call log.
    """
    log: list[str] = []

    def wrap(name: str, real: Callable) -> Callable:
        def call(*args, **kwargs):
            log.append(name)
            if len(log) >= at and broken(name, len(log)):
                if name == "write" and len(log) == at:
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                raise error
            return real(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, wrap(name, getattr(os, name)))
        yield log


def prepare_new_step(directory: Path) -> int:
    save(directory, 1, state_of(1))
    mark_best(directory, "step_000000001")
    save(directory, 2, state_of(2))
    return 3


def prepare_same_step(directory: Path) -> int:
    save(directory, 5, state_of(4))
    (directory / "step_000000005").rename(directory / "step_000000006")  # holds another state
    return 6


SCENARIOS = [prepare_new_step, prepare_same_step]


def every_fault(tmp_path: Path, prepare: Callable, error: BaseException, broken: Callable):
    """Run a save once for each call k that it makes, with a fault at k.

    Yields the directory, the fault that came out (None for the last k, past the last call), and
    the steps that may be found there: the old and the new.
    """
    for k in range(1, 1000):
        directory = tmp_path / f"{prepare.__name__}_{k}"
        step = prepare(directory)
        old = newest_step(directory)
        raised: BaseException | None = None
        with faults(k, error, lambda name, n, k=k: broken(name, n, k)) as log:
            try:
                save(directory, step, state_of(step), keep_last=1)
            except (Killed, StorageError) as caught:
                raised = caught
        yield directory, raised, (old, step)
        shutil.rmtree(directory)
        if len(log) < k:
            return


def check_every_kill(tmp_path: Path, prepare: Callable) -> int:
    kills = 0
    for directory, raised, steps in every_fault(tmp_path, prepare, Killed(), lambda *_: True):
        kills += raised is not None
        assert newest_step(directory) in (steps if raised else steps[1:])
        for path in directory.glob("step_*"):
            step_of(load(path))  # none is left in parts, not even one that was being pruned
        save(directory, 7, state_of(7), keep_last=1)
        assert newest_step(directory) == 7
        assert not list(directory.glob(f"{files.TEMPORARY}*"))
        assert not list(directory.glob("*.old"))
    return kills


@pytest.mark.parametrize("prepare", SCENARIOS)
def test_a_kill_at_any_call_leaves_the_old_or_the_new(tmp_path, prepare):
    assert check_every_kill(tmp_path, prepare) > 20


def test_control_a_save_that_first_removes_the_old_one_is_caught(tmp_path, monkeypatch):
    def careless(temporary: Path, target: Path) -> None:
        if target.exists():
            files.remove(target)
        files.publish(temporary, target)

    monkeypatch.setattr(checkpoint, "_put_in_place", careless)
    with pytest.raises(AssertionError):
        check_every_kill(tmp_path, prepare_same_step)


def test_control_a_save_without_a_temporary_directory_is_caught(tmp_path, monkeypatch):
    write = checkpoint._write

    def in_place(temporary: Path, *rest: Any) -> None:
        target = temporary.with_name(temporary.name.removeprefix(files.TEMPORARY))
        target.mkdir()
        write(target, *rest)

    monkeypatch.setattr(checkpoint, "_write", in_place)
    monkeypatch.setattr(checkpoint, "_put_in_place", lambda temporary, target: None)
    with pytest.raises(AssertionError):
        check_every_kill(tmp_path, prepare_new_step)


def check_every_error(tmp_path: Path, prepare: Callable, broken: Callable) -> int:
    errors = 0
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for directory, raised, steps in every_fault(tmp_path, prepare, full, broken):
        if raised is None:  # past the last call, or the save had a way around it
            assert newest_step(directory) == steps[1]
        else:
            errors += 1
            assert isinstance(raised, StorageError) and raised.exit_code == 74
            assert "\n" not in str(raised) and "No space left on device" in str(raised)
            assert newest_step(directory) in steps
            assert not list(directory.glob(f"{files.TEMPORARY}*"))
    return errors


@pytest.mark.parametrize("prepare", SCENARIOS)
def test_an_error_at_any_call_is_one_line_and_leaves_nothing_half_written(tmp_path, prepare):
    assert check_every_error(tmp_path, prepare, lambda name, n, k: n == k) > 20


@pytest.mark.parametrize("prepare", SCENARIOS)
def test_a_disk_that_is_full_from_any_call_on(tmp_path, prepare):
    needs_space = {"write", "mkdir", "link"}
    assert check_every_error(tmp_path, prepare, lambda name, n, k: name in needs_space) > 8


def test_control_a_save_that_leaves_its_temporary_directory_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_tidy", lambda directory: None)
    with pytest.raises(AssertionError):
        check_every_error(tmp_path, prepare_new_step, lambda name, n, k: n == k)


def test_a_really_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small disk; the injected variants above always run")
    try:
        directory = disk / "checkpoints"
        save(directory, 1, state_of(1))
        before = sorted(p.relative_to(disk) for p in disk.rglob("*"))
        noise = np.random.default_rng(0).integers(0, 256, 2 << 20, np.uint8)
        with pytest.raises(StorageError, match=r"step_000000002: .*No space left") as caught:
            save(directory, 2, {"noise": noise})
        assert "\n" not in str(caught.value)
        assert sorted(p.relative_to(disk) for p in disk.rglob("*")) == before
        assert newest_step(directory) == 1
        assert step_of(load(save(directory, 3, state_of(3)))) == 3
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# --- what a power cut would need: everything is on the disk before its name is ------------------


def disk_events(directory: Path) -> list[tuple[str, str]]:
    """('write' | 'fsync' | 'rename', path) in the order in which one save does them."""
    events: list[tuple[str, str]] = []

    def record(name: str, real: Callable) -> Callable:
        def call(first, *rest):
            where = f"/proc/self/fd/{first}"
            events.append((name, os.readlink(where) if isinstance(first, int) else str(first)))
            return real(first, *rest)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", REAL_FSYNC)
        for name in ("write", "fsync", "rename"):
            patch.setattr(os, name, record(name, getattr(os, name)))
        save(directory, 1, state_of(1))
    return events


def check_order(directory: Path) -> None:
    events = disk_events(directory)
    temporary = str(directory / f"{files.TEMPORARY}step_000000001")
    renamed = events.index(("rename", temporary))
    written = [path for name, path in events[:renamed] if name == "write"]
    assert len(set(written)) >= 5 and written[-1] == f"{temporary}/manifest.json"
    for path in {*written, temporary}:
        assert ("fsync", path) in events[:renamed], path
    assert ("fsync", str(directory)) in events[renamed:]


def test_all_is_synced_before_the_rename_and_the_rename_after(tmp_path, monkeypatch):
    check_order(tmp_path / "sound")
    monkeypatch.setattr(files, "sync_directory", lambda path: None)
    with pytest.raises(AssertionError):  # control
        check_order(tmp_path / "forgetful")


# --- row 3: kill -9 at random instants -----------------------------------------------------------

KILL_LOOP = """
import os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_checkpoint_faults as t

t.checkpoint.LARGE_BYTES, t.checkpoint.CHUNK_BYTES = 1000, 500
os.fsync = lambda descriptor: None  # what is in the page cache outlives a process
directory, step, inside = Path(sys.argv[1]), 0, 0
random.seed(0)
for kill in range(1, 1000):
    child = os.fork()
    if child == 0:
        while True:
            step += 1
            t.save(directory, step, t.state_of(step))
    time.sleep(random.uniform(0.001, 0.04))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    inside += any(directory.glob(t.files.TEMPORARY + "*"))
    found = t.newest(directory, t.fail)
    if found is not None:
        reached = t.step_of(found[1])
        assert reached >= step, (reached, step)
        step = reached
    if kill >= 50 and inside >= 10:
        break
print(step, inside)
"""


def test_kill_9_at_50_random_instants(tmp_path):
    command = [sys.executable, "-c", KILL_LOOP, str(tmp_path / "run"), str(Path(__file__).parent)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    step, inside = map(int, result.stdout.split())
    assert step > 10 and inside >= 10  # it got somewhere, and kills hit a save


# --- rows 5 and 6: damage ------------------------------------------------------------------------


def damages(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Truncations and flipped byte ranges of a file's content."""
    size = len(content)
    for length in sorted({0, 1, size // 2, size - 1}):
        yield f"truncated at {length}", content[:length]
    rng = np.random.default_rng(size)
    for length in (1, 7, size):
        for start in {0, size - length, *rng.integers(0, size - length + 1, 6).tolist()}:
            flipped = np.frombuffer(content, np.uint8).copy()
            flipped[start : start + length] ^= 0xFF
            yield f"{length} bytes flipped at {start}", flipped.tobytes()


def check_every_damage(directory: Path) -> int:
    save(directory, 1, state_of(1))
    path = save(directory, 2, state_of(2))
    older = {file.name for file in (directory / "step_000000001").iterdir()}
    count = 0
    for file in sorted(path.iterdir()):
        if file.name.startswith("chunk_") and file.name in older:
            continue  # the same bytes: see test_a_damaged_chunk_spoils_all_that_share_it
        content = file.read_bytes()
        for what, damaged in damages(content):
            file.write_bytes(damaged)
            lines: list[str] = []
            assert newest_step(directory, lines.append) == 1, (file.name, what)
            (line,) = lines
            assert str(file) in line and "\n" not in line
            if file.name != "manifest.json":
                assert hashlib.sha256(content).hexdigest() in line
                if len(damaged) == len(content):
                    assert hashlib.sha256(damaged).hexdigest() in line
                else:
                    assert f"{len(damaged)} bytes, expected {len(content)}" in line
            count += 1
        file.write_bytes(content)
    assert newest_step(directory) == 2
    return count


def test_any_damage_is_named_and_the_previous_one_used(tmp_path):
    assert check_every_damage(tmp_path) > 60


def test_control_without_the_hashes_damage_goes_unseen(tmp_path, monkeypatch):
    def trusting(path: Path, name: str, entries: dict) -> bytes:
        return (path / name).read_bytes()

    monkeypatch.setattr(checkpoint, "_read_verified", trusting)
    with pytest.raises((AssertionError, ValueError)):
        check_every_damage(tmp_path)


def test_damage_to_the_manifest_that_is_still_json_is_seen(tmp_path):
    path = save(tmp_path, 2, state_of(2))
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace('"step": 2', '"step": 3'))
    with pytest.raises(DataError, match=r"manifest\.json: corrupt: sha256 is [0-9a-f]{64}"):
        load(path)


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "tensors.safetensors", "chunk"])
def test_missing_files_are_named(tmp_path, name):
    save(tmp_path, 1, state_of(1))
    path = save(tmp_path, 2, state_of(2))
    next(file for file in sorted(path.iterdir()) if file.name.startswith(name)).unlink()
    lines: list[str] = []
    assert newest_step(tmp_path, lines.append) == 1
    assert len(lines) == 1 and name in lines[0] and "missing" in lines[0]


def test_a_damaged_chunk_spoils_all_that_share_it(tmp_path):
    first, second = save(tmp_path, 1, state_of(1)), save(tmp_path, 2, state_of(2))
    shared = {p.name for p in first.glob("chunk_*")} & {p.name for p in second.glob("chunk_*")}
    (first / shared.pop()).write_bytes(bytes(500)[:-1] + b"x")
    with pytest.raises(DataError):
        newest(tmp_path, lambda line: None)


@pytest.mark.parametrize("kind", ["flipped", "empty directory", "a file"])
def test_only_corrupt_is_never_read_as_none(tmp_path, kind):
    path = save(tmp_path, 1, state_of(1))
    if kind == "flipped":
        (path / "state.json").write_bytes(b"{}")
    else:
        shutil.rmtree(path)
        path.mkdir() if kind == "empty directory" else path.write_text("")
    lines: list[str] = []
    with pytest.raises(DataError, match="none of the 1 checkpoints") as caught:
        newest(tmp_path, lines.append)
    assert caught.value.exit_code == 65 and len(lines) == 1


# --- reading while a run saves -------------------------------------------------------------------


@contextmanager
def saving_meanwhile(directory: Path) -> Iterator[None]:
    """In the middle of the first read a run saves three times, the first of them the best."""
    read, has_saved = checkpoint._read_verified, False

    def slow_read(*args: Any) -> bytes:
        nonlocal has_saved
        if not has_saved:
            has_saved = True
            for step in (3, 4, 5):
                save(directory, step, state_of(step))
                if step == 3:
                    mark_best(directory, checkpoint.step_name(3))
        return read(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_read_verified", slow_read)
        yield


def two_checkpoints(directory: Path) -> None:
    for step in (1, 2):
        save(directory, step, state_of(step))
    mark_best(directory, checkpoint.step_name(1))


def test_what_a_run_replaces_while_it_is_read_is_read_once_more(tmp_path):
    two_checkpoints(tmp_path)
    with saving_meanwhile(tmp_path):
        assert newest_step(tmp_path) == 5
    shutil.rmtree(tmp_path)
    two_checkpoints(tmp_path)
    with saving_meanwhile(tmp_path):
        found = checkpoint.load_best(tmp_path)
    assert found is not None and step_of(found[1]) == 3


def test_control_read_only_once_it_is_taken_for_corrupt(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_saved", lambda directory: {})
    for read in (checkpoint.load_best, lambda directory: newest(directory, lambda line: None)):
        two_checkpoints(tmp_path)
        with saving_meanwhile(tmp_path), pytest.raises(DataError):
            read(tmp_path)
        shutil.rmtree(tmp_path)


def test_what_is_corrupt_is_read_only_once(tmp_path, monkeypatch):
    two_checkpoints(tmp_path)
    for path in tmp_path.rglob("state.json"):
        path.write_bytes(path.read_bytes()[:-1])
    reads = []
    monkeypatch.setattr(
        checkpoint, "load", lambda path, load=load: reads.append(path) or load(path)
    )
    with pytest.raises(DataError, match="none of the 2 checkpoints"):
        newest(tmp_path, lambda line: None)
    with pytest.raises(DataError, match=r"state\.json"):
        checkpoint.load_best(tmp_path)
    assert len(reads) == 3
