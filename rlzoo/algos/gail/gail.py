"""GAIL (Ho & Ermon 2016, "Generative adversarial imitation learning").

A discriminator learns to tell the pairs of observation and action of an agent from an expert's.
What it says of a pair is the agent's reward, and the agent, PPO or TRPO, learns to get more of it.
One `step` is a rollout, the discriminator's updates on it, and the agent's. The true reward is
logged and never learnt from. The agent can begin as a clone of the expert (a first phase).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlzoo.algos.bc import BC, BCConfig
from rlzoo.algos.gail.discriminator import Discriminator, DiscriminatorConfig, PairDiscriminator
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
)
from rlzoo.algos.on_policy import OnPolicy
from rlzoo.algos.ppo import PPO, PPOConfig
from rlzoo.algos.trpo import TRPO, TRPOConfig
from rlzoo.core.algorithm import Algorithm, Curves, Histogram, Report, Setup, Sources
from rlzoo.core.messages import warn
from rlzoo.core.parts import load_module, module_state
from rlzoo.core.seeding import numpy_generator, torch_seed
from rlzoo.core.settings import setting
from rlzoo.core.types import Metrics, Record, State, UsageError
from rlzoo.demonstrations.files import DemonstrationsConfig, Unchanged
from rlzoo.nets.adam import Adam
from rlzoo.nets.update import GradientStep, Named, averaged

RARE = 1e-3  # added to shares of ends: rarer ones say nothing, as a rollout has too few of them
GENERATORS: dict[str, type[OnPolicy]] = {"ppo": PPO, "trpo": TRPO}


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
        "terminal states go on into an absorbing one, which pays for ever as well, so that "
        "neither surviving nor ending is rewarded as such (Kostrikov et al. 2019)",
        fixed=True,
    )
    warm_start_updates: int = setting(
        0, "minibatches of behavioural cloning that the agent begins with", low=0, fixed=True
    )
    discriminator: DiscriminatorConfig = setting(DiscriminatorConfig(), "what tells them apart")
    ppo: PPOConfig = setting(PPOConfig(), "settings of the agent, with generator=ppo")
    trpo: TRPOConfig = setting(TRPOConfig(), "settings of the agent, with generator=trpo")

    @property
    def agent(self) -> PPOConfig | TRPOConfig:
        """The settings of the agent that is chosen."""
        return self.ppo if self.generator == "ppo" else self.trpo

    def agent_for(self, space: spaces.Space) -> PPOConfig | TRPOConfig:
        """The agent's settings; codes and images are not normalised (nor are they by bc)."""
        is_vector = isinstance(space, spaces.Box) and space.dtype != np.uint8
        return self.agent if is_vector else replace(self.agent, normalize_obs=False)


@contextmanager
def _agents_names(generator: str) -> Iterator[None]:
    """A setting that the agent complains of has another name here: algo.ppo.lr for algo.lr."""
    try:
        yield
    except UsageError as error:
        raise UsageError(str(error).replace("algo.", f"algo.{generator}.")) from error


class Recent(list[Tensor]):
    """Rows of the agent's newest rollouts."""

    def state(self) -> State:
        return {str(k): rows for k, rows in enumerate(self)}

    def load(self, state: State) -> None:
        self[:] = [torch.as_tensor(state[k]) for k in sorted(state, key=int)]


@dataclass
class Absorbing(Record):
    agent_share: float | None = None  # how much of its time the agent came to that state, lately


def share_of_ends(ends: int, steps: int) -> float:
    """The share of an absorbing state that is seen once after each end."""
    return ends / (steps + ends)


CURVES = Curves(
    "imitation",
    {
        "return of the agent": ("rollout/return_mean", "eval/return_mean"),
        "reward of the discriminator": (
            "discriminator/agent_reward",
            "discriminator/expert_reward",
        ),
    },
)


class GAIL(Algorithm):
    needs: ClassVar = ("network",)
    policy_parts: tuple[str, ...] = ("generator",)
    make_discriminator: ClassVar[Any] = PairDiscriminator

    def __init__(self, config: GAILConfig, setup: Setup) -> None:
        self.config, self.setup = config, setup
        self.total_env_steps = setup.total_env_steps
        self.env = env = setup.env
        agent = config.agent_for(env.observation_space)
        self.generator = GENERATORS[config.generator](agent, setup)
        self.counters, self.policy = self.generator.counters, self.generator.policy
        self.rng = numpy_generator(setup.seed, "discriminator")
        with torch_seed(setup.seed, "discriminator"):
            self.discriminator: Discriminator = self.make_discriminator(
                config.discriminator, env, self.generator
            )
        network = self.discriminator.network
        self.optimizer = Adam(network.parameters(), lr=config.discriminator.lr)
        self.update = GradientStep(self.optimizer, self.loss, max_grad_norm=None, compile=False)
        self.recent, self.absorbing = Recent(), Absorbing()
        self.logits: dict[str, np.ndarray] = {}
        self.has_warned = False
        self.cloning: BC | None = None
        self.parts: dict[str, Any] = {
            "demonstrations_sha256": Unchanged(lambda: self.expert, config.demonstrations.path),
            "generator": self.generator,
            "discriminator": network,
            "optimizer": self.optimizer,
            "features": self.discriminator.features,
            "recent": self.recent,
            "absorbing": self.absorbing,
            "rng": self.rng,
        }
        if config.warm_start_updates:
            self._begin_cloning()

    @staticmethod
    def check(run: Any) -> None:
        algo = run.algo
        if algo.warm_start_updates and algo.agent.gsde:
            raise UsageError(
                f"algo.{algo.generator}.gsde=true: got algo.warm_start_updates="
                f"{algo.warm_start_updates}, expected 0: a clone has no gSDE"
            )
        with _agents_names(algo.generator):
            GENERATORS[algo.generator].check(replace(run, algo=algo.agent))

    @staticmethod
    def sources(config: GAILConfig) -> Sources:
        return Sources(demonstrations=config.demonstrations)

    @staticmethod
    def check_spaces(
        config: GAILConfig, observation_space: spaces.Space, action_space: Any
    ) -> None:
        agent = config.agent_for(observation_space)
        with _agents_names(config.generator):
            GENERATORS[config.generator].check_spaces(agent, observation_space, action_space)
        Features(observation_space, action_space)  # refuses what it cannot read

    @cached_property
    def expert(self) -> Transitions:
        """The demonstrations, read when they are first needed: a trained agent acts without."""
        assert self.setup.demonstrations is not None
        demonstrations, every = self.setup.demonstrations(), self.config.demonstrations.keep_every
        steps = demonstrations.kept_steps(every, numpy_generator(self.setup.seed, "kept steps"))
        return of_demonstrations(demonstrations, steps)

    # ---------------------------------------------------------------- a first phase

    def _begin_cloning(self) -> None:
        """Behavioural cloning with the agent's network, which `_hand_over` ends."""
        agent = self.generator.config
        config = BCConfig(
            demonstrations=self.config.demonstrations,
            normalize_obs=agent.normalize_obs,
            heldout_every_updates=min(100, self.config.warm_start_updates),
        )
        self.cloning = self.parts["cloning"] = BC(config, self.setup)
        self.cloning.counters, self.counters.phase = self.counters, "warm start"
        self.policy, self.policy_parts = self.cloning.policy, ("generator", "cloning")

    def _hand_over(self, cloning: BC) -> None:
        """The agent takes over the clone's policy and statistics; its own is how it explores."""
        agent, clone = self.generator, module_state(cloning.network)
        policy = {k: v for k, v in clone.items() if not k.startswith("distribution.")}
        load_module(agent.network, module_state(agent.network) | policy)
        if agent.obs_normalizer is not None and cloning.obs_normalizer is not None:
            agent.obs_normalizer.load(cloning.obs_normalizer.state())
        self._end_cloning()

    def _end_cloning(self) -> None:
        self.cloning, self.counters.phase = None, "train"
        self.policy, self.policy_parts = self.generator.policy, ("generator",)
        del self.parts["cloning"]

    # ---------------------------------------------------------------- learning

    def step(self) -> Metrics:
        """A rollout, and what the discriminator and then the agent learn from it."""
        if self.cloning is not None:
            metrics = self.cloning.step()
            if self.counters.offline_units >= self.config.warm_start_updates:
                self._hand_over(self.cloning)
            return metrics
        if not self.recent:
            self.discriminator.features.update(self.expert.obs_B)
        self.generator.collect()
        agent = self._agent_transitions()
        self.discriminator.features.update(agent.obs_B)
        expert_row_BX, agent_row_BX = map(self.discriminator.rows, (self.expert, agent))
        self.recent.append(agent_row_BX)
        del self.recent[: -self.config.discriminator.replay_rollouts]
        metrics = self._discriminate(expert_row_BX, torch.cat(self.recent))
        metrics |= self._reward(expert_row_BX, agent_row_BX)
        return metrics | self.generator.learn()

    def _agent_transitions(self) -> Transitions:
        rollout = self.generator.rollout
        drawn_TN = rollout.action_TN
        # As the env gets them, like the expert's: clipped to the space.
        action_B = self.generator.distribution.to_env(drawn_TN.reshape(-1, *drawn_TN.shape[2:]))
        agent = of_rollout(rollout, self.env.obs_B, action_B)
        ends, one_sided = agent.terminated_B.any(), self.config.reward in ("gail", "log_d")
        if self.config.absorbing:
            self._note_ends(agent.terminated_B)
        elif ends and one_sided and not self.has_warned:
            self.has_warned = True
            paid = "survive" if self.config.reward == "gail" else "end the episode"
            warn(
                f"episodes can terminate here, and algo.reward={self.config.reward} pays the "
                f"agent to {paid}, whatever the expert does: consider algo.absorbing=true or "
                "algo.reward=airl"
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
        return averaged(outcomes, "discriminator")

    def loss(
        self, expert_row_BX: Tensor, agent_row_BX: Tensor, share_B1: Tensor
    ) -> tuple[Tensor, Named]:
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
        return loss, {
            "expert_accuracy": (expert_logit_B > 0).float().mean(),
            "agent_accuracy": (agent_logit_B < 0).float().mean(),
            "entropy": entropy,
            "penalty": penalty,
        }

    @torch.no_grad()
    def _reward(self, expert_row_BX: Tensor, agent_row_BX: Tensor) -> Metrics:
        """Put the learnt rewards into the rollout; their means for the agent and the expert."""
        expert_logit_B = self.discriminator.logit(expert_row_BX)
        agent_logit_B = self.discriminator.logit(agent_row_BX)
        self.logits = {"expert": expert_logit_B.numpy(), "agent": agent_logit_B.numpy()}
        rollout, form = self.generator.rollout, self.config.reward
        reward_B = imitation_reward(agent_logit_B, form).numpy().astype(np.float64)
        expert_reward = float(imitation_reward(expert_logit_B, form).mean())
        rollout.reward_TN[:] = reward_B.reshape(rollout.reward_TN.shape)
        if self.config.absorbing:
            rollout.reward_TN -= self._absorbing_reward(expert_reward)
        return {
            "discriminator/agent_reward": float(reward_B.mean()),
            "discriminator/expert_reward": expert_reward,
            "discriminator/agent_logit": agent_logit_B.mean(),
            "discriminator/expert_logit": expert_logit_B.mean(),
        }

    def _note_ends(self, terminated_B: np.ndarray) -> None:
        """Keep how often the agent came to the absorbing state, over about ten rollouts."""
        share = share_of_ends(int(terminated_B.sum()), len(terminated_B))
        before = self.absorbing.agent_share
        self.absorbing.agent_share = share if before is None else 0.9 * before + 0.1 * share

    def _absorbing_reward(self, expert_reward: float) -> float:
        """What a step in the absorbing state pays, which is then taken off all other rewards.

        To be paid c for ever after the end is worth c / (1 - gamma). Taking c off every reward
        instead leaves the same policies best, and no value has to catch up with another: at the
        end there is nothing left. The absorbing state is one point, so D of it needs no learning:
        its logit is the log ratio of how often the expert and the agent come there. It pays at
        most what the expert's steps do: an expert that ends now and then is imitated, not its end.
        """
        demonstrations = self.setup.demonstrations() if self.setup.demonstrations else None
        assert demonstrations is not None and self.absorbing.agent_share is not None
        ends, steps = int(np.sum(demonstrations.terminated)), len(demonstrations.obs)
        ratio = (share_of_ends(ends, steps) + RARE) / (self.absorbing.agent_share + RARE)
        logit_B = torch.tensor([math.log(ratio)])
        return min(float(imitation_reward(logit_B, self.config.reward)[0]), expert_reward)

    # ---------------------------------------------------------------- for the loop

    def gauges(self) -> dict[str, float]:
        return self.generator.gauges()

    def report(self) -> Iterable[Report]:
        """The agent's reports, the discriminator's logits, and how imitation goes on."""
        yield from self.generator.report()
        for who, logit_B in self.logits.items():
            yield Histogram(f"discriminator/{who}_logits", logit_B)
        yield CURVES

    def load(self, state: State) -> None:
        """Go on where `state` was taken; DataError if the demonstrations are others now."""
        if self.cloning is not None and "cloning" not in state:
            self._end_cloning()
        super().load(state)

    def load_policy(self, state: State) -> None:
        if self.cloning is not None and "cloning" not in state:
            self._end_cloning()
        super().load_policy(state)
