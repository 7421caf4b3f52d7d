"""Stepping a vector env, and what is known about its episodes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from rlzoo.core.types import State, Step, VectorEnv

RECENT_EPISODES = 100  # the window of rollout/return_mean, as in most published curves


class Episode(NamedTuple):
    return_: float  # undiscounted sum of raw rewards
    length: int  # env steps


class EpisodeStatistics:
    """Returns and lengths of training episodes: those running, and the most recent finished."""

    def __init__(self, num_envs: int) -> None:
        self.returns = [0.0] * num_envs
        self.lengths = [0] * num_envs
        self.episodes = 0
        self.recent: deque[Episode] = deque(maxlen=RECENT_EPISODES)

    def add_one(self, index: int, reward: float, ended: bool) -> None:
        self.returns[index] += reward
        self.lengths[index] += 1
        if ended:
            self.recent.append(Episode(self.returns[index], self.lengths[index]))
            self.episodes += 1
            self.returns[index], self.lengths[index] = 0.0, 0

    def add(self, step: Step) -> None:
        terminated, truncated = step.terminated_B.tolist(), step.truncated_B.tolist()
        for index, reward in enumerate(step.reward_B.tolist()):
            self.add_one(index, reward, terminated[index] or truncated[index])

    def gauges(self) -> dict[str, float]:
        gauges = {"rollout/episodes": float(self.episodes)}
        if self.recent:
            return_mean, length_mean = np.mean(self.recent, axis=0)
            gauges["rollout/return_mean"] = float(return_mean)
            gauges["rollout/length_mean_env_steps"] = float(length_mean)
        return gauges

    def state(self) -> State:
        return {
            "returns": list(self.returns),
            "lengths": list(self.lengths),
            "episodes": self.episodes,
            "recent": [list(episode) for episode in self.recent],
        }

    def load(self, state: State) -> None:
        self.returns, self.lengths = list(state["returns"]), list(state["lengths"])
        self.episodes = state["episodes"]
        self.recent = deque((Episode(*e) for e in state["recent"]), maxlen=RECENT_EPISODES)


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
