"""What PPO and TRPO share: rollouts of a policy that stands still, and what they say about it.

Collect a rollout; value all its observations in one call of the critic; estimate advantages
(GAE, Schulman et al. 2016). What is then made of them is each algorithm's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from rlzoo.core.algorithm import Algorithm, Histogram, Reactive, Report, Setup
from rlzoo.core.seeding import numpy_generator, torch_seed
from rlzoo.core.settings import Schedule, between, setting
from rlzoo.core.types import Counters, Metrics, UsageError
from rlzoo.data.collector import Collector
from rlzoo.data.normalize import ObsNormalizer, RewardScaler
from rlzoo.data.rollouts import Rollout
from rlzoo.losses.returns import generalized_advantages
from rlzoo.nets.actor_critic import ActorCritic, make_distribution
from rlzoo.nets.adam import Adam
from rlzoo.nets.distributions import Gaussian

VALUED_AT_ONCE = 4096  # observations in one call of the critic: bounds the memory for images


@dataclass(frozen=True)
class OnPolicyConfig:
    """Settings that both share, with the defaults of Stable-Baselines3 2.x."""

    name: str = ""
    rollout_env_steps: int = setting(2048, "env steps in a rollout, over all envs together", low=1)
    batch_size: int = setting(64, "transitions in a minibatch; the last one may be smaller", low=1)
    gamma: float = setting(0.99, "discount", low=0, high=1)
    gae_lambda: float = setting(
        0.95, "advantages: 0 is one step, 1 whole returns (Schulman et al. 2016)", low=0, high=1
    )
    adam_eps: float = setting(1e-5, "Adam's epsilon (Huang et al. 2022, detail 3)", above=0)
    entropy_coef: float = setting(0.0, "weight of the entropy bonus", low=0)
    normalize_obs: bool = setting(
        False, "observations to mean 0 and variance 1, clipped to +-10", fixed=True
    )
    normalize_reward: bool = setting(
        False, "divide rewards by the standard deviation of discounted returns, clip", fixed=True
    )
    orthogonal_init: bool = setting(
        True, "orthogonal weights (Huang et al. 2022, detail 2), else PyTorch's", fixed=True
    )
    log_std_init: float = setting(0.0, "first log deviation of continuous actions", fixed=True)
    gsde: bool = setting(
        False,
        "continuous actions: noise that depends on the state (Raffin et al. 2022)",
        fixed=True,
    )
    gsde_hold_steps: int = setting(
        4, "gsde: steps of each env until its noise is drawn anew (rl-zoo, PyBullet)", low=1
    )


class Samples(NamedTuple):
    """A rollout as columns, each of which a minibatch takes some rows of."""

    obs_B: torch.Tensor  # as the network gets them
    action_B: torch.Tensor  # as they were drawn, before any clipping
    log_prob_B: torch.Tensor  # under the policy that drew them
    advantage_B: torch.Tensor
    return_B: torch.Tensor  # advantage + value: what the critic is to say
    value_B: torch.Tensor  # what it said


class OnPolicy(Algorithm):
    """Acts, collects and prepares; a subclass makes an `optimizer` and says how to `improve`."""

    needs: ClassVar = ("network",)
    optimizer: Adam

    def __init__(self, config: OnPolicyConfig, setup: Setup) -> None:
        assert setup.network is not None
        self.config, self.setup = config, setup
        self.total_env_steps = setup.total_env_steps
        self.env = env = setup.env
        self.counters = Counters()
        self.distribution = make_distribution(
            env.action_space,
            log_std_init=config.log_std_init,
            gsde_features=setup.network.settings.hidden[-1] if config.gsde else None,
            gsde_hold_steps=config.gsde_hold_steps,
        )
        with torch_seed(setup.seed, "network"):
            self.network = ActorCritic(
                env.observation_space,
                self.distribution,
                setup.network.settings,
                make_encoder=setup.network.make_encoder,
                orthogonal=config.orthogonal_init,
            ).to(setup.device)
        self.policy = Reactive(self.act)
        self.rollout = Rollout(
            config.rollout_env_steps // env.num_envs,
            env.num_envs,
            env.observation_space,
            action_shape=self.distribution.action_shape,
            action_dtype=np.int64 if self.distribution.is_discrete else np.float32,
        )
        self.collector = Collector(env)
        self.explore_rng = numpy_generator(setup.seed, "exploration")
        self.minibatch_rng = numpy_generator(setup.seed, "minibatches")
        self.parts: dict[str, Any] = {
            "network": self.network,
            "explore_rng": self.explore_rng,
            "minibatch_rng": self.minibatch_rng,
            "collector": env,
        }
        self.obs_normalizer = self.reward_scaler = None
        if config.normalize_obs:
            self.obs_normalizer = ObsNormalizer(env.observation_space.shape)
            self.parts["obs_normalizer"] = self.obs_normalizer
        if config.normalize_reward:
            self.reward_scaler = RewardScaler(env.num_envs, config.gamma)
            self.parts["reward_scaler"] = self.reward_scaler
        self.policy_parts = tuple(n for n in ("network", "obs_normalizer") if n in self.parts)

    @staticmethod
    def check(run: Any) -> None:
        algo, num_envs = run.algo, run.env.num_envs
        if algo.rollout_env_steps % num_envs:
            raise UsageError(
                f"algo.rollout_env_steps: got {algo.rollout_env_steps}, expected a multiple of "
                f"env.num_envs={num_envs}"
            )
        if algo.batch_size > algo.rollout_env_steps:
            raise UsageError(
                f"algo.batch_size: got {algo.batch_size}, expected at most "
                f"algo.rollout_env_steps={algo.rollout_env_steps}"
            )
        if algo.gsde and not run.network.hidden:
            raise UsageError("algo.gsde=true: got network.hidden=[], expected a layer or more")

    @staticmethod
    def check_spaces(
        config: OnPolicyConfig, observation_space: spaces.Space, action_space: Any
    ) -> None:
        try:
            make_distribution(action_space, gsde_features=1 if config.gsde else None)
        except UsageError as error:
            raise UsageError(f"algo={config.name}: {error}") from error
        is_box = isinstance(observation_space, spaces.Box)
        if config.normalize_obs and (not is_box or observation_space.dtype == np.uint8):
            raise UsageError(
                f"algo.normalize_obs=true: got observations {observation_space}, expected a Box of "
                "numbers that are no bytes: images are scaled by their range, and codes need none"
            )

    # ---------------------------------------------------------------- acting

    @cached_property
    def policy_outputs(self) -> Callable[[np.ndarray], np.ndarray]:
        """The policy in numpy, made at its first use: optimisers move the parameters before.

        Acting needs no value and no log-probability: the parameters do not change within a
        rollout, so both are computed at its end.
        """
        from rlzoo.nets.acting import numpy_forward

        return numpy_forward(self.network.encoder, self.network.policy)

    def act(self, obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
        """The most likely actions, or ones drawn from the policy; statistics stay as they are."""
        output_BA = self.policy_outputs(self._normalized(obs_B))
        if not explore:
            return self.distribution.to_env(self.distribution.mode(output_BA))
        [noise_BA] = self.distribution.draw(self.explore_rng, 1, len(obs_B))
        return self.distribution.to_env(self.distribution.sample(output_BA, noise_BA))

    def _normalized(self, obs_B: np.ndarray) -> np.ndarray:
        return obs_B if self.obs_normalizer is None else self.obs_normalizer(obs_B)

    @torch.no_grad()
    def log_prob(self, obs_B: np.ndarray, env_action_B: np.ndarray) -> np.ndarray:
        """log pi(a|s) [B] of actions as the env gets them."""
        obs = torch.from_numpy(self._normalized(obs_B)).to(self.setup.device)
        action = torch.from_numpy(self.distribution.from_env(env_action_B)).to(self.setup.device)
        output_BA = self.network.policy(self.network.encoder(obs))
        return self.distribution.log_prob_and_entropy(output_BA, action)[0].cpu().numpy()

    # ---------------------------------------------------------------- learning

    def step(self) -> Metrics:
        """One rollout and the updates that are made with it."""
        self.collect()
        return self.learn()

    def collect(self) -> None:
        """Fill `rollout` with the policy as it is. Until `learn`, its rewards may be replaced."""
        self.rollout.clear()
        steps, num_envs = self.rollout.num_steps, self.env.num_envs
        with self.collector.timed("collect"):
            for noise_BA in self.distribution.draw(self.explore_rng, steps, num_envs):
                output_BA = self.policy_outputs(self._normalized(self.env.obs_B))
                drawn_B = self.distribution.sample(output_BA, noise_BA)
                transition = self.collector.step(self.distribution.to_env(drawn_B))
                self.rollout.add(transition, drawn_B)
        self.counters.env_steps += steps * num_envs
        self.counters.episodes = self.env.episodes

    def learn(self) -> Metrics:
        """Make the policy and the values better with what `collect` has put into `rollout`."""
        with self.collector.timed("learn"):
            samples, explained_variance = self.prepared()
            metrics = self.improve(samples)
        return metrics | {"train/explained_variance": explained_variance}

    def improve(self, samples: Samples) -> Metrics:
        """The algorithm itself."""
        raise NotImplementedError

    def scheduled(self, first: float, schedule: Schedule) -> float:
        """A setting that falls to 0 over the run, or does not, for the rollout in hand."""
        begun_at = self.counters.env_steps - self.rollout.reward_TN.size  # the rollout's first step
        share = begun_at / self.total_env_steps
        return first if schedule == "constant" else between(first, 0.0, share)

    def prepared(self) -> tuple[Samples, float]:
        """The rollout as columns, and how much of the returns the values explained.

        Afterwards the normalisers have taken it in.
        """
        rollout, config = self.rollout, self.config
        raw_obs = rollout.obs_to_value(self.env.obs_B)
        obs_B, action_B, log_prob_B, value = self._evaluated(self._normalized(raw_obs))
        value_TN, next_value_TN = rollout.split_values(value)
        reward_TN = rollout.reward_TN
        if self.reward_scaler is not None:
            reward_TN = self.reward_scaler.scaled(reward_TN, rollout.ended_TN)
        advantage_TN = generalized_advantages(
            reward_TN,
            value_TN,
            next_value_TN,
            rollout.terminated_TN,
            rollout.truncated_TN,
            gamma=config.gamma,
            lam=config.gae_lambda,
        )
        if self.obs_normalizer is not None:
            self.obs_normalizer.update(raw_obs[: len(action_B)])
        return_TN = advantage_TN + value_TN
        variance = float(return_TN.var())
        explained = 1 - float(advantage_TN.var()) / variance if variance else 0.0
        vectors = (
            torch.from_numpy(array_TN.reshape(-1).astype(np.float32)).to(self.setup.device)
            for array_TN in (advantage_TN, return_TN, value_TN)
        )
        return Samples(obs_B, action_B, log_prob_B, *vectors), explained

    @torch.no_grad()
    def _evaluated(
        self, all_obs: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray]:
        """Observations, actions and log-probabilities of the rollout, and values of all_obs."""
        actions = self.rollout.action_TN
        action = torch.from_numpy(actions.reshape(-1, *actions.shape[2:])).to(self.setup.device)
        obs = torch.from_numpy(all_obs).to(self.setup.device)
        outputs, values = zip(*map(self.network, obs.split(VALUED_AT_ONCE)), strict=True)
        output = torch.cat(outputs)[: len(action)]
        log_prob, _ = self.distribution.log_prob_and_entropy(output, action)
        return obs[: len(action)], action, log_prob, torch.cat(values).cpu().numpy()

    def minibatches(
        self, columns: Sequence[torch.Tensor], passes: int
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """Each row once in each pass, in an order of its own."""
        for _ in range(passes):
            order = torch.from_numpy(self.minibatch_rng.permutation(len(columns[0])))
            order = order.to(self.setup.device)
            shuffled = [column[order].split(self.config.batch_size) for column in columns]
            yield from zip(*shuffled, strict=True)

    # ---------------------------------------------------------------- for the loop

    def gauges(self) -> dict[str, float]:
        gauges = {
            "train/updates": float(self.counters.updates),
            **self.collector.gauges(),
        }
        if isinstance(self.distribution, Gaussian):
            output_BA = self.policy_outputs(self._normalized(self.env.obs_B))
            gauges["train/action_std"] = float(self.distribution.std(output_BA).mean())
        return gauges

    def report(self) -> Iterable[Report]:
        """Parameters by name, and the policy's outputs for what the training envs show now."""
        for name, parameter in self.network.named_parameters():
            yield Histogram(f"parameters/{name}", parameter.detach().cpu().numpy())
        output_BA = self.policy_outputs(self._normalized(self.env.obs_B))
        yield Histogram("policy_outputs", output_BA)
