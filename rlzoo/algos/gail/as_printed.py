"""GAIL as a book chapter prints it, defects and all: for comparison, never for use.

The chapter's agent does not learn: its own plot stays between 2 and 7, where an expert gets
thousands. This is its program, and each of its defects is a setting that repairs it when false.
Two are not here. Demonstrations from another simulator are a matter of the data
(`env.kwargs.height_offset=0` against an expert recorded with 1.25), and a `return` in the
discriminator's constructor kept the printed program from starting at all. Nothing imports this
file; docs/algorithms.md compares it with rlzoo/algos/gail/gail.py.

Shape suffixes: T steps of a rollout, B minibatch, A dimensions of an action, F features.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlzoo.algos.gail.gail import CURVES
from rlzoo.algos.gail.losses import discriminator_loss, imitation_reward
from rlzoo.core.algorithm import Algorithm, Reactive, Report, Setup, Sources
from rlzoo.core.seeding import TRAIN, numpy_generator, torch_seed
from rlzoo.core.settings import setting
from rlzoo.core.types import Counters, Metrics, NonFiniteError, Record, UsageError
from rlzoo.data.normalize import ObsNormalizer
from rlzoo.demonstrations.files import DemonstrationsConfig
from rlzoo.demonstrations.trajectories import Demonstrations
from rlzoo.envs.episodes import EpisodeEnv
from rlzoo.losses.policy_gradient import normalized_advantages
from rlzoo.losses.returns import generalized_advantages
from rlzoo.nets.distributions import HALF_LOG_TAU


@dataclass(frozen=True)
class Defects:
    """What is wrong with the printed program; false repairs it."""

    actor_gets_no_gradient: bool = setting(True, "1: log-probabilities are taken off the tape")
    never_resets: bool = setting(True, "2: a fallen hopper is stepped on, for ever")
    double_sigmoid: bool = setting(True, "4: a sigmoid, and then a loss that wants logits")
    sums_the_loss: bool = setting(True, "5: a vector of losses is differentiated, not its mean")
    skips_second_layer: bool = setting(True, "7: the discriminator's second layer is not used")
    batch_norm: bool = setting(True, "8: batch normalisation that is never in training mode")
    fixed_sigma: bool = setting(True, "9: actions have the standard deviation 1, in a box of +-1")
    keeps_dimensions_apart: bool = setting(True, "10: a ratio for each dimension of an action")
    normalizes_nothing: bool = setting(True, "11: observations, advantages, gradients as they are")
    wastes_rollouts: bool = setting(True, "12: the agent learns from every third rollout only")
    time_limit_is_terminal: bool = setting(True, "13: the time limit counts as death")
    one_trajectory_a_batch: bool = setting(True, "14: an expert's batch is one trajectory")
    steps_heads_twice: bool = setting(True, "15: two optimisers step the heads")
    unstable_reward: bool = setting(True, "16: -log(1 - sigmoid(x)) as it is written")


@dataclass(frozen=True)
class GAILAsPrintedConfig:
    """The chapter's hyper-parameters."""

    name: str = "gail_as_printed"
    demonstrations: DemonstrationsConfig = setting(
        DemonstrationsConfig(), "what is imitated", fixed=True
    )
    defects: Defects = setting(Defects(), "as printed (true) or repaired", fixed=True)
    hidden: int = setting(32, "units of each hidden layer", low=1, fixed=True)
    lr: float = setting(3e-4, "Adam's learning rate, of agent and discriminator", above=0)
    rollout_env_steps: int = setting(1000, "env steps in a rollout", low=1)
    batch_size: int = setting(50, "steps in a minibatch of the agent", low=2)
    epochs: int = setting(5, "passes over a rollout", low=1)
    gamma: float = setting(0.99, "discount", low=0, high=1)
    gae_lambda: float = setting(0.95, "as in ppo", low=0, high=1)
    clip: float = setting(0.2, "as in ppo", above=0)
    value_coef: float = setting(0.5, "weight of the squared error of the values", low=0)
    entropy_coef: float = setting(0.01, "weight of the entropy bonus", low=0)


class NeverReset(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Goes on after an episode's end, of which only `end` tells: terminated, truncated."""

    end: Any = (False, False)

    def step(self, action: Any) -> Any:
        obs, reward, *self.end, info = self.env.step(action)
        return obs, reward, False, False, info


class ActorCritic(nn.Module):
    """One hidden layer that policy and value share."""

    def __init__(self, num_features: int, num_actions: int, config: GAILAsPrintedConfig) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(num_features, config.hidden), nn.Tanh())
        if config.defects.batch_norm:
            self.trunk.append(nn.BatchNorm1d(config.hidden))
        self.mean, self.value = nn.Linear(config.hidden, num_actions), nn.Linear(config.hidden, 1)
        self.log_std_A = nn.Parameter(
            torch.zeros(num_actions), requires_grad=not config.defects.fixed_sigma
        )
        self.eval()  # batch normalisation never learns its statistics

    def forward(self, obs_BF: Tensor) -> tuple[Tensor, Tensor]:
        hidden_BF = self.trunk(obs_BF)
        return self.mean(hidden_BF), self.value(hidden_BF).squeeze(1)

    def log_prob(self, mean_BA: Tensor, action_BA: Tensor) -> Tensor:
        """log pi for each dimension of an action, [B, A]."""
        deviation_BA = (action_BA - mean_BA) * (-self.log_std_A).exp()
        return -0.5 * deviation_BA.square() - self.log_std_A - HALF_LOG_TAU


class Discriminator(nn.Module):
    """Pairs of observation and action to what the program takes for logits."""

    def __init__(self, num_features: int, config: GAILAsPrintedConfig) -> None:
        super().__init__()
        hidden, self.defects = config.hidden, config.defects
        self.first = nn.Sequential(nn.Linear(num_features, hidden), nn.Tanh())
        self.second = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh())
        self.head = nn.Linear(hidden, 1)
        if self.defects.batch_norm:
            self.first.append(nn.BatchNorm1d(hidden))
        self.eval()

    def forward(self, pair_BF: Tensor) -> Tensor:
        hidden_BF = self.first(pair_BF)
        if not self.defects.skips_second_layer:
            hidden_BF = self.second(hidden_BF)
        logit_B = self.head(hidden_BF).squeeze(1)
        return logit_B.sigmoid() if self.defects.double_sigmoid else logit_B


@dataclass
class Tally(Record):
    rollouts: int = 0
    return_: float = 0.0  # of the running episode, so far
    last_return: float = 0.0


class GAILAsPrinted(Algorithm):
    """A rollout, the discriminator's update on it and, every third time, the agent's."""

    def __init__(self, config: GAILAsPrintedConfig, setup: Setup) -> None:
        assert setup.envs is not None
        self.config, self.setup, self.env = config, setup, setup.env
        self.total_env_steps = setup.total_env_steps
        self.counters, self.tally = Counters(), Tally()
        self.policy = Reactive(self.act)
        make = setup.envs.make
        self.own_env = EpisodeEnv(
            (lambda: NeverReset(make())) if config.defects.never_resets else make,
            run_seed=setup.seed,
            purpose=TRAIN,
            env_index=0,
        )
        num_obs, num_actions = self.env.observation_space.shape[0], self.env.action_space.shape[0]
        with torch_seed(setup.seed, "network"):
            self.network = ActorCritic(num_obs, num_actions, config)
            self.discriminator = Discriminator(num_obs + num_actions, config)
        heads = [*self.network.mean.parameters(), *self.network.value.parameters()]
        self.optimizers = {
            "agent": torch.optim.Adam(self.network.parameters(), config.lr),
            "heads": torch.optim.Adam(heads, config.lr),
            "discriminator": torch.optim.Adam(self.discriminator.parameters(), config.lr),
        }
        self.normalizer = None if config.defects.normalizes_nothing else ObsNormalizer((num_obs,))
        self.rng = numpy_generator(setup.seed, "as printed")
        self.parts: dict[str, Any] = {
            "network": self.network,
            "discriminator": self.discriminator,
            "optimizers": self.optimizers,
            "env": self.own_env,
            "rng": self.rng,
            "tally": self.tally,
        }
        if self.normalizer is not None:
            self.parts["normalizer"] = self.normalizer
        self.policy_parts = tuple(n for n in ("network", "normalizer") if n in self.parts)

    @staticmethod
    def check(run: Any) -> None:
        if run.device != "cpu":
            raise UsageError(f"device={run.device}: algo=gail_as_printed runs on the CPU alone")

    @staticmethod
    def sources(config: GAILAsPrintedConfig) -> Sources:
        return Sources(demonstrations=config.demonstrations)

    @staticmethod
    def check_spaces(
        config: GAILAsPrintedConfig, observation_space: spaces.Space, action_space: spaces.Space
    ) -> None:
        for space in (observation_space, action_space):
            if not isinstance(space, spaces.Box) or len(space.shape) != 1:
                raise UsageError(
                    f"algo={config.name}: got {space}, expected a Box of one dimension"
                )

    @cached_property
    def expert(self) -> Demonstrations:
        """Read when first needed: a trained agent acts without."""
        assert self.setup.demonstrations is not None
        demonstrations: Demonstrations = self.setup.demonstrations()
        return demonstrations

    def act(self, obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
        action_BA = self._sampled(obs_B) if explore else self._mean(obs_B)
        return self._to_env(action_BA)

    def _to_env(self, action_BA: np.ndarray) -> np.ndarray:
        return action_BA.clip(self.env.action_space.low, self.env.action_space.high)

    @torch.no_grad()
    def _mean(self, obs_B: np.ndarray) -> np.ndarray:
        return self.network(self._input(obs_B))[0].numpy()

    def _sampled(self, obs_B: np.ndarray) -> np.ndarray:
        mean_BA = self._mean(obs_B)
        std_A = self.network.log_std_A.detach().exp().numpy()
        return mean_BA + std_A * self.rng.standard_normal(mean_BA.shape, np.float32)

    def _input(self, obs_B: np.ndarray) -> Tensor:
        obs_B = obs_B if self.normalizer is None else self.normalizer(obs_B)
        return torch.from_numpy(obs_B).float()

    # ---------------------------------------------------------------- the program

    def step(self) -> Metrics:
        rollout = self._rollout()
        metrics = self._update_discriminator(rollout["obs"], rollout["action"])
        self.tally.rollouts += 1
        if not self.config.defects.wastes_rollouts or self.tally.rollouts % 3 == 0:
            metrics |= self._update_agent(rollout)
        if self.normalizer is not None:
            self.normalizer.update(rollout["obs"])
        return metrics

    def _rollout(self) -> dict[str, np.ndarray]:
        """Arrays [T, ...] of what happened."""
        env, defects = self.own_env, self.config.defects
        rows = []
        for _ in range(self.config.rollout_env_steps):
            obs = env.obs
            [action] = self._sampled(obs[None])
            next_obs, reward, *end = env.step(self._to_env(action))
            terminated, truncated = env.env.get_wrapper_attr("end") if defects.never_resets else end
            if defects.time_limit_is_terminal:
                terminated, truncated = terminated or truncated, False
            rows.append((obs, action, next_obs, terminated, truncated))
            self.tally.return_ += reward
            if terminated or truncated:
                self.counters.episodes += 1
                self.tally.last_return, self.tally.return_ = self.tally.return_, 0.0
        self.counters.env_steps += len(rows)
        names = ("obs", "action", "next_obs", "terminated", "truncated")
        columns = zip(*rows, strict=True)
        return {name: np.array(column) for name, column in zip(names, columns, strict=True)}

    def _update_discriminator(self, obs_T: np.ndarray, action_T: np.ndarray) -> Metrics:
        expert = self.expert
        if self.config.defects.one_trajectory_a_batch:
            e = int(self.rng.integers(expert.num_trajectories))
            rows_B = np.arange(expert.start[e], expert.start[e + 1])
        else:
            rows_B = self.rng.integers(expert.num_steps, size=len(obs_T))
        logit_B = {
            "expert": self.discriminator(self._pair(expert.obs[rows_B], expert.action[rows_B])),
            "agent": self.discriminator(self._pair(obs_T, action_T)),
        }
        loss = discriminator_loss(logit_B["expert"], logit_B["agent"])
        scale = len(rows_B) if self.config.defects.sums_the_loss else 1
        self._step("discriminator", scale * loss)
        metrics = {"discriminator/loss": loss.detach()}
        for who, logits in logit_B.items():
            metrics[f"discriminator/{who}_reward"] = self._reward(logits.detach()).mean()
        return metrics

    def _pair(self, obs_B: np.ndarray, action_B: np.ndarray) -> Tensor:
        action_BA = torch.from_numpy(self._to_env(action_B)).float()
        return torch.cat([self._input(obs_B), action_BA], dim=1)

    def _reward(self, logit_B: Tensor) -> Tensor:
        if self.config.defects.unstable_reward:
            return -(1 - logit_B.sigmoid()).log()
        return imitation_reward(logit_B, "gail")

    def _update_agent(self, rollout: dict[str, np.ndarray]) -> Metrics:
        """PPO as it stands in the chapter."""
        columns = self._samples(rollout)
        losses = []
        for _ in range(self.config.epochs):
            order = torch.from_numpy(self.rng.permutation(len(columns[0])))
            for rows_B in order.split(self.config.batch_size):
                loss, *parts = self._loss(*(column[rows_B] for column in columns))
                self._step("agent", loss)
                losses.append(torch.stack(parts).detach())
                self.counters.updates += 1
        policy_loss, value_loss = torch.stack(losses).mean(dim=0)
        return {"train/policy_loss": policy_loss, "train/value_loss": value_loss}

    @torch.no_grad()
    def _samples(self, rollout: dict[str, np.ndarray]) -> tuple[Tensor, ...]:
        """Observations, actions, log-probabilities, advantages and returns [T, ...]."""
        obs_T, action_TA = self._input(rollout["obs"]), torch.from_numpy(rollout["action"])
        reward_T = self._reward(self.discriminator(self._pair(rollout["obs"], rollout["action"])))
        mean_TA, value_T = self.network(obs_T)
        next_value_T = self.network(self._input(rollout["next_obs"]))[1]
        columns_T1 = (
            np.asarray(column)[:, None]
            for column in (
                reward_T.double(),
                value_T.double(),
                next_value_T.double(),
                rollout["terminated"],
                rollout["truncated"],
            )
        )
        gamma, lam = self.config.gamma, self.config.gae_lambda
        advantage_T1 = generalized_advantages(*columns_T1, gamma=gamma, lam=lam)
        advantage_T = torch.from_numpy(advantage_T1[:, 0].astype(np.float32))
        log_prob_TA = self.network.log_prob(mean_TA, action_TA)
        return obs_T, action_TA, log_prob_TA, advantage_T, advantage_T + value_T

    def _loss(
        self,
        obs_B: Tensor,
        action_BA: Tensor,
        old_log_prob_BA: Tensor,
        advantage_B: Tensor,
        return_B: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of a minibatch, and its parts of policy and values."""
        config, defects = self.config, self.config.defects
        mean_BA, value_B = self.network(obs_B)
        log_prob_BA = self.network.log_prob(mean_BA, action_BA)
        if defects.actor_gets_no_gradient:
            log_prob_BA = log_prob_BA.detach()
        log_ratio_BA = log_prob_BA - old_log_prob_BA
        if not defects.keeps_dimensions_apart:
            log_ratio_BA = log_ratio_BA.sum(dim=1, keepdim=True)
        if not defects.normalizes_nothing:
            advantage_B = normalized_advantages(advantage_B)
        ratio_BA, advantage_B1 = log_ratio_BA.exp(), advantage_B[:, None]
        clipped_BA = ratio_BA.clamp(1 - config.clip, 1 + config.clip)
        policy_loss = -torch.minimum(ratio_BA * advantage_B1, clipped_BA * advantage_B1).mean()
        value_loss = (return_B - value_B).square().mean()
        entropy = (self.network.log_std_A + 0.5 + HALF_LOG_TAU).sum()
        loss = policy_loss + config.value_coef * value_loss - config.entropy_coef * entropy
        return loss, policy_loss, value_loss

    def _step(self, which: str, loss: Tensor) -> None:
        optimizer = self.optimizers[which]
        optimizer.zero_grad()
        loss.backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        limit = np.inf if self.config.defects.normalizes_nothing else 0.5
        norm = nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], limit)
        if not torch.isfinite(loss + norm):
            raise NonFiniteError(f"{which}: the loss {loss.item()} or its gradient is not finite")
        optimizer.step()
        if which == "agent" and self.config.defects.steps_heads_twice:
            self.optimizers["heads"].step()

    # ---------------------------------------------------------------- for the loop

    def gauges(self) -> dict[str, float]:
        return {
            "rollout/return_mean": self.tally.last_return,
            "rollout/episodes": float(self.counters.episodes),
            "train/updates": float(self.counters.updates),
        }

    def report(self) -> Iterable[Report]:
        yield CURVES
