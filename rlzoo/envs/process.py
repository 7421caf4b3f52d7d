"""B envs in worker processes.

Each worker steps a slice of the envs into shared memory; pipes carry only commands, answers and
errors. Workers never outlive the process that made them: they leave when their pipe closes, and a
thread in each ends even a stuck one when the parent is gone.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import prod
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.util import Finalize
from typing import Any, NamedTuple

import numpy as np

from rlzoo.core.seeding import episode_seed
from rlzoo.core.types import EnvError, RlzooError, State, Step
from rlzoo.envs.episodes import Env, EpisodeEnv, RestoreClass, place
from rlzoo.envs.sync import SyncVectorEnv, check_action_form, check_count, empty_step

# Not fork: the parent may have threads (torch, BLAS), and a forked child inherits their locks.
SPAWN = multiprocessing.get_context("spawn")
LONG_SECONDS = 600.0  # for what is not a step: start up, replay episodes
LEAVE_SECONDS = 5.0  # for a worker to leave by itself before it is killed


class Shared(NamedTuple):
    """The arrays that parent and workers see alike; the first axis is the env."""

    action_B: np.ndarray
    obs_B: np.ndarray
    step: Step

    def part(self, envs: slice) -> Shared:
        return Shared(self.action_B[envs], self.obs_B[envs], Step(*(a[envs] for a in self.step)))


class SharedMemory:
    """Memory without a name, in the layout of some arrays; it goes to a worker as it starts."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self._layout = [(a.dtype, a.shape) for a in arrays]
        self._blocks = [SPAWN.RawArray("b", max(a.nbytes, 1)) for a in arrays]

    def arrays(self) -> Shared:
        action_B, obs_B, *step = (
            np.frombuffer(block, dtype=dtype, count=prod(shape)).reshape(shape)
            for block, (dtype, shape) in zip(self._blocks, self._layout, strict=True)
        )
        return Shared(action_B, obs_B, Step(*step))


Serve = Callable[[str, Any], Any]  # obeys a command, with its argument


@dataclass
class Worker:
    process: SpawnProcess
    pipe: Connection
    envs: slice


class Crew:
    """Worker processes, each with a slice of the envs; none is left once one of them failed.

    `make_serve(envs, shared)` is called in each: from its slice, and the slice of what is `shared`,
    to what obeys its commands. `suspect` names the env of a slice that a silent worker is busy
    with, by the steps of all; it is asked while they start up, too.
    """

    def __init__(
        self,
        make_serve: Callable[[slice, Shared], Serve],
        template: Env,
        *,
        num_envs: int,
        workers: int,
        suspect: Callable[[slice, Step], str],
    ) -> None:
        step = empty_step(template.observation_space, num_envs)
        action_space = template.action_space
        action_B = np.zeros((num_envs, *(action_space.shape or ())), action_space.dtype)
        memory = SharedMemory([action_B, step.next_obs_B, *step])
        self.shared = memory.arrays()
        self.workers: list[Worker] = []
        self._suspect = suspect
        # Runs at close(), when this object is collected, or when the interpreter exits.
        self.close = Finalize(self, _stop, (self.workers,), exitpriority=1)
        count = min(workers or os.cpu_count() or 1, num_envs)
        with signals_held_back():
            for w in range(count):
                envs = slice(num_envs * w // count, num_envs * (w + 1) // count)
                self.workers.append(_start(envs, memory, make_serve))
        self.answers(LONG_SECONDS)

    def ask(self, command: str, arguments: Sequence[Any] = ()) -> None:
        """Of all workers; `arguments` has one for each."""
        if not self.workers:
            raise EnvError("env workers: already closed")
        for w, worker in enumerate(self.workers):
            with suppress(OSError):  # it is dead; waiting for its answer finds out
                worker.pipe.send((command, arguments[w] if arguments else None))

    def answers(self, seconds: float) -> list[Any]:
        """One for each worker; EnvError after so many seconds, or whatever a worker raised."""
        deadline = time.monotonic() + seconds
        return [self._answer(worker, deadline, seconds) for worker in self.workers]

    def _answer(self, worker: Worker, deadline: float, seconds: float) -> Any:
        try:
            if worker.pipe.poll(max(0.0, deadline - time.monotonic())):
                answer = worker.pipe.recv()
            else:
                where = self._suspect(worker.envs, self.shared.step)
                answer = EnvError(f"{where}: no answer within {seconds:g} seconds")
        except (EOFError, OSError):
            worker.process.join(LEAVE_SECONDS)
            code = worker.process.exitcode
            where = self._suspect(worker.envs, self.shared.step)
            answer = EnvError(f"{where}: the worker process died (exit code {code})")
        if isinstance(answer, RlzooError):
            for each in self.workers:
                each.process.kill()
            self.close()
            raise answer
        return answer


class ProcessVectorEnv:
    """The same as SyncVectorEnv, bit for bit, with the envs in worker processes.

    A worker that raises, dies, or takes longer than `timeout_seconds` for a step is an EnvError
    that names env index, episode, seed and step; no worker is left when it reaches the caller.
    """

    def __init__(
        self,
        make: Callable[[], Env],
        *,
        num_envs: int,
        run_seed: int,
        purpose: str,
        restore: RestoreClass = "replay",
        workers: int = 0,
        timeout_seconds: float = 60.0,
    ) -> None:
        self.num_envs = num_envs
        self.resume_exact = True
        self._run_seed, self._purpose = run_seed, purpose
        self._timeout_seconds = timeout_seconds
        # Where each env stands, to be able to say so when its worker no longer can.
        self._episode_B = np.zeros(num_envs, dtype=np.int64)
        self._length_B = np.zeros(num_envs, dtype=np.int64)
        template = make()
        self.observation_space = template.observation_space
        self.action_space = template.action_space
        template.close()
        members = {"run_seed": run_seed, "purpose": purpose, "restore": restore}
        self._crew = Crew(
            partial(_VectorServer, make, members),
            template,
            num_envs=num_envs,
            workers=workers,
            suspect=self._suspect,
        )
        self.obs_B = self._crew.shared.obs_B.copy()

    def step(self, action_B: np.ndarray) -> Step:
        check_action_form(action_B, self.action_space, self.num_envs)
        shared, step = self._crew.shared, self._crew.shared.step
        np.copyto(shared.action_B, action_B, casting="same_kind")
        step.reward_B.fill(np.nan)  # an env that has stepped writes a number here: see _suspect
        self._crew.ask("step")
        self._crew.answers(self._timeout_seconds)
        self._length_B += 1
        ended_B = step.terminated_B | step.truncated_B
        self._episode_B += ended_B
        self._length_B[ended_B] = 0
        self.obs_B = shared.obs_B.copy()
        return step

    def state(self) -> State:
        self._crew.ask("state")
        states = [s for part in self._crew.answers(LONG_SECONDS) for s in part.values()]
        return {str(i): state for i, state in enumerate(states)}

    def load(self, state: State) -> None:
        check_count(state, self.num_envs)
        states = [state[str(i)] for i in range(self.num_envs)]
        parts = [states[worker.envs] for worker in self._crew.workers]
        self._crew.ask("load", [{str(i): s for i, s in enumerate(part)} for part in parts])
        answers = self._crew.answers(LONG_SECONDS)
        self.resume_exact = all(exact for exact, _ in answers)
        self._length_B[:] = [length for _, lengths in answers for length in lengths]
        self._episode_B[:] = [int(s["episode"]) for s in states]
        self.obs_B = self._crew.shared.obs_B.copy()

    def _suspect(self, envs: slice, step: Step) -> str:
        """Which env a silent worker was busy with: the first that has not written its reward.

        If all have, one whose episode ended was being reset.
        """
        busy_B = np.isnan(step.reward_B[envs])
        if not busy_B.any():
            busy_B = (step.terminated_B | step.truncated_B)[envs]
        i = envs.start + int(busy_B.argmax())
        episode = int(self._episode_B[i])
        seed = episode_seed(self._run_seed, self._purpose, i, episode)
        return place(i, episode, seed, int(self._length_B[i]) + 1)

    def close(self) -> None:
        """End the workers; a second call does nothing."""
        self._crew.close()


def _start(
    envs: slice, memory: SharedMemory, make_serve: Callable[[slice, Shared], Serve]
) -> Worker:
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(
        target=_work, args=(there, envs, memory, make_serve), name="rlzoo-env", daemon=True
    )
    process.start()
    there.close()  # so that the worker's death closes the pipe
    return Worker(process, here, envs)


def _stop(workers: list[Worker]) -> None:
    for worker in workers:
        worker.pipe.close()
    deadline = time.monotonic() + LEAVE_SECONDS
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()
    workers.clear()


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Workers started here never see SIGINT, SIGTERM or SIGHUP, even while they start up.

    A terminal or a scheduler sends them to the whole group, but they are meant for the parent,
    which saves first. What reaches the parent meanwhile is delivered afterwards.
    """
    resource_tracker.ensure_running()  # started later, it would let the signals through again
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# In the worker -----------------------------------------------------------------------------------


def _work(
    pipe: Connection,
    envs: slice,
    memory: SharedMemory,
    make_serve: Callable[[slice, Shared], Serve],
) -> None:
    """Obey until the pipe closes. The first error is the last answer."""
    end_with_parent()
    with suppress(EOFError, OSError):  # the parent has closed the pipe
        try:
            serve = make_serve(envs, memory.arrays().part(envs))
            answer: Any = None
            while True:
                pipe.send(answer)
                answer = serve(*pipe.recv())
        except RlzooError as error:
            error.add_note("".join(traceback.format_exception(error)))
            pipe.send(error)


class _VectorServer:
    """Steps a slice of a ProcessVectorEnv."""

    def __init__(
        self, make: Callable[[], Env], members: dict[str, Any], envs: slice, shared: Shared
    ) -> None:
        indices = range(envs.start, envs.stop)
        self._shared = shared
        self._vector = SyncVectorEnv(
            [EpisodeEnv(make, env_index=i, **members) for i in indices], out=shared.step
        )
        shared.obs_B[...] = self._vector.obs_B

    def __call__(self, command: str, argument: Any) -> Any:
        vector = self._vector
        if command == "state":
            return vector.state()
        if command == "step":
            vector.step(self._shared.action_B)
        else:
            vector.load(argument)
        self._shared.obs_B[...] = vector.obs_B
        if command == "load":
            return vector.resume_exact, [env.length for env in vector.members]
        return None


def end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
