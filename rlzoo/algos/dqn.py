"""DQN (Mnih et al. 2015), with Double (van Hasselt et al. 2016), Dueling (Wang et al. 2016), n-step
returns (Sutton 1988) and prioritised replay (Schaul et al. 2016) as flags.

Collect `train_every_env_steps` steps epsilon-greedily, then make `gradient_steps` updates; the
target network is synchronised by the clock of env steps, during collection. (So with a short
interval and many gradient steps the target stays frozen over all of a round's updates, as in the
source of the tuned presets, Stable-Baselines3. Counting gradient steps is another algorithm.)
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces

from rlzoo.core.seeding import generator_state, load_generator, numpy_generator, torch_seed
from rlzoo.core.settings import setting
from rlzoo.core.types import Counters, Metrics, Setup, State, UsageError
from rlzoo.data.collector import Collector
from rlzoo.losses.td import double_q_target, q_learning_target, td_error, td_loss
from rlzoo.nets.acting import numpy_forward
from rlzoo.nets.adam import Adam
from rlzoo.nets.q_network import QNetwork
from rlzoo.nets.state import load_module, module_state
from rlzoo.nets.update import GradientStep

BLOCK_ENV_STEPS = 64  # least work between two safe points: less would cost more than it does
MAX_DRAW_BYTES = 2**24  # of observations in one draw of minibatches
Exploration = tuple[np.ndarray, np.ndarray]  # explore_B bool, random_B actions


@dataclass(frozen=True)
class DQNConfig:
    """Defaults as in Stable-Baselines3 2.x, which follow Mnih et al. 2015 where they can."""

    name: str = "dqn"
    gamma: float = setting(0.99, "discount", low=0, high=1)
    lr: float = setting(1e-4, "Adam's learning rate", above=0)
    adam_eps: float = setting(1e-8, "Adam's epsilon", above=0)
    batch_size: int = setting(32, "transitions in an update", low=1)
    learning_starts_env_steps: int = setting(100, "random actions, no updates before", low=0)
    train_every_env_steps: int = setting(4, "env steps between rounds of updates", low=1)
    gradient_steps: int = setting(1, "updates in a round", low=1)
    target_every_env_steps: int = setting(10_000, "env steps between target updates", low=1)
    tau: float = setting(1.0, "share of the network that a target update copies", above=0, high=1)
    epsilon_start: float = setting(1.0, "chance of a random action at first", low=0, high=1)
    epsilon_final: float = setting(0.05, "... and after the decay", low=0, high=1)
    epsilon_fraction: float = setting(0.1, "share of the run that the decay takes", low=0, high=1)
    max_grad_norm: float | None = setting(10.0, "gradients are clipped to this norm", above=0)
    loss: Literal["huber", "squared"] = setting("huber", "of the TD error; huber is smooth L1")
    double: bool = setting(False, "the online network chooses, the target network values")
    dueling: bool = setting(False, "separate heads for state value and advantages", fixed=True)
    n_step: int = setting(1, "rewards summed before bootstrapping", low=1, high=100)


class DQN:
    needs = ("network", "replay")

    def __init__(self, config: DQNConfig, setup: Setup) -> None:
        self.config, self.setup = config, setup
        self.env = env = setup.env
        self.counters = Counters()
        self.num_actions = int(env.action_space.n)
        self.first_action = int(env.action_space.start)
        with torch_seed(setup.seed, "network"):
            self.q = QNetwork(
                env.observation_space,
                self.num_actions,
                setup.network,
                make_encoder=setup.make_encoder,
                dueling=config.dueling,
            ).to(setup.device)
        self.target_q = copy.deepcopy(self.q).requires_grad_(False)
        self.optimizer = Adam(self.q.parameters(), lr=config.lr, eps=config.adam_eps)
        self.q_values = numpy_forward(self.q)  # follows the network's updates
        self.update = GradientStep(
            self.optimizer,
            self.loss,
            max_grad_norm=config.max_grad_norm,
            compile=setup.compile,
        )
        self.replay = setup.replay_class.build(
            setup.replay, env.observation_space, env.action_space, env.num_envs
        )
        self.is_prioritized = hasattr(self.replay, "update_priorities")
        self.collector = Collector(env, self.replay.add)
        self.explore_rng = numpy_generator(setup.seed, "exploration")
        self.replay_rng = numpy_generator(setup.seed, "replay")
        # Priorities change with each update, uniform draws do not: many minibatches cost one draw.
        obs_bytes = max(1, env.obs_B[0].nbytes)
        draw = 1 if self.is_prioritized else MAX_DRAW_BYTES // obs_bytes
        self.minibatches_drawn_at_once = max(1, draw // config.batch_size)
        self.next_target_sync = config.target_every_env_steps
        self.learn_seconds = 0.0

    @staticmethod
    def check(run: Any) -> None:
        algo, replay = run.algo, run.replay
        if algo.batch_size > replay.capacity:
            raise UsageError(
                f"algo.batch_size: got {algo.batch_size}, expected at most "
                f"replay.capacity={replay.capacity}"
            )
        if algo.learning_starts_env_steps > replay.capacity:
            raise UsageError(
                f"algo.learning_starts_env_steps: got {algo.learning_starts_env_steps}, expected "
                f"at most replay.capacity={replay.capacity}: the first ones would be lost"
            )
        if algo.train_every_env_steps % run.env.num_envs:
            raise UsageError(
                f"algo.train_every_env_steps: got {algo.train_every_env_steps}, expected a "
                f"multiple of env.num_envs={run.env.num_envs}"
            )

    @staticmethod
    def check_spaces(config: DQNConfig, observation_space: spaces.Space, action_space: Any) -> None:
        if not isinstance(action_space, spaces.Discrete):
            raise UsageError(
                f"algo=dqn: got actions {action_space}, expected Discrete: DQN takes the best of "
                "finitely many actions; choose an env with discrete actions"
            )

    def loss(
        self,
        obs_B: torch.Tensor,
        action_B: torch.Tensor,
        return_B: torch.Tensor,
        discount_B: torch.Tensor,
        next_obs_B: torch.Tensor,
        weight_B: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """The loss of a batch, the TD errors [B] and the mean action value.

        Mnih et al. 2015, equation 2; `discount_B` is gamma^n, and 0 where the episode terminated.
        """
        with torch.no_grad():
            next_q_BA = self.target_q(next_obs_B)
            if self.config.double:
                target_B = double_q_target(return_B, discount_B, next_q_BA, self.q(next_obs_B))
            else:
                target_B = q_learning_target(return_B, discount_B, next_q_BA)
        q_BA = self.q(obs_B)
        error_B = td_error(q_BA, action_B - self.first_action, target_B)
        loss = td_loss(error_B, weight_B, kind=self.config.loss)
        return loss, error_B, q_BA.mean()

    def epsilon(self, ahead_env_steps: int = 0) -> float:
        """The chance of a random action, `ahead_env_steps` from now."""
        config, clock = self.config, self.counters.env_steps + ahead_env_steps
        if clock < config.learning_starts_env_steps:
            return 1.0
        decay_env_steps = config.epsilon_fraction * self.setup.total_env_steps
        share = min(1.0, clock / decay_env_steps) if decay_env_steps else 1.0
        return config.epsilon_start + share * (config.epsilon_final - config.epsilon_start)

    def act(self, obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
        """Greedy actions, or epsilon-greedy ones with a draw for each env."""
        if not explore:
            return self.q_values(obs_B).argmax(axis=1) + self.first_action
        return self._act_exploring(obs_B, *self._draw_exploration(1, len(obs_B))[0])

    def _draw_exploration(self, steps: int, num_envs: int) -> list[Exploration]:
        """Who acts at random, and how, for some steps ahead: one call is cheaper than many."""
        uniform_TB = self.explore_rng.random((steps, num_envs))
        epsilon_T1 = np.array([[self.epsilon(t * num_envs)] for t in range(steps)])
        random_TB = self.explore_rng.integers(self.num_actions, size=(steps, num_envs))
        return list(zip(uniform_TB < epsilon_T1, random_TB, strict=True))

    def _act_exploring(
        self, obs_B: np.ndarray, explore_B: np.ndarray, random_B: np.ndarray
    ) -> np.ndarray:
        num_exploring = np.count_nonzero(explore_B)
        if num_exploring == len(explore_B):
            return random_B + self.first_action
        action_B = self.q_values(obs_B).argmax(axis=1)
        if num_exploring:
            action_B[explore_B] = random_B[explore_B]
        return action_B + self.first_action if self.first_action else action_B

    def step(self) -> Metrics:
        """Rounds of collecting `train_every_env_steps` and making the updates that are due."""
        config, num_envs = self.config, self.env.num_envs
        remaining = self.setup.total_env_steps - self.counters.env_steps
        block = min(max(BLOCK_ENV_STEPS, config.train_every_env_steps), remaining)
        rounds = -(-block // config.train_every_env_steps)
        steps = config.train_every_env_steps // num_envs
        draws = iter(self._draw_exploration(rounds * steps, num_envs))
        outcomes: list[tuple[torch.Tensor, ...]] = []
        for _ in range(rounds):
            for explore_B, random_B in islice(draws, steps):
                self.collector.step(self._act_exploring, explore_B, random_B)
                self.counters.env_steps += num_envs
                if self.counters.env_steps >= self.next_target_sync:
                    self._synchronise_target()
            if self.counters.env_steps > config.learning_starts_env_steps:
                outcomes += self._learn()
        self.counters.episodes = self.collector.statistics.episodes
        if not outcomes:
            return {}
        loss, grad_norm, q_mean = (
            torch.stack(values).mean() for values in zip(*outcomes, strict=True)
        )
        return {"train/loss": loss, "train/q_mean": q_mean, "train/grad_norm": grad_norm}

    def _synchronise_target(self) -> None:
        self.next_target_sync += self.config.target_every_env_steps
        with torch.no_grad():
            pairs = zip(self.target_q.parameters(), self.q.parameters(), strict=True)
            for target, online in pairs:
                target.lerp_(online, self.config.tau)

    def _learn(self) -> list[tuple[torch.Tensor, ...]]:
        """`gradient_steps` updates; the loss, gradient norm and mean action value of each."""
        start = time.perf_counter()
        config = self.config
        outcomes: list[tuple[torch.Tensor, ...]] = []
        while len(outcomes) < config.gradient_steps:
            missing = config.gradient_steps - len(outcomes)
            batch = self.replay.sample(
                min(missing, self.minibatches_drawn_at_once) * config.batch_size,
                self.replay_rng,
                gamma=config.gamma,
                n_step=config.n_step,
                progress=self.counters.env_steps / self.setup.total_env_steps,
            )
            tensors: tuple[torch.Tensor, ...] = (*batch[:5], batch.weight_B)
            if self.setup.device != "cpu":
                tensors = tuple(tensor.to(self.setup.device) for tensor in tensors)
            minibatches = [tensors]
            if len(batch.index_B) > config.batch_size:
                minibatches = list(zip(*(t.split(config.batch_size) for t in tensors), strict=True))
            for minibatch in minibatches:
                loss, grad_norm, error_B, q_mean = self.update(*minibatch)
                outcomes.append((loss, grad_norm, q_mean))
                if self.is_prioritized:  # then a draw is one minibatch
                    self.replay.update_priorities(batch.index_B, error_B.cpu())
        self.counters.updates += len(outcomes)
        self.learn_seconds += time.perf_counter() - start
        return outcomes

    def gauges(self) -> dict[str, float]:
        seconds = {**self.collector.take_seconds(), "time/learn_seconds": self.learn_seconds}
        self.learn_seconds = 0.0
        return {
            "train/epsilon": self.epsilon(),
            "train/updates": float(self.counters.updates),
            "train/replay_transitions": float(len(self.replay)),
            **self.collector.statistics.gauges(),
            **seconds,
        }

    def histograms(self) -> dict[str, np.ndarray]:
        """Parameters by name, and the Q values of what the training envs show now."""
        named = self.q.named_parameters()
        weights = {f"parameters/{name}": p.detach().cpu().numpy() for name, p in named}
        return {**weights, "q_values": self.q_values(self.env.obs_B)}

    def done(self) -> bool:
        return self.counters.env_steps >= self.setup.total_env_steps

    def state(self) -> State:
        return {
            "counters": self.counters.state(),
            "next_target_sync": self.next_target_sync,
            **self.policy_state(),
            "target_q": module_state(self.target_q),
            "optimizer": self.optimizer.state(),
            "explore_rng": generator_state(self.explore_rng),
            "replay_rng": generator_state(self.replay_rng),
            "replay": self.replay.state(),
            "collector": self.collector.state(),
        }

    def load(self, state: State) -> None:
        self.counters.load(state["counters"])
        self.next_target_sync = state["next_target_sync"]
        self.load_policy(state)
        load_module(self.target_q, state["target_q"])
        self.optimizer.load(state["optimizer"])
        load_generator(self.explore_rng, state["explore_rng"])
        load_generator(self.replay_rng, state["replay_rng"])
        self.replay.load(state["replay"])
        self.collector.load(state["collector"])

    def policy_state(self) -> State:
        return {"q": module_state(self.q)}

    def load_policy(self, state: State) -> None:
        load_module(self.q, state["q"])
