"""An EpisodeBatch in worker processes, for slow simulators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from rlzoo.core.types import Step
from rlzoo.envs.batch import GymEpisodes, at_rest, member
from rlzoo.envs.episodes import Env
from rlzoo.envs.process import LONG_SECONDS, Crew, Shared
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
        self._template = make()
        self.observation_space = self._template.observation_space
        self.action_space = self._template.action_space
        self._template.close()
        self._crew: Crew | None = None
        self._capacity = 0

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        self.num_envs, self._seeds, self._length = len(seeds), list(seeds), 0
        self.alive_B = np.ones(self.num_envs, dtype=bool)
        crew = self._crew_of(self.num_envs)
        self._step = Step(*(array_B[: self.num_envs] for array_B in crew.shared.step))
        self._step.reward_B.fill(np.nan)
        crew.ask("reset", [seeds[worker.envs] for worker in crew.workers])
        crew.answers(LONG_SECONDS)
        return self._step.next_obs_B

    def step(self, action_B: np.ndarray) -> Step:
        check_action_form(action_B, self.action_space, self.num_envs)
        assert self._crew is not None, "reset comes first"
        self._length += 1
        crew, step = self._crew, at_rest(self._step, ~self.alive_B)
        np.copyto(crew.shared.action_B[: self.num_envs], action_B, casting="same_kind")
        step.reward_B[self.alive_B] = np.nan  # see _suspect
        crew.ask("step", [self.alive_B[worker.envs] for worker in crew.workers])
        crew.answers(self._timeout_seconds)
        self.alive_B &= ~(step.terminated_B | step.truncated_B)
        return step

    def _crew_of(self, num_envs: int) -> Crew:
        """Workers for at least so many envs."""
        if self._crew is None or num_envs > self._capacity:
            self.close()
            self._capacity = num_envs
            self._crew = Crew(
                partial(_EpisodesServer, self._make),
                self._template,
                num_envs=num_envs,
                workers=self._workers,
                suspect=self._suspect,
            )
        return self._crew

    def _suspect(self, envs: slice, step: Step) -> str:
        """Which member a silent worker was busy with: the first that has not written its reward."""
        i = envs.start + int(np.isnan(step.reward_B[envs]).argmax())
        i = min(i, self.num_envs - 1)  # a worker may have nothing to play
        return member(i, self._seeds[i], self._length)

    def close(self) -> None:
        """End the workers; a second call does nothing."""
        if self._crew is not None:
            self._crew.close()


class _EpisodesServer:
    """Steps a slice of a ProcessEpisodes, or the first ones of it where fewer play."""

    def __init__(self, make: Callable[[], Env], envs: slice, shared: Shared) -> None:
        self._shared = shared
        self._episodes = GymEpisodes(make, first_member=envs.start, out=shared.step)

    def __call__(self, command: str, argument: Any) -> None:
        episodes = self._episodes
        if command == "reset":
            episodes.reset(argument)
        elif argument.any():
            episodes.alive_B[:] = argument
            episodes.step(self._shared.action_B[: episodes.num_envs])
