"""A vector env that counts: the returns and lengths of training episodes."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import numpy as np

from rlzoo.core.types import State, Step

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


class RecordedVectorEnv:
    """A vector env (a `types.VectorEnv`) with the statistics of its episodes.

    `env` is the env itself. Who steps the members of that one by one adds to `statistics` as well.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self.num_envs = env.num_envs
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.obs_B = env.obs_B
        self.statistics = EpisodeStatistics(env.num_envs)

    @property
    def resume_exact(self) -> bool:
        return self.env.resume_exact

    @property
    def episodes(self) -> int:
        return self.statistics.episodes

    def step(self, action_B: np.ndarray) -> Step:
        step = self.env.step(action_B)
        self.obs_B = self.env.obs_B
        self.statistics.add(step)
        return step

    def gauges(self) -> dict[str, float]:
        """Episodes so far; nothing if no step was taken."""
        statistics = self.statistics
        return statistics.gauges() if statistics.episodes or any(statistics.lengths) else {}

    def state(self) -> State:
        return {"env": self.env.state(), "statistics": self.statistics.state()}

    def load(self, state: State) -> None:
        self.env.load(state["env"])
        self.obs_B = self.env.obs_B
        self.statistics.load(state["statistics"])

    def close(self) -> None:
        self.env.close()
