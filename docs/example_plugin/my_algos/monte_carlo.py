"""Every-visit Monte Carlo control with an epsilon-greedy policy (Sutton & Barto 2018, 5.4)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from rlzoo.core import registry
from rlzoo.core.seeding import generator_state, load_generator, numpy_generator
from rlzoo.core.settings import setting
from rlzoo.core.types import Counters, Metrics, State, Step, UsageError
from rlzoo.core.algorithm import Setup
from rlzoo.data.collector import Collector


@dataclass(frozen=True)
class MonteCarloConfig:
    name: str = "monte_carlo"
    gamma: float = setting(0.99, "discount", low=0, high=1)
    epsilon: float = setting(0.1, "chance of a random action", low=0, high=1)


class MonteCarlo:
    needs: tuple[str, ...] = ()  # of "network" and "replay"

    def __init__(self, config: MonteCarloConfig, setup: Setup) -> None:
        self.config, self.env, self.total_env_steps = config, setup.env, setup.total_env_steps
        self.counters = Counters()
        self.rng = numpy_generator(setup.seed, "monte_carlo")
        self.q_SA = np.zeros((setup.env.observation_space.n, setup.env.action_space.n))
        self.visits_SA = np.zeros(self.q_SA.shape, dtype=np.int64)
        self.episodes: list[list[Any]] = [[] for _ in range(setup.env.num_envs)]
        self.collector = Collector(setup.env, self.remember)

    @staticmethod
    def check(run: Any) -> None:
        """Refuse settings that cannot work together."""

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
        self.collector.step(lambda obs_B: self.act(obs_B, explore=True))
        self.counters.env_steps += self.env.num_envs
        self.counters.episodes = self.collector.statistics.episodes
        return {}

    def remember(self, obs_B: np.ndarray, action_B: np.ndarray, step: Step) -> None:
        for b, episode in enumerate(self.episodes):
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
        return {
            "train/q_max_mean": float(self.q_SA.max(axis=1).mean()),
            **self.collector.statistics.gauges(),
            **self.collector.take_seconds(),
        }

    def done(self) -> bool:
        return self.counters.env_steps >= self.total_env_steps

    def state(self) -> State:
        """Everything that the rest of the run depends on: arrays and plain JSON values."""
        return {
            "counters": self.counters.state(),
            **self.policy_state(),
            "visits_SA": self.visits_SA.copy(),
            "episodes": [list(episode) for episode in self.episodes],
            "rng": generator_state(self.rng),
            "collector": self.collector.state(),
        }

    def load(self, state: State) -> None:
        self.counters.load(state["counters"])
        self.load_policy(state)
        self.visits_SA = state["visits_SA"].copy()
        self.episodes = [list(episode) for episode in state["episodes"]]
        load_generator(self.rng, state["rng"])
        self.collector.load(state["collector"])

    def policy_state(self) -> State:
        return {"q_SA": self.q_SA.copy()}

    def load_policy(self, state: State) -> None:
        self.q_SA = state["q_SA"].copy()


registry.register("algo", "monte_carlo", f"{__name__}:MonteCarlo", f"{__name__}:MonteCarloConfig")
