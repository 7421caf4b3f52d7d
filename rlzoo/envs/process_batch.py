"""An EpisodeBatch in worker processes, for slow simulators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from rlzoo.core.types import Step
from rlzoo.envs.batch import GymEpisodes, at_rest, member
from rlzoo.envs.episodes import Env
from rlzoo.envs.process import REPLAY_SECONDS, Crew, SharedMemory, spaces_of
from rlzoo.envs.sync import check_action_form


class ProcessEpisodes:
    """The same as GymEpisodes, bit for bit, with the envs in worker processes.

    A worker that raises, dies, or takes longer than `timeout_seconds` for a step is an EnvError
    that names member, seed and step; no worker is left when it reaches the caller.
    """

    def __init__(
        self, make: Callable[[], Env], *, workers: int = 0, timeout_seconds: float = 60.0
    ) -> None:
        self._make, self._workers, self._timeout_seconds = make, workers, timeout_seconds
        self._spaces = spaces_of(make, "member 0")
        self.observation_space, self.action_space = self._spaces
        self._crew: Crew | None = None
        self._capacity = 0

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        self.num_envs, self._seeds, self._length = len(seeds), list(seeds), 0
        self.alive_B = np.ones(self.num_envs, dtype=bool)
        crew = self._crew_of(self.num_envs)
        self._step = Step(*(array_B[: self.num_envs] for array_B in crew.shared.step))
        crew.await_rewards()
        crew.ask("reset", [seeds[envs] for envs in crew.slices], seconds=REPLAY_SECONDS)
        return self._step.next_obs_B

    def step(self, action_B: np.ndarray) -> Step:
        check_action_form(action_B, self.action_space, self.num_envs)
        assert self._crew is not None, "reset comes first"
        self._length += 1
        crew, step = self._crew, at_rest(self._step, ~self.alive_B)
        np.copyto(crew.shared.action_B[: self.num_envs], action_B, casting="same_kind")
        step.reward_B[self.alive_B] = np.nan  # see _suspect
        alive = [self.alive_B[envs] for envs in crew.slices]
        crew.ask("step", alive, seconds=self._timeout_seconds)
        self.alive_B &= ~(step.terminated_B | step.truncated_B)
        return step

    def _crew_of(self, num_envs: int) -> Crew:
        """Workers for at least so many envs."""
        if self._crew is None or num_envs > self._capacity:
            self.close()
            self._capacity = num_envs
            self._crew = Crew(
                partial(_EpisodesServer, self._make),
                self._spaces,
                num_envs=num_envs,
                workers=self._workers,
                suspect=self._suspect,
            )
        return self._crew

    def _suspect(self, envs: slice, step: Step) -> str:
        """Which member a lost worker was busy with: the first that has not written its reward."""
        i = envs.start + int(np.isnan(step.reward_B[envs]).argmax())
        i = min(i, self.num_envs - 1)  # a worker may have nothing to play
        return member(i, self._seeds[i], self._length)

    def close(self) -> None:
        """Close the envs, end the workers; a second call does nothing.

        EnvError for an env that cannot be closed; no worker is left then, either.
        """
        if self._crew is not None:
            self._crew.close()


class _EpisodesServer:
    """In the worker: steps a slice of a ProcessEpisodes, or the first of it where fewer play."""

    def __init__(
        self,
        make: Callable[[], Env],
        envs: slice,
        _sign: Callable[[], None],
        memory: SharedMemory,
    ) -> None:
        self._shared = memory.arrays().part(envs)
        self._episodes = GymEpisodes(make, first_member=envs.start, out=self._shared.step)

    def reset(self, seeds: Sequence[int]) -> None:
        self._episodes.reset(seeds)

    def step(self, alive_B: np.ndarray) -> None:
        if alive_B.any():
            self._episodes.alive_B[:] = alive_B
            self._episodes.step(self._shared.action_B[: self._episodes.num_envs])

    def close(self) -> None:
        for i in range(self._episodes.capacity):
            self._episodes.close_one(i)
            self._shared.step.reward_B[i] = 0
