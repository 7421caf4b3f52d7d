"""What off-policy algorithms share: explore, store, draw, learn, follow with target networks.

Collect `train_every_env_steps` steps, then make `gradient_steps` updates on transitions drawn from
a replay memory. Target networks follow by the clock of env steps, during collection. (So with a
short interval and many gradient steps they stay frozen over all of a round's updates, as in the
source of the tuned presets, Stable-Baselines3. Counting gradient steps is another algorithm.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from rlzoo.core.algorithm import Algorithm, Setup
from rlzoo.core.seeding import numpy_generator
from rlzoo.core.settings import setting
from rlzoo.core.types import Counters, Metrics, UsageError, passed
from rlzoo.data.collector import Collector
from rlzoo.data.replay import Batch, Replay
from rlzoo.nets.update import Named, averaged

BLOCK_ENV_STEPS = 64  # least work between two safe points: less would cost more than it does
MAX_DRAW_BYTES = 2**24  # of observations in one draw of minibatches


@dataclass(frozen=True)
class OffPolicyConfig:
    """Settings that all share, with the defaults of Stable-Baselines3 2.x for DQN."""

    name: str = ""
    gamma: float = setting(0.99, "discount", low=0, high=1)
    batch_size: int = setting(32, "transitions in an update", low=1)
    learning_starts_env_steps: int = setting(100, "random actions, no updates before", low=0)
    train_every_env_steps: int = setting(4, "env steps between rounds of updates", low=1)
    gradient_steps: int = setting(1, "updates in a round", low=1)
    target_every_env_steps: int = setting(10_000, "env steps between target updates", low=1)
    tau: float = setting(1.0, "share of the network that a target update copies", above=0, high=1)
    n_step: int = setting(1, "rewards summed before bootstrapping", low=1, high=100)


class OffPolicy(Algorithm):
    """A subclass says how to explore, how to learn from a batch, and how targets follow."""

    needs: ClassVar = ("network", "replay")
    config: OffPolicyConfig

    def __init__(self, config: OffPolicyConfig, setup: Setup) -> None:
        assert setup.make_replay is not None
        self.config, self.setup, self.env = config, setup, setup.env
        self.total_env_steps = setup.total_env_steps
        self.counters = Counters()
        self.replay: Replay = setup.make_replay(setup.env)
        self.collector = Collector(setup.env)
        self.explore_rng = numpy_generator(setup.seed, "exploration")
        self.replay_rng = numpy_generator(setup.seed, "replay")
        # Uniform draws do not change with each update: many minibatches cost one draw.
        obs_bytes = max(1, setup.env.obs_B[0].nbytes)
        draw = 1 if self.replay.draws_change else MAX_DRAW_BYTES // obs_bytes
        self.minibatches_drawn_at_once = max(1, draw // config.batch_size)
        self.parts = {
            "explore_rng": self.explore_rng,
            "replay_rng": self.replay_rng,
            "replay": self.replay,
            "collector": self.env,
        }

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

    # ---------------------------------------------------------------- of each algorithm

    def noise(self, steps: int, num_envs: int) -> Iterable[Any]:
        """What chance contributes to each of some steps ahead: one call is cheaper than many."""
        raise NotImplementedError

    def explore(self, obs_B: np.ndarray, noise: Any) -> np.ndarray:
        """The actions of a step in training."""
        raise NotImplementedError

    def learn_from(self, batch: Sequence[Tensor]) -> tuple[Named, Tensor]:
        """An update on (obs, action, return, discount, next obs, weight): metrics, TD errors."""
        raise NotImplementedError

    def follow(self) -> None:
        """Move the target networks towards the online ones."""
        raise NotImplementedError

    # ---------------------------------------------------------------- collecting

    def step(self) -> Metrics:
        """Rounds of collecting `train_every_env_steps` and making the updates that are due."""
        config, num_envs = self.config, self.env.num_envs
        remaining = self.total_env_steps - self.counters.env_steps
        block = min(max(BLOCK_ENV_STEPS, config.train_every_env_steps), remaining)
        rounds = -(-block // config.train_every_env_steps)
        steps = config.train_every_env_steps // num_envs
        noise = iter(self.noise(rounds * steps, num_envs))
        updates: list[Named] = []
        for _ in range(rounds):
            self._collect(islice(noise, steps))
            if self.counters.env_steps > config.learning_starts_env_steps:
                with self.collector.timed("learn"):
                    updates += self._learn()
        self.counters.episodes = self.env.episodes
        return averaged(updates, "train")

    def _collect(self, noise: Iterator[Any]) -> None:
        counters, num_envs = self.counters, self.env.num_envs
        with self.collector.timed("collect"):
            for of_this_step in noise:
                action_B = self.explore(self.env.obs_B, of_this_step)
                self.replay.add(self.collector.step(action_B))
                before = counters.env_steps
                counters.env_steps += num_envs
                if passed(self.config.target_every_env_steps, before, counters.env_steps):
                    self.follow()

    # ---------------------------------------------------------------- learning

    def _learn(self) -> list[Named]:
        """`gradient_steps` updates; what is worth knowing of each."""
        updates: list[Named] = []
        while len(updates) < self.config.gradient_steps:
            batch = self._draw(self.config.gradient_steps - len(updates))
            for minibatch in self._minibatches(batch):
                metrics, td_error_B = self.learn_from(minibatch)
                updates.append(metrics)
                if self.replay.draws_change:  # then a draw is one minibatch
                    self.replay.learnt(batch.index_B, td_error_B)
        self.counters.updates += len(updates)
        return updates

    def _draw(self, most: int) -> Batch:
        """Transitions for so many minibatches, or fewer."""
        config = self.config
        return self.replay.sample(
            min(most, self.minibatches_drawn_at_once) * config.batch_size,
            self.replay_rng,
            gamma=config.gamma,
            n_step=config.n_step,
            progress=self.counters.env_steps / self.total_env_steps,
        )

    def _minibatches(self, batch: Batch) -> list[tuple[Tensor, ...]]:
        tensors: tuple[Tensor, ...] = (*batch[:5], batch.weight_B)
        if self.setup.device != "cpu":
            tensors = tuple(tensor.to(self.setup.device) for tensor in tensors)
        size = self.config.batch_size
        if len(batch.index_B) == size:
            return [tensors]
        return list(zip(*(tensor.split(size) for tensor in tensors), strict=True))

    # ---------------------------------------------------------------- for the loop

    def gauges(self) -> dict[str, float]:
        return {
            "train/updates": float(self.counters.updates),
            "train/replay_transitions": float(len(self.replay)),
            **self.collector.gauges(),
        }


@torch.no_grad()
def move_towards(target: nn.Module, online: nn.Module, share: float) -> None:
    """target += share * (online - target), parameter by parameter."""
    pairs = zip(target.parameters(), online.parameters(), strict=True)
    for theirs, ours in pairs:
        theirs.lerp_(ours, share)
