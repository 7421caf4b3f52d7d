"""Shares of work done in this process, in worker processes, or on a Ray cluster: one interface.

A worker is made by a function without arguments, where it runs, and does one share at a time:
`worker(share)` is a generator that yields whenever it may be interrupted, and returns its result.
Each yield is a sign of life; `str(share)` names a share in an error.
A result depends on its share alone, so who does a share, and how often it is begun, makes no
difference to it.
"""

from __future__ import annotations

import multiprocessing.connection
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.util import Finalize
from typing import Any, Literal, Protocol

from rlzoo.core.types import RlzooError, UsageError
from rlzoo.envs.process import LEAVE_SECONDS, SPAWN, end_with_parent, signals_held_back

Worker = Callable[[Any], Generator[None, None, Any]]
Kind = Literal["process", "ray"]
POLL_SECONDS = 0.1  # how long `poll` waits for news
SIGN_SECONDS = 1.0  # a worker gives a sign of life at most this often
ATTEMPTS = 3  # a share whose worker died so often is taken for the cause


class Executor(Protocol):
    """Does a batch of shares: `start`, then `poll` until it answers."""

    def start(self, shares: Sequence[Any]) -> None:
        """Begin a batch; one that is still under way is dropped."""

    def poll(self) -> list[Any] | None:
        """Work, or wait, for a moment. The results in the order of the shares, once all are there.

        Raises the RlzooError of a worker (other exceptions are wrapped in one).
        """

    def close(self) -> None: ...


def make_executor(
    make: Callable[[], Worker], *, workers: int, kind: Kind = "process", timeout_seconds: float
) -> Executor:
    """The executor for so many workers; 0 is this process. `make` and shares must be picklable."""
    if kind == "ray":
        return RayExecutor(make, workers=max(workers, 1))
    if not workers:
        return LocalExecutor(make)
    return ProcessExecutor(make, workers=workers, timeout_seconds=timeout_seconds)


def finished(work: Generator[None, None, Any], between: Callable[[], None] = lambda: None) -> Any:
    """The result of a worker's generator; `between` is called where it may be interrupted."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value
        between()


class LocalExecutor:
    """Does the shares one after the other in this process, a slice at each `poll`."""

    def __init__(self, make: Callable[[], Worker]) -> None:
        self._worker = make()

    def start(self, shares: Sequence[Any]) -> None:
        self._work = deque(self._worker(share) for share in shares)
        self._results: list[Any] = []

    def poll(self) -> list[Any] | None:
        if self._work:
            try:
                next(self._work[0])
            except StopIteration as end:
                self._work.popleft()
                self._results.append(end.value)
        return None if self._work else self._results

    def close(self) -> None:
        self._work = deque()


@dataclass
class _Member:
    process: SpawnProcess
    pipe: Connection
    share: int | None = None  # what it is busy with
    deadline: float = 0.0


class ProcessExecutor:
    """Worker processes. One that dies, or gives no sign of life, is replaced, its share done again.

    Workers never outlive this process.
    """

    def __init__(self, make: Callable[[], Worker], *, workers: int, timeout_seconds: float) -> None:
        self._make, self._timeout_seconds = make, timeout_seconds
        self._members: list[_Member] = []
        self._stop = Finalize(self, _end, (self._members,), exitpriority=1)
        self._waiting: deque[int] = deque()
        for _ in range(workers):
            self._members.append(_begin(make))

    def start(self, shares: Sequence[Any]) -> None:
        assert self._members, "the executor is closed"
        for i, member in enumerate(self._members):
            if member.share is not None:  # with a share of the batch that is dropped
                self._replace(i)
        self._shares = list(shares)
        self._results: list[Any] = [None] * len(shares)
        self._attempts = [0] * len(shares)
        self._left = set(range(len(shares)))
        self._waiting = deque(range(len(shares)))

    def poll(self) -> list[Any] | None:
        for member in self._members:
            if member.share is None and self._waiting:
                self._hand_out(member, self._waiting.popleft())
        pipes = [member.pipe for member in self._members if member.share is not None]
        ready = multiprocessing.connection.wait(pipes, POLL_SECONDS) if pipes else []
        for i, member in enumerate(self._members):
            if member.pipe in ready:
                self._receive(i)
            elif member.share is not None and time.monotonic() > member.deadline:
                self._give_up(i, f"gave no sign of life for {self._timeout_seconds:g} seconds")
        return None if self._left else self._results

    def _hand_out(self, member: _Member, share: int) -> None:
        member.share = share
        self._renew(member)
        self._attempts[share] += 1
        with suppress(OSError):  # it is dead; waiting for its answer finds out
            member.pipe.send(self._shares[share])

    def _renew(self, member: _Member) -> None:
        member.deadline = time.monotonic() + self._timeout_seconds

    def _receive(self, i: int) -> None:
        member = self._members[i]
        try:
            answer = member.pipe.recv()
        except (EOFError, OSError):
            member.process.join(LEAVE_SECONDS)
            self._give_up(i, f"died (exit code {member.process.exitcode})")
            return
        if isinstance(answer, RlzooError):
            self.close()
            raise answer
        if answer is None:
            self._renew(member)
            return
        assert member.share is not None
        [self._results[member.share]] = answer
        self._left.discard(member.share)
        member.share = None

    def _give_up(self, i: int, what: str) -> None:
        """Replace a worker, and put its share back to the front of the queue."""
        share = self._members[i].share
        assert share is not None
        if self._attempts[share] == ATTEMPTS:
            self.close()
            raise RlzooError(f"{self._shares[share]}: the worker {what}, {ATTEMPTS} times in a row")
        self._replace(i)
        self._waiting.appendleft(share)

    def _replace(self, i: int) -> None:
        member = self._members[i]
        member.process.kill()
        _end([member])
        self._members[i] = _begin(self._make)

    def close(self) -> None:
        """End the workers; a second call does nothing."""
        self._stop()


def _begin(make: Callable[[], Worker]) -> _Member:
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=_work, args=(there,), name="rlzoo-worker", daemon=True)
    with signals_held_back():
        process.start()
    there.close()  # so that the worker's death closes the pipe
    # Not among the process's arguments: those are written to a pipe whose other end is open here,
    # too, so that a worker that dies before it has read them all would be waited for in vain.
    with suppress(OSError):  # it is dead; waiting for its answer finds out
        here.send(make)
    return _Member(process, here)


def _end(members: list[_Member]) -> None:
    for member in members:
        member.pipe.close()
        member.process.kill()  # it has nothing to save
    for member in members:
        member.process.join()
        member.process.close()
    members.clear()


def _work(pipe: Connection) -> None:
    """In the worker: do share after share until the pipe closes."""
    end_with_parent()
    with suppress(EOFError, OSError):  # the parent has closed the pipe
        made = _answer(pipe.recv())
        if isinstance(made, RlzooError):
            pipe.send(made)
            return
        [worker] = made
        while True:
            pipe.send(_answer(_do, worker, pipe.recv(), pipe))


def _do(worker: Worker, share: Any, pipe: Connection) -> Any:
    """What the worker makes of the share; a None goes ahead of it now and then."""
    last = time.monotonic()

    def sign() -> None:
        nonlocal last
        if time.monotonic() - last > SIGN_SECONDS:
            pipe.send(None)
            last = time.monotonic()

    return finished(worker(share), sign)


def _answer(function: Callable[..., Any], *arguments: Any) -> list[Any] | RlzooError:
    """[what it returns], or the error that it raises, with the place as a note."""
    try:
        return [function(*arguments)]
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to know
        if not isinstance(error, RlzooError):
            answer = RlzooError(f"worker: {type(error).__name__}: {error}")
        else:
            answer = error
        answer.add_note("".join(traceback.format_exception(error)))
        return answer


def require_ray() -> Any:
    """The package ray; UsageError without it."""
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            f"executor=ray: {error}; it needs the extra ray (in a clone: tools/setup.sh ray)"
        ) from error
    return ray


class RayExecutor:
    """Workers as Ray actors; Ray restarts one that dies, and does its share again.

    Time-outs are Ray's own; a batch that is dropped is still worked through first.
    """

    def __init__(self, make: Callable[[], Worker], *, workers: int) -> None:
        self._ray = ray = require_ray()
        ray.init(ignore_reinit_error=True)
        actor_class = ray.remote(max_restarts=-1, max_task_retries=ATTEMPTS - 1)(_RayWorker)
        self._actors = [actor_class.remote(make) for _ in range(workers)]

    def start(self, shares: Sequence[Any]) -> None:
        actors = self._actors
        self._futures = [actors[i % len(actors)].do.remote(share) for i, share in enumerate(shares)]

    def poll(self) -> list[Any] | None:
        done, _ = self._ray.wait(
            self._futures, num_returns=len(self._futures), timeout=POLL_SECONDS
        )
        if len(done) < len(self._futures):
            return None
        answers = self._ray.get(self._futures)
        for answer in answers:
            if isinstance(answer, RlzooError):
                raise answer
        return [result for [result] in answers]

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []


class _RayWorker:
    def __init__(self, make: Callable[[], Worker]) -> None:
        self._worker = make()

    def do(self, share: Any) -> list[Any] | RlzooError:
        return _answer(finished, self._worker(share))
