"""The run directory: claimed by one run, locked by one process, and a record of what ran."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlzoo.core.messages import warn
from rlzoo.core.settings import nearest
from rlzoo.core.types import CantCreateError, DataError, LockedError, StorageError, UsageError
from rlzoo.io import files
from rlzoo.io.provenance import provenance
from rlzoo.io.regular import check_tree, open_regular

__all__ = ["RunDir", "is_run_dir", "latest", "provenance"]

# Folders of an output directory; others in it (demonstrations, shipped agents) are no own runs.
RUNS, SWEEPS = "runs", "sweeps"
_STATUS = "status.json"  # written first, by the claim
_CONFIG = "config.yaml"  # without it a run never began: there is nothing to resume or evaluate
_LOCK = "lock"


class RunDir:
    """One run's directory, from `claim`, `claim_at` or `open`."""

    def __init__(self, path: Path, found_there: frozenset[str] | None = None) -> None:
        self.path = path
        self._found_there = found_there  # names from before our claim; None: not claimed by us
        self._lock: int | None = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tb(self) -> Path:
        return self.path / "tb"

    @property
    def videos(self) -> Path:
        return self.path / "videos"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    # --- coming by one -----------------------------------------------------------------------

    @classmethod
    def claim(cls, root: Path, algo: str, env: str, seed: int) -> RunDir:
        """A new directory `root/<algo>-<env>/<UTC time>-s<seed>-<id>` that nobody else has.

        CantCreateError where there can't be one, StorageError on a full disk.
        """
        group = Path(root) / f"{_plain_name(algo)}-{_plain_name(env)}"
        while True:
            time = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
            path = group / f"{time}-s{seed}-{secrets.token_hex(3)}"
            with _creating(group):
                group.mkdir(parents=True, exist_ok=True)
            with _creating(path):
                try:
                    path.mkdir()
                except (FileExistsError, FileNotFoundError):
                    continue  # taken; or a run that failed took its empty group away
            return cls(path, frozenset())._begin()

    @classmethod
    def claim_at(cls, path: Path) -> RunDir:
        """The directory `path` itself, made where needed, for a job of a sweep.

        CantCreateError where it can't be made or already holds a run; LockedError where another
        process is claiming it.
        """
        path = Path(path)
        with _creating(path):
            path.mkdir(parents=True, exist_ok=True)
            run = cls(path, frozenset(os.listdir(path)))
            check_tree(path)
        with run.lock():
            if (path / _CONFIG).exists():  # a status alone is a claim whose run never began
                raise CantCreateError(f"{path}: already holds a run; resume it or choose another")
            return run._begin()

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """An existing run directory; UsageError names the nearest one if this is none.

        DataError where it holds anything but regular files and folders.
        """
        path = Path(path)
        for name in (_STATUS, _CONFIG):
            if not os.path.isfile(path / name):
                inside = sorted(file.parent for file in path.glob(f"*/{_CONFIG}"))
                siblings = [file.parent.name for file in path.parent.glob(f"*/{_CONFIG}")]
                hint = (
                    f" Its newest run is {inside[-1]}" if inside else nearest(path.name, siblings)
                )
                raise UsageError(f"{path}: not a run directory (no {name}).{hint}")
        check_tree(path)
        return cls(path)

    @staticmethod
    def check_writable(root: Path) -> None:
        """CantCreateError unless runs can be created below `root`; creates nothing."""
        root = Path(root).absolute()
        existing = next(path for path in (root, *root.parents) if os.path.exists(path))
        if not existing.is_dir():
            raise CantCreateError(f"{root}: cannot be created: {existing} is a file")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise CantCreateError(f"{root}: cannot be created: {existing} is not writable")

    def _begin(self) -> RunDir:
        with self.preparing():
            now = _now()
            self.write_json(_STATUS, {"status": "running", "started": now, "updated": now})
        return self

    @contextmanager
    def preparing(self) -> Iterator[RunDir]:
        """Take back the claim if the block fails, so that nothing half-written is left behind.

        For everything between the claim and the start of the run. What was in the directory
        before the claim stays.
        """
        assert self._found_there is not None, "only a directory claimed here can be given up"
        try:
            yield self
        except BaseException:
            with suppress(OSError):
                for name in set(os.listdir(self.path)) - self._found_there:
                    files.delete(self.path / name)
                self.path.rmdir()
                self.path.parent.rmdir()  # the group, if this was its only run
            raise

    # --- the lock ----------------------------------------------------------------------------

    def lock(self) -> RunDir:
        """Make this process the only one that writes here, also as `with run_dir.lock():`.

        LockedError names the holder; CantCreateError where the directory cannot be written. The
        lock ends with the process, however that ends.
        """
        assert self._lock is None, "locked already"
        path = self.path / _LOCK
        try:
            descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise CantCreateError(f"{path}: cannot be locked: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _describe_holder(os.read(descriptor, 1000))
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise LockedError(f"{self.path}: in use by {holder}") from error
            raise CantCreateError(f"{path}: cannot be locked: {error.strerror}") from error
        self._lock = descriptor
        _locked_here.add(self)
        record = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
        with suppress(OSError):  # a full disk: the lock holds, also without our name on it
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(record).encode())
            files.remove_leftovers(self.path)
        return self

    def unlock(self) -> None:
        """Let other processes in; does nothing where there is no lock."""
        if self._lock is not None:
            with suppress(OSError):
                os.ftruncate(self._lock, 0)
            self._drop_lock()
            _locked_here.discard(self)

    def check_held(self) -> None:
        """StorageError if `path` is no longer the directory that was locked."""
        if self._lock is None:
            return
        with suppress(OSError):
            there = os.stat(self.path / _LOCK, follow_symlinks=False)
            if os.path.samestat(there, os.fstat(self._lock)):
                return
        raise StorageError(f"{self.path}: is gone: it was renamed or deleted while the run went on")

    def _drop_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.unlock()

    # --- files -------------------------------------------------------------------------------

    def write_text(self, name: str, text: str) -> None:
        """Replace a whole file; StorageError on a full disk leaves the old one."""
        files.write_atomic(self.path / name, text.encode())

    def write_json(self, name: str, content: Any) -> None:
        self.write_text(name, json.dumps(content, indent=2) + "\n")

    def read_json(self, name: str) -> Any:
        """DataError where the file is missing or not JSON."""
        path = self.path / name
        return files.parse_json(files.read(path, limit=files.MAX_JSON_BYTES), path)

    def set_status(self, status: str, **details: Any) -> None:
        """Record 'running', 'finished', 'stopped' or 'failed', with details as JSON values."""
        fields = {"status": status, "started": self.started(), "updated": _now()}
        content = json.dumps({**fields, **details}, indent=2) + "\n"
        try:
            self.write_text(_STATUS, content)
        except StorageError:  # a disk too full for a new file has room in the old one's place
            files.overwrite(self.path / _STATUS, content.encode())

    def started(self) -> str:
        """When the directory was claimed: UTC, ISO 8601, microseconds."""
        status = self.read_json(_STATUS)
        started = status.get("started") if isinstance(status, dict) else None
        if not isinstance(started, str):
            raise DataError(f"{self.path / _STATUS}: does not say when the run started")
        return started


def is_run_dir(path: Path) -> bool:
    """Whether a folder looks like a run directory."""
    return all(os.path.lexists(path / name) for name in (_STATUS, _CONFIG))


def latest(root: Path) -> Path:
    """The run below `root` (in its runs or sweeps) that started last; UsageError if none."""
    root = Path(root)
    started = []
    for folder in (RUNS, SWEEPS):
        for file in root.glob(f"{folder}/*/*/{_CONFIG}"):
            try:
                started.append((RunDir(file.parent).started(), file.parent))
            except DataError as error:  # of one run; the others are none the worse
                warn(f"passed over: {error}")
    if not started:
        raise UsageError(f"{root}: got no run directories there, expected at least one to resume")
    return max(started)[1]


_locked_here: set[RunDir] = set()


def _leave_locks_to_parent() -> None:
    # A forked worker shares the lock and would hold it after the death of its parent.
    for run in _locked_here:
        run._drop_lock()
    _locked_here.clear()


os.register_at_fork(after_in_child=_leave_locks_to_parent)


def _describe_holder(record: bytes) -> str:
    try:
        holder = json.loads(record)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "another process"  # which has not yet written down who it is


@contextmanager
def _creating(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise CantCreateError(f"{path}: cannot be created: a file has that name") from error
    except OSError as error:
        raise CantCreateError(f"{path}: cannot be created: {error.strerror}") from error


def _plain_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "unnamed"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
