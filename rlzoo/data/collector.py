"""Acting in a vector env, and where the time goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np

from rlzoo.core.types import Step, VectorEnv


class Transition(NamedTuple):
    """One step of each env; the arrays of `step` are valid until the next one."""

    obs_B: np.ndarray  # what was acted on
    action_B: np.ndarray  # as the env got it
    step: Step


class Collector:
    """Steps a vector env, and keeps the time that envs, policy and updates take."""

    def __init__(self, env: VectorEnv) -> None:
        self.env = env
        self._seconds = {"env": 0.0, "collect": 0.0, "learn": 0.0}

    def step(self, action_B: np.ndarray) -> Transition:
        """Take one action in each env."""
        start = time.perf_counter()
        obs_B = self.env.obs_B
        step = self.env.step(action_B)
        self._seconds["env"] += time.perf_counter() - start
        return Transition(obs_B, action_B, step)

    @contextmanager
    def timed(self, what: Literal["collect", "learn"]) -> Iterator[None]:
        """A block of code. What collecting does besides steps is acting (and storing)."""
        start = time.perf_counter()
        yield
        self._seconds[what] += time.perf_counter() - start

    def gauges(self) -> dict[str, float]:
        """Seconds spent since the last call."""
        seconds, self._seconds = self._seconds, dict.fromkeys(self._seconds, 0.0)
        return {
            "time/act_seconds": seconds["collect"] - seconds["env"],
            "time/env_seconds": seconds["env"],
            "time/learn_seconds": seconds["learn"],
        }
