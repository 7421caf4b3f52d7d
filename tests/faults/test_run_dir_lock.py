"""Two processes and one run directory: the second is told who holds it, a dead one lets go."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlzoo.core.types import CantCreateError, LockedError
from rlzoo.io import files
from rlzoo.io.run_dir import RunDir


def started_run(root: Path, env: str = "cartpole") -> RunDir:
    run = RunDir.claim(root, "dqn", env, 0)
    run.write_text("config.yaml", "algo: dqn\n")
    return run


def one_line(error: Exception) -> bool:
    return "\n" not in str(error)


def start(code: str, *arguments: object) -> subprocess.Popen:
    """A process that runs `code` after the imports that it needs."""
    head = (
        "import os, sys, time\nfrom pathlib import Path\nfrom rlzoo.io import run_dir\n"
        "from rlzoo.io.run_dir import RunDir\n"
    )
    command = [sys.executable, "-c", head + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def fill_the_disk(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", refuse)


HOLD = """
RunDir(Path(sys.argv[1])).lock()
print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_the_second_process_is_told_who_holds_the_lock(tmp_path):
    run = started_run(tmp_path)
    holder = start(HOLD, run.path)
    pid = int(holder.stdout.readline())
    try:
        match = rf"in use by process {pid} on \S+ since 20\d\d-"
        with pytest.raises(LockedError, match=match) as caught:
            run.lock()
        assert caught.value.exit_code == 75 and one_line(caught.value)
        with pytest.raises(LockedError):
            RunDir.claim_at(run.path)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with run.lock():  # the dead process's lock is reclaimed
        assert json.loads((run.path / "lock").read_text())["pid"] == os.getpid()
    assert (run.path / "lock").read_text() == ""


def test_a_second_lock_in_the_same_process_is_refused_until_unlock(tmp_path):
    run = started_run(tmp_path)
    run.lock()
    with pytest.raises(LockedError, match=f"process {os.getpid()} "):
        RunDir.open(run.path).lock()
    run.unlock()
    run.unlock()
    with RunDir.open(run.path).lock():
        pass


def test_a_recycled_pid_is_not_mistaken_for_the_holder(tmp_path):
    run = started_run(tmp_path)
    stale = {"pid": os.getppid(), "host": "a longer one " * 20, "since": "yesterday"}
    (run.path / "lock").write_text(json.dumps(stale))
    with run.lock():
        assert json.loads((run.path / "lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b"\xff", b'{"pid": 3}'])
def test_a_holder_that_has_not_written_its_name_is_another_process(tmp_path, record):
    run = started_run(tmp_path)
    with run.lock():
        (run.path / "lock").write_bytes(record)
        with pytest.raises(LockedError, match="in use by another process"):
            RunDir(run.path).lock()


ORPHAN = """
RunDir(Path(sys.argv[1])).lock()
if sys.argv[2] == "without the hook":
    run_dir._locked_here.clear()
child = os.fork()
if child == 0:
    print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("hook", ["with the hook", "without the hook"])
def test_an_orphaned_worker_does_not_hold_the_lock_of_its_dead_parent(tmp_path, hook):
    run = started_run(tmp_path)
    parent = start(ORPHAN, run.path, hook)
    orphan = int(parent.stdout.readline())
    try:
        with pytest.raises(LockedError):
            run.lock()
        parent.kill()
        parent.wait()
        if hook == "with the hook":
            run.lock().unlock()
        else:  # control
            with pytest.raises(LockedError):
                run.lock()
    finally:
        os.kill(orphan, signal.SIGKILL)
        parent.communicate()


def test_a_worker_cannot_unlock_what_its_parent_holds(tmp_path):
    run = started_run(tmp_path).lock()
    child = os.fork()
    if child == 0:
        run.unlock()
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(LockedError, match=f"process {os.getpid()} "):
        RunDir(run.path).lock()
    run.unlock()


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path):
    run = RunDir(tmp_path / "absent")
    with pytest.raises(CantCreateError, match="cannot be locked: No such file") as caught:
        run.lock()
    assert one_line(caught.value)


def test_a_lock_on_a_full_disk_holds_without_a_name(tmp_path, monkeypatch):
    run = started_run(tmp_path)
    fill_the_disk(monkeypatch)
    with run.lock(), pytest.raises(LockedError, match="in use by another process"):
        RunDir(run.path).lock()


def test_locking_clears_what_a_kill_left(tmp_path):
    run = started_run(tmp_path)
    (run.path / f"{files.TEMPORARY}12-result.json").write_text("half")
    with run.lock():
        assert not list(run.path.glob(f"{files.TEMPORARY}*"))
