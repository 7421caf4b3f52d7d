"""Stepping a vector env, and what is known about its episodes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from rlzoo.core.types import State, Step, VectorEnv
from rlzoo.data.episode_statistics import EpisodeStatistics


class Transition(NamedTuple):
    """One step of each env; the arrays of `step` are valid until the next one."""

    obs_B: np.ndarray  # what was acted on
    action_B: np.ndarray  # as the env got it
    step: Step


class Collector:
    """Steps a vector env. Keeps episode statistics, and the time that envs and policy take."""

    def __init__(self, env: VectorEnv) -> None:
        self.env = env
        self.statistics = EpisodeStatistics(env.num_envs)
        self._env_seconds = self._seconds = 0.0

    def step(self, action_B: np.ndarray) -> Transition:
        """Take one action in each env."""
        start = time.perf_counter()
        obs_B = self.env.obs_B
        step = self.env.step(action_B)
        self.statistics.add(step)
        self._env_seconds += time.perf_counter() - start
        return Transition(obs_B, action_B, step)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """A block that collects: what it does besides steps is acting (and storing)."""
        start = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - start

    def gauges(self) -> dict[str, float]:
        """Episodes so far, and the seconds spent since the last call."""
        seconds = {
            "time/act_seconds": self._seconds - self._env_seconds,
            "time/env_seconds": self._env_seconds,
        }
        self._seconds = self._env_seconds = 0.0
        return {**self.statistics.gauges(), **seconds}

    def state(self) -> State:
        return {"env": self.env.state(), "statistics": self.statistics.state()}

    def load(self, state: State) -> None:
        self.env.load(state["env"])
        self.statistics.load(state["statistics"])
