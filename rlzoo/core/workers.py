"""Worker processes: how they begin, are asked, are found to be lost, and end.

In the worker, `make(sign, *inherited)` gives a server: an object whose methods do what is asked.
Within a long request, `sign()` tells the parent that it goes on. Workers never outlive the process
that made them: they leave when their pipe closes, and a thread ends even a stuck one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any

from rlzoo.core.messages import Unfailing, cause
from rlzoo.core.types import RlzooError

# Not fork: the parent may have threads (torch, BLAS), and a forked child inherits their locks.
SPAWN = multiprocessing.get_context("spawn")
START_SECONDS = 600.0  # for a worker to start and make its server
LEAVE_SECONDS = 5.0  # for a worker to leave by itself before it is killed
# A terminal or a scheduler sends them to the whole group, but they are meant for the parent.
FOR_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class WorkerError(RlzooError):
    """A worker raised something that is no RlzooError; the message names it."""


class WorkerLost(WorkerError):
    """A worker died, or gave no sign of life in time."""


class Worker:
    """A process that makes a server and does what it is asked, one request after the other.

    `inherited` goes to it as it starts: small things (memory) that a pipe cannot take.
    """

    def __init__(self, make: Callable[..., Any], *inherited: Any) -> None:
        self.pipe, there = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_work, args=(there, *inherited), daemon=True)
        self._made, self._seconds = False, START_SECONDS
        self._deadline = time.monotonic() + START_SECONDS
        resource_tracker.ensure_running()  # started later, it would let the signals through again
        before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_PARENT)
        try:
            self.process.start()  # it inherits the mask
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        there.close()  # so that the worker's death closes the pipe
        # Not among the process's arguments: those are written to a pipe whose other end is open
        # here, too, so that a worker that dies before it has read them would be waited for in vain.
        self._send(make)

    def ask(self, method: str, *arguments: Any, seconds: float) -> None:
        """Of its server; the time-out begins once that is made, and anew with a sign of life."""
        self._send((method, arguments))
        self._seconds = seconds
        if self._made:
            self._deadline = time.monotonic() + seconds

    def receive(self, wait_seconds: float = 0.0) -> list[Any] | None:
        """[the answer], or None: not yet. What came in time counts, however late it is read.

        Raises the RlzooError of the worker, WorkerError for another exception, or WorkerLost.
        """
        try:
            if not self.pipe.poll(wait_seconds):
                if time.monotonic() < self._deadline:
                    return None
                seconds = self._seconds if self._made else START_SECONDS
                raise WorkerLost(f"no sign of life within {seconds:g} seconds")
            answer: list[Any] | RlzooError | None = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(LEAVE_SECONDS)
            code = self.process.exitcode
            raise WorkerLost(f"the worker process died (exit code {code})") from None
        if isinstance(answer, RlzooError):
            raise answer
        if answer is None:
            self._made = True
            self._deadline = time.monotonic() + self._seconds
        return answer

    def answer(self) -> Any:
        """Wait for the answer to the last request; raises as `receive`."""
        while (answer := self.receive(max(0.0, self._deadline - time.monotonic()))) is None:
            pass
        return answer[0]

    def _send(self, message: Any) -> None:
        try:  # noqa: SIM105 - `suppress` costs 3 calls, at each step of a vector env
            self.pipe.send(message)
        except OSError:  # it is dead; waiting for its answer finds out
            pass


def end(workers: list[Worker], patience_seconds: float) -> None:
    """End the workers, and empty the list; who has not left by itself in time is killed."""
    for worker in workers:
        worker.pipe.close()
    deadline = time.monotonic() + patience_seconds
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        worker.process.kill()
        worker.process.join()
        worker.process.close()
    workers.clear()


def end_with(owner: object, workers: list[Worker], patience_seconds: float) -> None:
    """End the workers when their owner is collected, or when the interpreter exits."""
    Finalize(owner, end, (workers, patience_seconds), exitpriority=1)


def portable(error: BaseException) -> RlzooError:
    """An error that can be sent: of the nearest kind in core.types, its traceback as a note."""
    kinds = [kind for kind in type(error).__mro__ if kind.__module__ == RlzooError.__module__]
    answer = kinds[0](str(error)) if kinds else WorkerError(f"worker: {cause(error)}")
    answer.add_note("".join(traceback.format_exception(error)))
    return answer


def _work(pipe: Connection, *inherited: Any) -> None:
    """In the worker: serve until the pipe closes. The first error is the last answer."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.stdout, sys.stderr = Unfailing(sys.stdout), Unfailing(sys.stderr)  # of envs that print
    try:
        server = pipe.recv()(partial(pipe.send, None), *inherited)
        pipe.send(None)
        while True:
            method, arguments = pipe.recv()
            pipe.send([getattr(server, method)(*arguments)])
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent has to know
        with suppress(OSError):  # the parent has closed the pipe: that was the error
            pipe.send(portable(error))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
