"""GAIL (Ho & Ermon 2016, "Generative adversarial imitation learning").

A discriminator learns to tell the pairs of observation and action of an agent from an expert's.
What it says of a pair is the agent's reward, and the agent, PPO or TRPO, learns to get more of it.
One `step` is a rollout, the discriminator's updates on it, and the agent's. The true reward is
logged and never learnt from. The agent can begin as a clone of the expert (a first phase).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlzoo.algos.bc import BC, BCConfig
from rlzoo.algos.gail.discriminator import logit_network
from rlzoo.algos.gail.losses import (
    bernoulli_entropy,
    discriminator_loss,
    gradient_penalty,
    imitation_reward,
)
from rlzoo.algos.gail.transitions import (
    Features,
    Transitions,
    of_demonstrations,
    of_rollout,
    with_absorbing,
)
from rlzoo.algos.on_policy import OnPolicy
from rlzoo.algos.ppo import PPO, PPOConfig
from rlzoo.algos.trpo import TRPO, TRPOConfig
from rlzoo.core.seeding import generator_state, load_generator, numpy_generator, torch_seed
from rlzoo.core.settings import setting
from rlzoo.core.types import DataError, Metrics, Setup, State, UsageError
from rlzoo.demonstrations.files import DemonstrationsConfig, chosen
from rlzoo.nets.adam import Adam
from rlzoo.nets.state import load_module, module_state
from rlzoo.nets.update import GradientStep

GENERATORS: dict[str, type[OnPolicy]] = {"ppo": PPO, "trpo": TRPO}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DiscriminatorConfig:
    hidden: tuple[int, ...] = setting(
        (100, 100), "units of each hidden layer (ibid.)", low=1, fixed=True
    )
    activation: Literal["relu", "tanh"] = setting(
        "tanh", "after each hidden layer (ibid.)", fixed=True
    )
    lr: float = setting(3e-4, "Adam's learning rate (OpenAI Baselines)", above=0)
    batch_size: int = setting(256, "pairs of each kind in a minibatch", low=1)
    updates: int = setting(8, "minibatches for each rollout", low=1)
    entropy_coef: float = setting(
        1e-3, "weight of the entropy of its decisions, to be undecided (OpenAI Baselines)", low=0
    )
    gradient_penalty: float = setting(
        0.0, "weight of (|d logit / d input| - 1)^2 between expert and agent (DAC: 10)", low=0
    )
    spectral_norm: bool = setting(
        False, "hold each layer's largest singular value at 1 (Miyato et al. 2018)", fixed=True
    )
    weight_decay: float = setting(0.0, "weight of half the squared parameters", low=0)
    normalize: bool = setting(
        True, "standardise observations, with statistics that begin with the expert's", fixed=True
    )
    replay_rollouts: int = setting(
        1, "the agent's pairs are drawn from so many of its newest rollouts", low=1, fixed=True
    )


@dataclass(frozen=True)
class GAILConfig:
    name: str = "gail"
    demonstrations: DemonstrationsConfig = setting(
        DemonstrationsConfig(), "what is imitated", fixed=True
    )
    generator: Literal["ppo", "trpo"] = setting("ppo", "how the agent learns", fixed=True)
    reward: Literal["gail", "log_d", "airl", "fairl"] = setting(
        "gail", "of D's logit h: -log(1 - D) >= 0, log D <= 0, h, or -h exp(h)"
    )
    absorbing: bool = setting(
        True,
        "terminal states go on into an absorbing one that the discriminator sees too, so that "
        "neither surviving nor ending is rewarded as such (Kostrikov et al. 2019)",
        fixed=True,
    )
    warm_start_updates: int = setting(
        0, "minibatches of behavioural cloning that the agent begins with", low=0, fixed=True
    )
    discriminator: DiscriminatorConfig = setting(DiscriminatorConfig(), "what tells them apart")
    ppo: PPOConfig = setting(PPOConfig(), "settings of the agent, with generator=ppo")
    trpo: TRPOConfig = setting(TRPOConfig(), "settings of the agent, with generator=trpo")


@contextmanager
def _agents_names(generator: str) -> Iterator[None]:
    """A setting that the agent complains of has another name here: algo.ppo.lr for algo.lr."""
    try:
        yield
    except UsageError as error:
        raise UsageError(str(error).replace("algo.", f"algo.{generator}.")) from error


class PairDiscriminator:
    """The logit of D is a network's output for observation, action and the absorbing flag."""

    def __init__(self, config: DiscriminatorConfig, env: Any, generator: OnPolicy) -> None:
        self.features = Features(env.observation_space, env.action_space, config.normalize)
        self.network = logit_network(
            self.features.num_pair, config.hidden, config.activation, spectral=config.spectral_norm
        )

    def rows(self, transitions: Transitions) -> Tensor:
        """Transitions as the network gets them: float32 [B, X]."""
        obs_B, action_B, _, absorbing_B, _ = transitions
        return torch.from_numpy(self.features.pair(obs_B, action_B, absorbing_B))

    def score(self, row_BX: Tensor) -> Tensor:
        """What the network says [B]; the gradient penalty is on this."""
        return self.network(row_BX).squeeze(1)

    def logit(self, row_BX: Tensor) -> Tensor:
        """The logit of D [B], high for the expert."""
        return self.score(row_BX)


class GAIL:
    needs = ("network",)
    figures: ClassVar = {
        "imitation": {
            "return of the agent": ("rollout/return_mean", "eval/return_mean"),
            "reward of the discriminator": (
                "discriminator/agent_reward",
                "discriminator/expert_reward",
            ),
        }
    }
    make_discriminator: Any = PairDiscriminator

    def __init__(self, config: GAILConfig, setup: Setup) -> None:
        self.config, self.setup = config, setup
        self.env = env = setup.env
        self.generator = GENERATORS[config.generator](getattr(config, config.generator), setup)
        self.counters = self.generator.counters
        self.rng = numpy_generator(setup.seed, "discriminator")
        with torch_seed(setup.seed, "discriminator"):
            self.discriminator = self.make_discriminator(config.discriminator, env, self.generator)
        self.optimizer = Adam(self.discriminator.network.parameters(), lr=config.discriminator.lr)
        self.update = GradientStep(self.optimizer, self.loss, max_grad_norm=None, compile=False)
        self.recent: list[Tensor] = []  # rows of the agent's newest rollouts
        self.logits: dict[str, np.ndarray] = {}
        self.absorbing_value = 0.0
        self.has_warned = False
        self.cloning: BC | None = None
        if config.warm_start_updates:
            self.cloning, self.counters.phase = self._cloning(), "warm start"

    @staticmethod
    def check(run: Any) -> None:
        algo = run.algo
        if algo.warm_start_updates and getattr(algo, algo.generator).gsde:
            raise UsageError(
                f"algo.{algo.generator}.gsde=true: got algo.warm_start_updates="
                f"{algo.warm_start_updates}, expected 0: a clone has no gSDE"
            )
        with _agents_names(algo.generator):
            GENERATORS[algo.generator].check(replace(run, algo=getattr(algo, algo.generator)))

    @staticmethod
    def check_spaces(
        config: GAILConfig, observation_space: spaces.Space, action_space: Any
    ) -> None:
        agent = getattr(config, config.generator)
        with _agents_names(config.generator):
            GENERATORS[config.generator].check_spaces(agent, observation_space, action_space)
        Features(observation_space, action_space)

    @cached_property
    def expert(self) -> Transitions:
        """The demonstrations, read when they are first needed: a trained agent acts without."""
        config = self.config.demonstrations
        demonstrations = chosen(config)
        rng = numpy_generator(self.setup.seed, "kept steps")
        steps = demonstrations.kept_steps(config.keep_every, rng)
        return of_demonstrations(
            demonstrations, steps, every=config.keep_every, absorbing=self.config.absorbing
        )

    # ---------------------------------------------------------------- a first phase

    def _cloning(self) -> BC:
        """Behavioural cloning with the agent's network, which `_hand_over` ends."""
        agent = self.generator.config
        config = BCConfig(
            demonstrations=self.config.demonstrations,
            normalize_obs=agent.normalize_obs,
            heldout_every_updates=min(100, self.config.warm_start_updates),
        )
        cloning = BC(config, self.setup)
        cloning.counters = self.counters
        return cloning

    def _hand_over(self, cloning: BC) -> None:
        """The agent takes over the clone's policy and statistics; its own is how it explores."""
        agent, clone = self.generator, module_state(cloning.network)
        policy = {k: v for k, v in clone.items() if not k.startswith("distribution.")}
        load_module(agent.network, module_state(agent.network) | policy)
        if agent.obs_normalizer is not None and cloning.obs_normalizer is not None:
            agent.obs_normalizer.load(cloning.obs_normalizer.state())
        self.counters.phase = "train"
        self.cloning = None

    # ---------------------------------------------------------------- learning

    def step(self) -> Metrics:
        """A rollout, and what the discriminator and then the agent learn from it."""
        if self.cloning is not None:
            metrics = self.cloning.step()
            if self.counters.offline_updates >= self.config.warm_start_updates:
                self._hand_over(self.cloning)
            return metrics
        if not self.recent:
            self.discriminator.features.update(self.expert.obs_B[~self.expert.absorbing_B])
        self.generator.collect()
        agent = self._agent_transitions()
        self.discriminator.features.update(agent.obs_B[~agent.absorbing_B])
        expert_row_BX, agent_row_BX = map(self.discriminator.rows, (self.expert, agent))
        self.recent = [*self.recent, agent_row_BX][-self.config.discriminator.replay_rollouts :]
        metrics = self._discriminate(expert_row_BX, torch.cat(self.recent))
        metrics |= self._reward(expert_row_BX, agent_row_BX)
        return metrics | self.generator.learn()

    def _agent_transitions(self) -> Transitions:
        rollout = self.generator.rollout
        drawn_TN = rollout.action_TN
        # As the env gets them, like the expert's: clipped to the space.
        action_B = self.generator.distribution.to_env(drawn_TN.reshape(-1, *drawn_TN.shape[2:]))
        agent = of_rollout(rollout, self.env.obs_B, action_B)
        ends = int(np.count_nonzero(agent.terminated_B))
        if self.config.absorbing:
            return with_absorbing(agent, ends)
        if ends and not self.has_warned and self.config.reward in ("gail", "log_d"):
            self.has_warned = True
            paid = "survive" if self.config.reward == "gail" else "end the episode"
            log.warning(
                "episodes can terminate here, and algo.reward=%s pays the agent to %s, whatever "
                "the expert does: consider algo.absorbing=true or algo.reward=airl",
                self.config.reward,
                paid,
            )
        return agent

    def _discriminate(self, expert_row_BX: Tensor, agent_row_BX: Tensor) -> Metrics:
        """The discriminator's minibatches of a rollout; the means of their metrics."""
        config = self.config.discriminator
        self.discriminator.network.train()
        outcomes = []
        for _ in range(config.updates):
            drawn = (
                rows[torch.from_numpy(self.rng.integers(len(rows), size=config.batch_size))]
                for rows in (expert_row_BX, agent_row_BX)
            )
            share_B1 = torch.from_numpy(self.rng.random((config.batch_size, 1), np.float32))
            outcomes.append(self.update(*drawn, share_B1))
        self.discriminator.network.eval()
        names = ("loss", "grad_norm", "expert_accuracy", "agent_accuracy", "entropy", "penalty")
        means = (torch.stack(values).mean() for values in zip(*outcomes, strict=True))
        return {f"discriminator/{name}": mean for name, mean in zip(names, means, strict=True)}

    def loss(
        self, expert_row_BX: Tensor, agent_row_BX: Tensor, share_B1: Tensor
    ) -> tuple[Tensor, ...]:
        """Cross-entropy with its regularisers, and what is worth knowing of it."""
        config = self.config.discriminator
        logit_B = self.discriminator.logit(torch.cat([expert_row_BX, agent_row_BX]))
        expert_logit_B = logit_B[: len(expert_row_BX)]
        agent_logit_B = logit_B[len(expert_row_BX) :]
        entropy = bernoulli_entropy(logit_B)
        loss = discriminator_loss(expert_logit_B, agent_logit_B) - config.entropy_coef * entropy
        penalty = torch.zeros(())
        if config.gradient_penalty:
            mixed_BX = expert_row_BX.lerp(agent_row_BX, share_B1).requires_grad_()
            penalty = gradient_penalty(self.discriminator.score(mixed_BX), mixed_BX)
            loss = loss + config.gradient_penalty * penalty
        if config.weight_decay:
            squares = (parameter.square().sum() for parameter in self.optimizer.parameters)
            loss = loss + 0.5 * config.weight_decay * sum(squares)
        expert_accuracy = (expert_logit_B > 0).float().mean()
        agent_accuracy = (agent_logit_B < 0).float().mean()
        return loss, expert_accuracy, agent_accuracy, entropy, penalty

    @torch.no_grad()
    def _reward(self, expert_row_BX: Tensor, agent_row_BX: Tensor) -> Metrics:
        """Put the learnt rewards into the rollout; their means for the agent and the expert."""
        expert_logit_B = self.discriminator.logit(expert_row_BX)
        agent_logit_B = self.discriminator.logit(agent_row_BX)
        self.logits = {"expert": expert_logit_B.numpy(), "agent": agent_logit_B.numpy()}
        rollout, form = self.generator.rollout, self.config.reward
        reward_B = imitation_reward(agent_logit_B, form).numpy().astype(np.float64)
        steps = rollout.reward_TN.size
        rollout.reward_TN[:] = reward_B[:steps].reshape(rollout.reward_TN.shape)
        if len(reward_B) > steps:
            gamma = self.generator.config.gamma
            self._value_absorbing(float(reward_B[-1]))
            rollout.reward_TN[rollout.terminated_TN] += gamma * self.absorbing_value
        return {
            "discriminator/agent_reward": float(reward_B[:steps].mean()),
            "discriminator/expert_reward": imitation_reward(expert_logit_B, form).mean(),
            "discriminator/agent_logit": agent_logit_B.mean(),
            "discriminator/expert_logit": expert_logit_B.mean(),
        }

    def _value_absorbing(self, reward: float) -> None:
        """Learn what it is worth to be paid `reward` for ever.

        That is reward / (1 - gamma), but to say so at once would dwarf all values that the critic
        is still learning: while everything pays ln 2, to end the episode would be worth 69. So this
        value grows as theirs do, by as many steps a rollout as GAE looks ahead.
        """
        gamma, lam = self.generator.config.gamma, self.generator.config.gae_lambda
        beyond = gamma ** (1 / max(1 - gamma * lam, 1e-3))
        for_ever = reward / max(1 - gamma, 1e-3)
        self.absorbing_value = (1 - beyond) * for_ever + beyond * self.absorbing_value

    # ---------------------------------------------------------------- for the loop

    def act(self, obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
        return (self.cloning or self.generator).act(obs_B, explore=explore)

    def gauges(self) -> dict[str, float]:
        return self.generator.gauges()

    def histograms(self) -> dict[str, np.ndarray]:
        logits = {f"discriminator/{who}_logits": array for who, array in self.logits.items()}
        return {**self.generator.histograms(), **logits}

    def done(self) -> bool:
        return self.generator.done()

    def state(self) -> State:
        state = {
            "generator": self.generator.state(),
            "discriminator": module_state(self.discriminator.network),
            "optimizer": self.optimizer.state(),
            "features": self.discriminator.features.save(),
            "recent": {str(k): rows for k, rows in enumerate(self.recent)},
            "absorbing_value": self.absorbing_value,
            "rng": generator_state(self.rng),
            "demonstrations_sha256": self._digest(),
        }
        return state if self.cloning is None else state | {"cloning": self.cloning.state()}

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for column in self.expert:
            digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()

    def load(self, state: State) -> None:
        """Go on where `state` was taken; DataError if the demonstrations are others now."""
        if self._digest() != state["demonstrations_sha256"]:
            path = self.config.demonstrations.path
            raise DataError(f"{path}: has changed since the run began; expected the same steps")
        if self.cloning is not None and "cloning" in state:
            self.cloning.load(state["cloning"])
        else:
            self.cloning = None
        self.generator.load(state["generator"])
        load_module(self.discriminator.network, state["discriminator"])
        self.optimizer.load(state["optimizer"])
        self.discriminator.features.load(state["features"])
        self.recent = [
            torch.as_tensor(state["recent"][k]) for k in sorted(state["recent"], key=int)
        ]
        self.absorbing_value = state["absorbing_value"]
        load_generator(self.rng, state["rng"])

    def policy_state(self) -> State:
        state = {"generator": self.generator.policy_state()}
        return state if self.cloning is None else state | {"cloning": self.cloning.policy_state()}

    def load_policy(self, state: State) -> None:
        self.generator.load_policy(state["generator"])
        self.cloning = None
        if "cloning" in state:
            self.cloning = self._cloning()
            self.cloning.load_policy(state["cloning"])
