"""Shares of work: in order, done again after a worker's death, errors named, no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rlzoo.algos.world_models import executor as module
from rlzoo.algos.world_models.executor import (
    LocalExecutor,
    ProcessExecutor,
    RayExecutor,
    make_executor,
)
from rlzoo.core.types import RlzooError, UsageError


def squarer() -> module.Worker:
    def square(share: int) -> Generator[None, None, tuple[int, int]]:
        yield
        return share * share, os.getpid()

    return square


class Troublemaker:
    """Misbehaves at one share: `what` at the first attempt only, or `always`."""

    def __init__(self, folder: Path, what: str, always: bool = False) -> None:
        self.folder, self.what, self.always = folder, what, always

    def __call__(self, share: int) -> Generator[None, None, int]:
        yield
        if share == 2:
            attempt = self.folder / f"attempt_{time.monotonic_ns()}"
            first = not list(self.folder.glob("attempt_*"))
            attempt.touch()
            if first or self.always:
                self._misbehave()
        return share * 10

    def _misbehave(self) -> None:
        if self.what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == "hang":
            time.sleep(60)
        if self.what == "raise":
            raise FileNotFoundError("no such thing")
        raise UsageError("a setting is wrong")


def troublemaker(*arguments: Any) -> Troublemaker:
    return Troublemaker(*arguments)


def processes(make: Any, workers: int = 2, timeout_seconds: float = 60) -> ProcessExecutor:
    return ProcessExecutor(make, workers=workers, timeout_seconds=timeout_seconds)


def run(executor: module.Executor, shares: list[Any]) -> list[Any]:
    executor.start(shares)
    deadline = time.monotonic() + 300
    while (results := executor.poll()) is None:
        assert time.monotonic() < deadline
    return results


def attempts(folder: Path) -> int:
    return len(list(folder.glob("attempt_*")))


def test_in_this_process_a_slice_at_a_time():
    executor = LocalExecutor(squarer)
    executor.start([3, 4])
    assert [executor.poll() for _ in range(3)] == [None] * 3  # two slices a share
    assert executor.poll() == [(9, os.getpid()), (16, os.getpid())]
    executor.start([5, 6])
    executor.poll()
    assert [r for r, _ in run(executor, [7])] == [49]  # a batch under way is dropped


def test_in_processes_results_come_in_order_and_from_several():
    executor = processes(squarer)
    try:
        results = run(executor, list(range(12)))
        assert [r for r, _ in results] == [n * n for n in range(12)]
        assert len({pid for _, pid in results} - {os.getpid()}) == 2
        executor.start(list(range(50)))
        assert [r for r, _ in run(executor, [7, 8])] == [49, 64]
    finally:
        executor.close()


@pytest.mark.parametrize("what", ["die", "hang"])
def test_the_share_of_a_lost_worker_is_done_again(what, tmp_path):
    executor = processes(partial(troublemaker, tmp_path, what), timeout_seconds=4)
    try:
        assert run(executor, [0, 1, 2, 3]) == [0, 10, 20, 30]
        assert attempts(tmp_path) == 2
    finally:
        executor.close()


def test_a_share_that_kills_every_worker_is_named(tmp_path):
    executor = processes(partial(troublemaker, tmp_path, "die", True), workers=1)
    with pytest.raises(RlzooError, match=r"^2: the worker process died \(exit code -9\), 3 times"):
        run(executor, [0, 1, 2, 3])
    assert attempts(tmp_path) == module.ATTEMPTS


@pytest.mark.parametrize(
    ("what", "kind", "text"),
    [
        ("raise", RlzooError, "worker: FileNotFoundError: no such thing"),
        ("refuse", UsageError, "a setting is wrong"),
    ],
)
def test_an_exception_in_a_worker_reaches_the_caller(what, kind, text, tmp_path):
    executor = processes(partial(troublemaker, tmp_path, what))
    members = [worker.process for worker in executor._workers]
    with pytest.raises(kind, match=text) as caught:
        run(executor, [0, 1, 2, 3])
    assert "_misbehave" in caught.value.__notes__[0]  # where it happened
    assert all(process._closed for process in members)


def cannot_be_made() -> module.Worker:
    raise FileNotFoundError("no weights")


def test_a_worker_that_cannot_be_made_says_why():
    with pytest.raises(RlzooError, match="no weights"):
        run(processes(cannot_be_made), [0])


def large(_: bytes) -> module.Worker:
    return sleeper()


UNGUARDED = """
import sys
sys.path.insert(0, {folder!r})
from functools import partial
from test_executor import large, processes, run
run(processes(partial(large, bytes(10**6))), [0])
"""


def test_workers_that_die_at_once_do_not_hang_their_parent(tmp_path):
    script = tmp_path / "script.py"  # each worker imports it, too, and may not begin others then
    script.write_text(UNGUARDED.format(folder=str(Path(__file__).parent)))
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    assert "died (exit code 1), 3 times in a row" in ended.stderr


def sleeper() -> module.Worker:
    def sleep(seconds: float) -> Generator[None, None, None]:
        yield
        time.sleep(seconds)

    return sleep


ORPHANS = """
import sys, time
sys.path.insert(0, {folder!r})
from test_executor import processes, run, sleeper
if __name__ == "__main__":
    executor = processes(sleeper)
    run(executor, [0, 0])
    executor.start([60, 60])
    executor.poll()
    print(*[worker.process.pid for worker in executor._workers], flush=True)
    {end}
"""


@pytest.mark.parametrize("end", ["time.sleep(60)", "raise SystemExit(3)"])
def test_no_busy_worker_outlives_its_parent(end, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ORPHANS.format(folder=str(Path(__file__).parent), end=end))
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    if "sleep" in end:
        assert all(map(is_alive, pids))
        parent.kill()
    parent.wait(300)
    deadline = time.monotonic() + 120
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, "a worker is left"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class FakeRay(types.ModuleType):
    """As much of Ray as is used: actors that do their work when their result is asked for."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.options: dict[str, int] = {}
        self.killed = 0

    def init(self, *, ignore_reinit_error: bool) -> None: ...

    def remote(self, **options: int) -> Any:
        self.options = options
        return lambda cls: types.SimpleNamespace(remote=lambda *a: self._actor(cls(*a)))

    def _actor(self, instance: Any) -> Any:
        later = types.SimpleNamespace(remote=lambda share: partial(instance.do, share))
        return types.SimpleNamespace(do=later)

    def wait(self, futures: list, *, num_returns: int, timeout: float) -> tuple[list, list]:
        return futures[:num_returns], futures[num_returns:]

    def get(self, futures: list) -> list:
        return [future() for future in futures]

    def kill(self, actor: Any) -> None:
        self.killed += 1


def test_ray_does_the_same(monkeypatch):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    executor = make_executor(squarer, workers=2, kind="ray", timeout_seconds=60)
    assert isinstance(executor, RayExecutor)
    assert [r for r, _ in run(executor, list(range(5)))] == [0, 1, 4, 9, 16]
    assert ray.options == {"max_restarts": -1, "max_task_retries": 2}
    executor.close()
    assert ray.killed == 2


def test_an_error_of_a_ray_worker_reaches_the_caller(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    make = partial(troublemaker, tmp_path, "refuse")
    executor = make_executor(make, workers=1, kind="ray", timeout_seconds=60)
    with pytest.raises(UsageError, match=r"^a setting is wrong"):
        run(executor, [2])


def test_without_ray_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"tools/setup\.sh ray"):
        make_executor(squarer, workers=2, kind="ray", timeout_seconds=60)


def test_no_workers_is_this_process():
    executor = make_executor(squarer, workers=0, timeout_seconds=60)
    assert isinstance(executor, LocalExecutor)


# Signs of life ------------------------------------------------------------------------------------


def slowly(share: int) -> Generator[None, None, int]:
    """Tenths of a second of work, in as many slices."""
    for _ in range(share):
        time.sleep(0.1)
        yield
    return share


def slow_worker() -> module.Worker:
    return slowly


def test_a_worker_that_gives_signs_of_life_is_waited_for():
    executor = processes(slow_worker, workers=1, timeout_seconds=2.5)
    try:
        assert run(executor, [1]) == [1]  # by now it has started up
        assert run(executor, [35]) == [35]
        assert executor._attempts == [1]
    finally:
        executor.close()


def test_what_arrived_in_time_counts_however_late_it_is_read():
    executor = processes(slow_worker, workers=1, timeout_seconds=2)
    try:
        run(executor, [1])
        executor.start([5])
        assert executor.poll() is None
        time.sleep(3)  # this process was busy with something else: saving, an evaluation
        assert executor.poll() == [5]
        assert executor._attempts == [1]
    finally:
        executor.close()


def stuck_worker() -> module.Worker:
    def hang(share: str) -> Generator[None, None, None]:
        yield
        time.sleep(60)

    return hang


def test_a_share_that_hangs_every_worker_is_named():
    executor = processes(stuck_worker, workers=1, timeout_seconds=1)
    with pytest.raises(
        RlzooError, match=r"^members 0 to 3: no sign of life within 1 seconds, 3 times in a row"
    ):
        run(executor, ["members 0 to 3"])
