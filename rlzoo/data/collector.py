"""Stepping a vector env with a policy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rlzoo.core.types import State, Step, VectorEnv
from rlzoo.data.episode_statistics import EpisodeStatistics


class Collector:
    """Acts in a vector env and hands each step on. Keeps episode statistics and the time it took.

    `store(obs_B, action_B, step)` keeps what happened; the arrays of `step` are only valid during
    the call.
    """

    def __init__(
        self, env: VectorEnv, store: Callable[[np.ndarray, np.ndarray, Step], None]
    ) -> None:
        self.env = env
        self.store = store
        self.statistics = EpisodeStatistics(env.num_envs)
        self.act_seconds = 0.0
        self.env_seconds = 0.0

    def step(self, policy: Callable[..., np.ndarray], *arguments: Any) -> None:
        """One step of each env, with the actions `policy(obs_B, *arguments)`."""
        start = time.perf_counter()
        obs_B = self.env.obs_B
        action_B = policy(obs_B, *arguments)
        acted = time.perf_counter()
        step = self.env.step(action_B)
        self.store(obs_B, action_B, step)
        self.statistics.add(step)
        self.act_seconds += acted - start
        self.env_seconds += time.perf_counter() - acted

    def take_seconds(self) -> dict[str, float]:
        """Seconds spent acting and stepping since the last call."""
        taken = {"time/act_seconds": self.act_seconds, "time/env_seconds": self.env_seconds}
        self.act_seconds = self.env_seconds = 0.0
        return taken

    def state(self) -> State:
        return {"env": self.env.state(), "statistics": self.statistics.state()}

    def load(self, state: State) -> None:
        self.env.load(state["env"])
        self.statistics.load(state["statistics"])
