"""DQN (Mnih et al. 2015), with Double (van Hasselt et al. 2016), Dueling (Wang et al. 2016), n-step
returns (Sutton 1988) and prioritised replay (Schaul et al. 2016) as flags.

Rounds of collecting and learning are in rlzoo/algos/off_policy.py; here are the network, the loss
and the exploration. Shape suffixes: B batch, A actions, F features, T steps ahead.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlzoo.algos.off_policy import OffPolicy, OffPolicyConfig, move_towards
from rlzoo.core.algorithm import Histogram, Reactive, Report, Setup
from rlzoo.core.seeding import torch_seed
from rlzoo.core.settings import Schedule, between, setting
from rlzoo.core.types import UsageError
from rlzoo.losses.td import double_q_target, q_learning_target, td_error, td_loss
from rlzoo.nets.adam import Adam
from rlzoo.nets.mlp import MLP, NetworkConfig, vector_encoder
from rlzoo.nets.update import GradientStep, Named

Exploration = tuple[np.ndarray, np.ndarray]  # explore_B bool, random_B actions


@dataclass(frozen=True)
class DQNConfig(OffPolicyConfig):
    """Defaults as in Stable-Baselines3 2.x, which follow Mnih et al. 2015 where they can."""

    name: str = "dqn"
    lr: float = setting(1e-4, "Adam's learning rate, at first", above=0)
    lr_schedule: Schedule = setting("constant", "linear: falls to 0 over the run")
    adam_eps: float = setting(1e-8, "Adam's epsilon", above=0)
    epsilon_start: float = setting(1.0, "chance of a random action at first", low=0, high=1)
    epsilon_final: float = setting(0.05, "... and after the decay", low=0, high=1)
    epsilon_fraction: float = setting(0.1, "share of the run that the decay takes", low=0, high=1)
    max_grad_norm: float | None = setting(10.0, "gradients are clipped to this norm", above=0)
    loss: Literal["huber", "squared"] = setting("huber", "of the TD error; huber is smooth L1")
    double: bool = setting(False, "the online network chooses, the target network values")
    dueling: bool = setting(False, "separate heads for state value and advantages", fixed=True)


class QNetwork(nn.Module):
    """Raw observations [B, ...] to action values [B, A].

    `dueling` splits the last hidden layer into a value and an advantage stream, combined as
    V + A - mean(A) (Wang et al. 2016, eq. 9). `make_encoder` is what the registry has under
    `config.name`; it raises UsageError for a space that it cannot read.
    """

    def __init__(
        self,
        obs_space: spaces.Space,
        num_actions: int,
        config: NetworkConfig,
        *,
        make_encoder: Callable[[spaces.Space], Any] = vector_encoder,
        dueling: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(obs_space)
        self.num_actions = num_actions
        self.dueling = dueling
        num_features = self.encoder.num_features
        if not dueling:
            self.head = MLP((num_features, *config.hidden, num_actions), config.activation)
            return
        trunk = (num_features, *config.hidden[:-1])
        stream = (trunk[-1], *config.hidden[-1:])
        self.trunk = MLP(trunk, config.activation, activate_last=True)
        self.value = MLP((*stream, 1), config.activation)
        self.advantage = MLP((*stream, num_actions), config.activation)

    def forward(self, obs_B: Tensor) -> Tensor:
        features_BF = self.encoder(obs_B)
        if not self.dueling:
            return self.head(features_BF)
        hidden_BF = self.trunk(features_BF)
        advantage_BA = self.advantage(hidden_BF)
        return self.value(hidden_BF) + advantage_BA - advantage_BA.mean(dim=1, keepdim=True)

    def numpy_forward(self) -> Callable[[np.ndarray], np.ndarray]:
        """The same from numpy observations to numpy values, fast for small B (`nets/acting.py`)."""
        from rlzoo.nets.acting import numpy_forward

        if not self.dueling:
            return numpy_forward(self.encoder, self.head)
        trunk = numpy_forward(self.encoder, self.trunk)
        value, advantage = numpy_forward(self.value), numpy_forward(self.advantage)
        mean_A1 = np.full((self.num_actions, 1), 1 / self.num_actions, np.float32)

        def forward(obs_B: np.ndarray) -> np.ndarray:
            hidden_BF = trunk(obs_B)
            advantage_BA = advantage(hidden_BF)
            return value(hidden_BF) + advantage_BA - advantage_BA @ mean_A1

        return forward


class DQN(OffPolicy):
    policy_parts = ("q",)
    config: DQNConfig

    def __init__(self, config: DQNConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        assert setup.network is not None
        self.num_actions = int(self.env.action_space.n)
        self.first_action = int(self.env.action_space.start)
        with torch_seed(setup.seed, "network"):
            self.q = QNetwork(
                self.env.observation_space,
                self.num_actions,
                setup.network.settings,
                make_encoder=setup.network.make_encoder,
                dueling=config.dueling,
            ).to(setup.device)
        self.target_q = copy.deepcopy(self.q).requires_grad_(False)
        self.optimizer = Adam(self.q.parameters(), lr=config.lr, eps=config.adam_eps)
        self.update = GradientStep(
            self.optimizer, self.loss, max_grad_norm=config.max_grad_norm, compile=setup.compile
        )
        self.q_values = self.q.numpy_forward()  # follows the network's updates
        self.policy = Reactive(self.act)
        networks = {"q": self.q, "target_q": self.target_q, "optimizer": self.optimizer}
        self.parts = {**networks, **self.parts}

    @staticmethod
    def check_spaces(config: DQNConfig, observation_space: spaces.Space, action_space: Any) -> None:
        if not isinstance(action_space, spaces.Discrete):
            raise UsageError(
                f"algo=dqn: got actions {action_space}, expected Discrete: DQN takes the best of "
                "finitely many actions; choose an env with discrete actions"
            )

    # ---------------------------------------------------------------- learning

    def loss(self, *batch: Tensor) -> tuple[Tensor, Named]:
        """The loss of a batch, its TD errors [B] and the mean action value.

        Mnih et al. 2015, equation 2; `discount_B` is gamma^n, and 0 where the episode terminated.
        """
        obs_B, action_B, return_B, discount_B, next_obs_B, weight_B = batch
        with torch.no_grad():
            next_q_BA = self.target_q(next_obs_B)
            if self.config.double:
                target_B = double_q_target(return_B, discount_B, next_q_BA, self.q(next_obs_B))
            else:
                target_B = q_learning_target(return_B, discount_B, next_q_BA)
        q_BA = self.q(obs_B)
        error_B = td_error(q_BA, action_B - self.first_action, target_B)
        loss = td_loss(error_B, weight_B, kind=self.config.loss)
        return loss, {"td_error_B": error_B, "q_mean": q_BA.mean()}

    def learn_from(self, batch: Sequence[Tensor]) -> tuple[Named, Tensor]:
        if self.config.lr_schedule == "linear":
            done = self.counters.env_steps / self.total_env_steps
            self.optimizer.lr = between(self.config.lr, 0.0, done)
        metrics = self.update(*batch)
        return metrics, metrics.pop("td_error_B")

    def follow(self) -> None:
        move_towards(self.target_q, self.q, self.config.tau)

    # ---------------------------------------------------------------- acting

    def epsilon(self, ahead_env_steps: int = 0) -> float:
        """The chance of a random action, `ahead_env_steps` from now."""
        config, clock = self.config, self.counters.env_steps + ahead_env_steps
        if clock < config.learning_starts_env_steps:
            return 1.0
        decay_env_steps = config.epsilon_fraction * self.total_env_steps
        share = clock / decay_env_steps if decay_env_steps else 1.0
        return between(config.epsilon_start, config.epsilon_final, share)

    def act(self, obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
        """Greedy actions, or epsilon-greedy ones with a draw for each env."""
        if not explore:
            return self.q_values(obs_B).argmax(axis=1) + self.first_action
        [noise] = self.noise(1, len(obs_B))
        return self.explore(obs_B, noise)

    def noise(self, steps: int, num_envs: int) -> Iterable[Exploration]:
        """Who acts at random in each of some steps, and how."""
        uniform_TB = self.explore_rng.random((steps, num_envs))
        epsilon_T1 = np.array([[self.epsilon(t * num_envs)] for t in range(steps)])
        random_TB = self.explore_rng.integers(self.num_actions, size=(steps, num_envs))
        return zip(uniform_TB < epsilon_T1, random_TB, strict=True)

    def explore(self, obs_B: np.ndarray, noise: Exploration) -> np.ndarray:
        explore_B, random_B = noise
        num_exploring = np.count_nonzero(explore_B)
        if num_exploring == len(explore_B):
            return random_B + self.first_action
        action_B = self.q_values(obs_B).argmax(axis=1)
        if num_exploring:
            action_B[explore_B] = random_B[explore_B]
        return action_B + self.first_action if self.first_action else action_B

    # ---------------------------------------------------------------- for the loop

    def gauges(self) -> dict[str, float]:
        return {"train/epsilon": self.epsilon(), **super().gauges()}

    def report(self) -> Iterable[Report]:
        """Parameters by name, and the Q values of what the training envs show now."""
        for name, parameter in self.q.named_parameters():
            yield Histogram(f"parameters/{name}", parameter.detach().cpu().numpy())
        yield Histogram("q_values", self.q_values(self.env.obs_B))
