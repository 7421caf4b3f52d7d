"""Shares of work done in this process, in worker processes, or on a Ray cluster: one interface.

A worker is made by a function without arguments, where it runs, and does one share at a time:
`worker(share)` is a generator that yields whenever it may be interrupted, and returns its result.
Each yield is a sign of life; `str(share)` names a share in an error.
A result depends on its share alone, so who does a share, and how often it is begun, makes no
difference to it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial
from multiprocessing.connection import wait
from typing import Any, Literal, Protocol

from rlzoo.core import workers as processes
from rlzoo.core.types import RlzooError, UsageError
from rlzoo.core.workers import WorkerLost, end, end_with, portable

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


class ProcessExecutor:
    """Worker processes. One that dies, or gives no sign of life, is replaced, its share done again.

    Workers never outlive this process.
    """

    def __init__(self, make: Callable[[], Worker], *, workers: int, timeout_seconds: float) -> None:
        self._make, self._timeout_seconds = partial(_Server, make), timeout_seconds
        self._workers: list[processes.Worker] = []
        end_with(self, self._workers, 0)  # they have nothing to save
        self._busy: dict[processes.Worker, int] = {}  # with which share
        self._waiting: deque[int] = deque()
        for _ in range(workers):
            self._workers.append(processes.Worker(self._make))

    def start(self, shares: Sequence[Any]) -> None:
        assert self._workers, "the executor is closed"
        for worker in list(self._busy):  # with a share of the batch that is dropped
            self._replace(worker)
        self._shares = list(shares)
        self._results: list[Any] = [None] * len(shares)
        self._attempts = [0] * len(shares)
        self._left = set(range(len(shares)))
        self._waiting = deque(range(len(shares)))

    def poll(self) -> list[Any] | None:
        for worker in self._workers:
            if worker not in self._busy and self._waiting:
                share = self._busy[worker] = self._waiting.popleft()
                self._attempts[share] += 1
                worker.ask("do", self._shares[share], seconds=self._timeout_seconds)
        if self._busy:
            wait([worker.pipe for worker in self._busy], POLL_SECONDS)
        for worker, share in list(self._busy.items()):
            try:
                answer = worker.receive()
            except WorkerLost as lost:
                self._give_up(worker, share, lost)
            except RlzooError:
                self.close()
                raise
            else:
                if answer is not None:
                    [self._results[share]] = answer
                    self._left.discard(share)
                    del self._busy[worker]
        return None if self._left else self._results

    def _give_up(self, worker: processes.Worker, share: int, lost: WorkerLost) -> None:
        """Replace a worker, and put its share back to the front of the queue."""
        if self._attempts[share] == ATTEMPTS:
            self.close()
            raise RlzooError(f"{self._shares[share]}: {lost}, {ATTEMPTS} times in a row")
        self._replace(worker)
        self._waiting.appendleft(share)

    def _replace(self, worker: processes.Worker) -> None:
        self._workers[self._workers.index(worker)] = processes.Worker(self._make)
        del self._busy[worker]
        end([worker], 0)

    def close(self) -> None:
        """End the workers; a second call does nothing."""
        end(self._workers, 0)
        self._busy.clear()


class _Server:
    """In the worker: does one share after the other."""

    def __init__(self, make: Callable[[], Worker], sign: Callable[[], None] = lambda: None) -> None:
        self._worker, self._sign, self._signed = make(), sign, time.monotonic()

    def do(self, share: Any) -> Any:
        return finished(self._worker(share), self._sign_now_and_then)

    def _sign_now_and_then(self) -> None:
        if time.monotonic() - self._signed > SIGN_SECONDS:
            self._sign()
            self._signed = time.monotonic()


def require_ray() -> Any:
    """The package ray; UsageError without it."""
    try:
        import ray
    except ImportError as error:
        from rlzoo.envs.packages import missing

        raise UsageError(f"algo.controller.executor=ray {missing(error)}") from error
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


class _RayWorker(_Server):
    def do(self, share: Any) -> list[Any] | RlzooError:
        try:
            return [super().do(share)]
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller has to know
            return portable(error)
