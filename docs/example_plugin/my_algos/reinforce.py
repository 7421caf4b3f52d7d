"""REINFORCE (Williams 1992) for discrete actions, with an nn.Module and torch.optim."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

from rlzoo.core import registry
from rlzoo.core.algorithm import Algorithm, Reactive, Setup
from rlzoo.core.seeding import torch_generator, torch_seed
from rlzoo.core.settings import setting
from rlzoo.core.types import Counters, Metrics, UsageError


@dataclass(frozen=True)
class ReinforceConfig:
    name: str = "reinforce"
    lr: float = setting(5e-3, "Adam's learning rate", above=0)
    gamma: float = setting(0.99, "discount", low=0, high=1)
    hidden: int = setting(64, "units of the hidden layer", low=1, fixed=True)


class Reinforce(Algorithm):
    policy_parts = ("network",)

    def __init__(self, config: ReinforceConfig, setup: Setup) -> None:
        self.config, self.env, self.total_env_steps = config, setup.env, setup.total_env_steps
        self.counters, self.policy = Counters(), Reactive(self.act)
        [features], actions = self.env.observation_space.shape, int(self.env.action_space.n)
        with torch_seed(setup.seed, "network"):
            hidden, output = nn.Linear(features, config.hidden), nn.Linear(config.hidden, actions)
        self.network = nn.Sequential(hidden, nn.Tanh(), output)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.lr)
        self.rng = torch_generator(setup.seed, "actions")
        self.parts = {  # everything that the rest of the run depends on
            "network": self.network,
            "optimizer": self.optimizer,
            "rng": self.rng,
            "env": self.env,
        }

    @staticmethod
    def check(run: Any) -> None:
        if run.env.num_envs != 1:
            raise UsageError(f"env.num_envs: got {run.env.num_envs}, expected 1 for reinforce")

    @staticmethod
    def check_spaces(config: ReinforceConfig, observation_space: Any, action_space: Any) -> None:
        if not isinstance(observation_space, Box) or len(observation_space.shape) != 1:
            raise UsageError(f"algo=reinforce: got {observation_space}, expected a Box of vectors")
        if not isinstance(action_space, Discrete) or action_space.start != 0:
            raise UsageError(f"algo=reinforce: got {action_space}, expected Discrete from 0")

    def log_probs(self, obs_B: np.ndarray) -> torch.Tensor:
        return self.network(torch.as_tensor(obs_B, dtype=torch.float32)).log_softmax(dim=1)

    @torch.no_grad()
    def act(self, obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
        log_prob_BA = self.log_probs(obs_B)
        if explore:
            return log_prob_BA.exp().multinomial(1, generator=self.rng)[:, 0].numpy()
        return log_prob_BA.argmax(dim=1).numpy()

    def step(self) -> Metrics:
        """Play one episode, then make its actions with a high return more likely."""
        obs, actions, rewards, is_over = [], [], [], False
        while not is_over:
            action_B = self.act(self.env.obs_B, explore=True)
            obs.append(self.env.obs_B[0])
            actions.append(int(action_B[0]))
            step = self.env.step(action_B)
            rewards.append(float(step.reward_B[0]))
            is_over = bool(step.terminated_B[0] or step.truncated_B[0])
        return_T = self.returns(rewards)
        weight_T = (return_T - return_T.mean()) / (return_T.std(correction=0) + 1e-6)
        log_prob_T = self.log_probs(np.array(obs))[range(len(actions)), actions]
        loss = -(weight_T * log_prob_T).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.counters.env_steps += len(rewards)
        self.counters.episodes += 1
        self.counters.updates += 1
        return {"train/loss": loss.detach()}

    def returns(self, rewards: list[float]) -> torch.Tensor:
        """The discounted return from each step on. A truncation cuts it off: there is no critic."""
        returns = [0.0]
        for reward in reversed(rewards):
            returns.append(reward + self.config.gamma * returns[-1])
        return torch.tensor(returns[:0:-1])


registry.register("algo", "reinforce", f"{__name__}:Reinforce", f"{__name__}:ReinforceConfig")
