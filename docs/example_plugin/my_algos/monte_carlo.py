"""Every-visit Monte Carlo control with an epsilon-greedy policy (Sutton & Barto 2018, 5.4)."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from rlzoo.core import registry
from rlzoo.core.algorithm import Algorithm, Reactive, Setup
from rlzoo.core.seeding import numpy_generator
from rlzoo.core.settings import setting
from rlzoo.core.types import Counters, Metrics, Record, UsageError
from rlzoo.data.collector import Collector, Transition


@dataclass(frozen=True)
class MonteCarloConfig:
    name: str = "monte_carlo"
    gamma: float = setting(0.99, "discount", low=0, high=1)
    epsilon: float = setting(0.1, "chance of a random action", low=0, high=1)


@dataclass
class Running(Record):
    """The episodes in progress: of each env [observation, action, reward] for each step."""

    episodes: list[list[Any]] = field(default_factory=list)


class MonteCarlo(Algorithm):
    policy_parts = ("q_SA",)

    def __init__(self, config: MonteCarloConfig, setup: Setup) -> None:
        self.config, self.env, self.total_env_steps = config, setup.env, setup.total_env_steps
        self.counters = Counters()
        self.policy = Reactive(self.act)
        self.rng = numpy_generator(setup.seed, "monte_carlo")
        self.q_SA = np.zeros((setup.env.observation_space.n, setup.env.action_space.n))
        self.visits_SA = np.zeros(self.q_SA.shape, dtype=np.int64)
        self.running = Running([[] for _ in range(setup.env.num_envs)])
        self.collector = Collector(setup.env)
        self.parts = {  # everything that the rest of the run depends on
            "q_SA": self.q_SA,
            "visits_SA": self.visits_SA,
            "running": self.running,
            "rng": self.rng,
            "env": self.env,
        }

    @staticmethod
    def check_spaces(config: MonteCarloConfig, observation_space: Any, action_space: Any) -> None:
        for space in (observation_space, action_space):
            if not isinstance(space, Discrete) or space.start != 0:
                raise UsageError(f"algo=monte_carlo: got {space}, expected Discrete from 0")

    def act(self, obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
        q_BA = self.q_SA[obs_B]
        if not explore:
            return q_BA.argmax(axis=1)
        # Noise breaks ties among the actions; for an exploring env it outweighs all values.
        explore_B = self.rng.random(len(obs_B)) < self.config.epsilon
        scale_B = np.where(explore_B, 1e9, 1e-9)
        return (q_BA + scale_B[:, None] * self.rng.random(q_BA.shape)).argmax(axis=1)

    def step(self) -> Metrics:
        """One step of each env; an episode that ends is learned from."""
        with self.collector.timed("collect"):
            action_B = self.act(self.env.obs_B, explore=True)
            self.remember(self.collector.step(action_B))
        self.counters.env_steps += self.env.num_envs
        self.counters.episodes = self.env.episodes
        return {}

    def remember(self, transition: Transition) -> None:
        obs_B, action_B, step = transition
        for b, episode in enumerate(self.running.episodes):
            episode.append([int(obs_B[b]), int(action_B[b]), float(step.reward_B[b])])
            if step.terminated_B[b]:
                self.learn(episode)
            if step.terminated_B[b] or step.truncated_B[b]:  # a cut-off return is not one
                episode.clear()

    def learn(self, episode: list[Any]) -> None:
        return_ = 0.0
        for obs, action, reward in reversed(episode):
            return_ = reward + self.config.gamma * return_
            self.visits_SA[obs, action] += 1
            error = return_ - self.q_SA[obs, action]
            self.q_SA[obs, action] += error / self.visits_SA[obs, action]
        self.counters.updates += len(episode)

    def gauges(self) -> dict[str, float]:
        best_S = self.q_SA.max(axis=1)
        return {"train/q_max_mean": float(best_S.mean()), **self.collector.gauges()}


registry.register("algo", "monte_carlo", f"{__name__}:MonteCarlo", f"{__name__}:MonteCarloConfig")
