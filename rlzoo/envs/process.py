"""B envs in worker processes.

Each worker steps a slice of the envs in shared memory; pipes carry only requests, answers and
errors. Who silent workers are, and how they end, is `rlzoo.core.workers`' business; which env one
was busy with is known here, by what it has written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from rlzoo.core.seeding import episode_seed
from rlzoo.core.types import EnvError, RlzooError, State, Step
from rlzoo.core.workers import (
    LEAVE_SECONDS,
    SPAWN,
    START_SECONDS,
    Worker,
    WorkerError,
    end,
    end_with,
)
from rlzoo.envs.episodes import Env, EpisodeEnv, RestoreClass, faults_as, made, place
from rlzoo.envs.sync import SyncVectorEnv, check_action_form, check_count, empty_step

REPLAY_SECONDS = 600.0  # for what is not one step: reset, replay episodes


class Spaces(NamedTuple):
    """Of one env."""

    observation: spaces.Space[Any]
    action: spaces.Space[Any]


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


class Crew:
    """Worker processes, each with a slice of the envs; none is left once one of them failed.

    `make_server(envs, sign, memory)` is called in each. `suspect` names the env of a slice that a
    lost worker was busy with, by the steps of all; it is asked while they start up, too.
    """

    def __init__(
        self,
        make_server: Callable[..., Any],
        env_spaces: Spaces,
        *,
        num_envs: int,
        workers: int,
        suspect: Callable[[slice, Step], str],
    ) -> None:
        step = empty_step(env_spaces.observation, num_envs)
        action_B = np.zeros((num_envs, *(env_spaces.action.shape or ())), env_spaces.action.dtype)
        memory = SharedMemory([action_B, step.next_obs_B, *step])
        self.shared = memory.arrays()
        self.await_rewards()
        self._suspect = suspect
        count = min(workers or os.cpu_count() or 1, num_envs)
        self.slices = [
            slice(num_envs * w // count, num_envs * (w + 1) // count) for w in range(count)
        ]
        self.workers: list[Worker] = []
        end_with(self, self.workers, LEAVE_SECONDS)
        for envs in self.slices:
            self.workers.append(Worker(partial(make_server, envs), memory))

    def await_rewards(self) -> None:
        """An env that is done with what it is asked writes a number here."""
        self.shared.step.reward_B.fill(np.nan)

    def ask(
        self, method: str, arguments: Sequence[Any] = (), *, seconds: float, what: str = ""
    ) -> list[Any]:
        """The answers of all workers; `arguments` has one for each.

        EnvError for a worker that dies or is silent for so long, or whatever a worker raised.
        """
        if not self.workers:
            raise EnvError("env workers: already closed")
        for w, worker in enumerate(self.workers):
            worker.ask(method, *arguments[w : w + 1], seconds=seconds)
        answers: list[Any] = []
        try:
            for worker in self.workers:
                answers.append(worker.answer())
        except RlzooError as error:
            where = self._suspect(self.slices[len(answers)], self.shared.step)
            end(self.workers, 0)
            if isinstance(error, WorkerError):
                raise EnvError(f"{where}: {what}{error}") from error
            raise
        return answers

    def close(self) -> None:
        """Close the envs and end the workers; a second call does nothing.

        EnvError for an env that cannot be closed; no worker is left then, either.
        """
        if self.workers:
            self.await_rewards()
            self.ask("close", seconds=LEAVE_SECONDS, what="close: ")
            end(self.workers, LEAVE_SECONDS)


def spaces_of(make: Callable[[], Env], who: str) -> Spaces:
    """Asked of an env in a worker: one that hangs or dies takes nothing else with it.

    EnvErrors say `who` it is.
    """
    workers = [Worker(partial(_SpacesServer, make, who))]
    try:
        [worker] = workers
        worker.ask("spaces", seconds=START_SECONDS)
        found: Spaces = worker.answer()
        worker.ask("close", seconds=LEAVE_SECONDS)
        worker.answer()
    except WorkerError as error:
        raise EnvError(f"{who} cannot be made: {error}") from error
    finally:
        end(workers, 0)
    return found


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
        self._step_B = np.zeros(num_envs, dtype=np.int64)
        env_spaces = spaces_of(make, "env 0")
        self.observation_space, self.action_space = env_spaces
        members = {"run_seed": run_seed, "purpose": purpose, "restore": restore}
        self._crew = Crew(
            partial(_VectorServer, make, members),
            env_spaces,
            num_envs=num_envs,
            workers=workers,
            suspect=self._suspect,
        )
        self._crew.ask("begin", seconds=START_SECONDS)
        self.obs_B = self._crew.shared.obs_B.copy()

    def step(self, action_B: np.ndarray) -> Step:
        check_action_form(action_B, self.action_space, self.num_envs)
        shared, step = self._crew.shared, self._crew.shared.step
        np.copyto(shared.action_B, action_B, casting="same_kind")
        self._crew.await_rewards()
        self._step_B += 1
        self._crew.ask("step", seconds=self._timeout_seconds)
        ended_B = step.terminated_B | step.truncated_B
        self._episode_B += ended_B
        self._step_B[ended_B] = 0
        self.obs_B = shared.obs_B.copy()
        return step

    def state(self) -> State:
        parts = self._crew.ask("state", seconds=REPLAY_SECONDS)
        states = [s for part in parts for s in part.values()]
        return {str(i): state for i, state in enumerate(states)}

    def load(self, state: State) -> None:
        check_count(state, self.num_envs)
        states = [state[str(i)] for i in range(self.num_envs)]
        parts = [states[envs] for envs in self._crew.slices]
        answers = self._crew.ask(
            "load",
            [{str(i): s for i, s in enumerate(part)} for part in parts],
            seconds=REPLAY_SECONDS,
        )
        self.resume_exact = all(exact for exact, _ in answers)
        self._step_B[:] = [length for _, lengths in answers for length in lengths]
        self._episode_B[:] = [int(s["episode"]) for s in states]
        self.obs_B = self._crew.shared.obs_B.copy()

    def _suspect(self, envs: slice, step: Step) -> str:
        """Which env a lost worker was busy with: the first that has not written its reward.

        If all have, one whose episode ended was being reset.
        """
        busy_B = np.isnan(step.reward_B[envs])
        if not busy_B.any():
            busy_B = (step.terminated_B | step.truncated_B)[envs]
        i = envs.start + int(busy_B.argmax())
        episode = int(self._episode_B[i])
        seed = episode_seed(self._run_seed, self._purpose, i, episode)
        return place(i, episode, seed, int(self._step_B[i]))

    def close(self) -> None:
        """Close the envs, end the workers; a second call does nothing.

        EnvError for an env that cannot be closed; no worker is left then, either.
        """
        self._crew.close()


# In the worker -----------------------------------------------------------------------------------


class _SpacesServer:
    """Says what the spaces of an env are."""

    def __init__(self, make: Callable[[], Env], who: str, _sign: Callable[[], None]) -> None:
        self._who, self._env = who, made(make, who)

    def spaces(self) -> Spaces:
        return Spaces(self._env.observation_space, self._env.action_space)

    def close(self) -> None:
        with faults_as(lambda text: EnvError(f"{self._who}: {text}"), "close: "):
            self._env.close()


class _VectorServer:
    """Steps a slice of a ProcessVectorEnv."""

    def __init__(
        self,
        make: Callable[[], Env],
        member: dict[str, Any],
        envs: slice,
        _sign: Callable[[], None],
        memory: SharedMemory,
    ) -> None:
        self._shared = memory.arrays().part(envs)
        members = []
        for i in range(envs.start, envs.stop):
            members.append(EpisodeEnv(make, env_index=i, **member))
            self._shared.step.reward_B[i - envs.start] = 0
        self._vector = SyncVectorEnv(members, out=self._shared.step)

    def begin(self) -> None:
        self._shared.obs_B[...] = self._vector.obs_B

    def step(self) -> None:
        self._vector.step(self._shared.action_B)
        self._shared.obs_B[...] = self._vector.obs_B

    def state(self) -> State:
        return self._vector.state()

    def load(self, state: State) -> tuple[bool, list[int]]:
        self._vector.load(state)
        self._shared.obs_B[...] = self._vector.obs_B
        return self._vector.resume_exact, [env.length for env in self._vector.members]

    def close(self) -> None:
        for i, env in enumerate(self._vector.members):
            env.close()
            self._shared.step.reward_B[i] = 0
