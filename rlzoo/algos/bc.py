"""Behavioural cloning (Pomerleau 1991): learn to do what an expert did, as supervised learning.

Some of the expert's trajectories are held out, and the parameters with the lowest loss on them are
those that act (as in the experiments of Ho & Ermon 2016). One `step` is a block of minibatches and
a measurement of the held-out loss. The env serves evaluation alone.

Shape suffixes: N steps of demonstrations, B minibatch, A outputs of the policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlzoo.core.algorithm import Algorithm, Histogram, Progress, Reactive, Report, Setup, Sources
from rlzoo.core.parts import load_module, module_state
from rlzoo.core.seeding import numpy_generator, torch_seed
from rlzoo.core.settings import setting
from rlzoo.core.types import Counters, DataError, Metrics, Record, UsageError
from rlzoo.data.normalize import ObsNormalizer
from rlzoo.demonstrations.files import DemonstrationsConfig, Unchanged
from rlzoo.demonstrations.trajectories import Demonstrations
from rlzoo.nets.actor_critic import make_distribution
from rlzoo.nets.adam import Adam
from rlzoo.nets.policy import Policy
from rlzoo.nets.update import GradientStep, Named, averaged

BLOCKS = 10  # that a single trajectory is cut into, to hold out some of them
MEASURED_AT_ONCE = 4096  # held-out observations in one call: bounds the memory for images


@dataclass(frozen=True)
class BCConfig:
    """Defaults as in Ho & Ermon 2016 (github.com/openai/imitation, scripts/imitate_mj.py)."""

    name: str = "bc"
    demonstrations: DemonstrationsConfig = setting(
        DemonstrationsConfig(), "what is cloned", fixed=True
    )
    loss: Literal["nll", "mse"] = setting(
        "nll", "-log pi(a|s), or the mean squared error of continuous actions", fixed=True
    )
    updates: int = setting(20_000, "minibatches, at most", low=1)
    batch_size: int = setting(128, "steps in a minibatch, drawn with replacement", low=1)
    lr: float = setting(1e-3, "Adam's learning rate", above=0)
    weight_decay: float = setting(
        0.0, "weight in the loss of half the squared norm of weight matrices", low=0
    )
    normalize_obs: bool = setting(
        True,
        "vectors to mean 0 and variance 1 over the training steps, clipped to +-10 (images and "
        "discrete observations stay as they are)",
        fixed=True,
    )
    heldout_fraction: float = setting(
        0.3,
        "share of the trajectories that is held out, one or more (of a single trajectory: share of "
        "its ten blocks)",
        above=0,
        below=1,
        fixed=True,
    )
    heldout_every_updates: int = setting(
        100, "the loss on what is held out is measured this often", low=1
    )
    patience: int | None = setting(
        50,
        "stop after so many measurements in a row without a new lowest loss (null: never)",
        low=1,
    )
    log_std_init: float = setting(0.0, "first log deviation of continuous actions", fixed=True)


class Data(NamedTuple):
    """Demonstrations as the network gets them."""

    train: tuple[Tensor, ...]  # observations [N, ...], actions [N] or [N, A]
    heldout: tuple[Tensor, ...]


@dataclass
class EarlyStop(Record):
    best_heldout_loss: float | None = None
    measurements_since_best: int = 0


class BC(Algorithm):
    needs: ClassVar = ("network",)

    def __init__(self, config: BCConfig, setup: Setup) -> None:
        from rlzoo.nets.acting import numpy_forward

        assert setup.network is not None
        self.config, self.setup = config, setup
        self.total_env_steps = setup.total_env_steps
        self.env = env = setup.env
        self.counters = Counters()
        self.distribution = make_distribution(env.action_space, log_std_init=config.log_std_init)
        with torch_seed(setup.seed, "network"):
            # What acts: the parameters with the lowest held-out loss so far.
            self.network = Policy(
                env.observation_space,
                self.distribution,
                setup.network.settings,
                make_encoder=setup.network.make_encoder,
            ).to(setup.device)
        self.learner = deepcopy(self.network)
        if config.loss == "mse":  # which knows of no width
            self.learner.distribution.requires_grad_(False)
        self.optimizer = Adam(
            [p for p in self.learner.parameters() if p.requires_grad], lr=config.lr
        )
        self.update = GradientStep(
            self.optimizer, self.loss, max_grad_norm=None, compile=setup.compile
        )
        self.policy_outputs = numpy_forward(self.network.encoder, self.network.policy)
        self.policy = Reactive(self.act)
        self.explore_rng = numpy_generator(setup.seed, "exploration")
        self.minibatch_rng = numpy_generator(setup.seed, "minibatches")
        self.early_stop = EarlyStop()
        self.parts: dict[str, Any] = {
            "demonstrations_sha256": Unchanged(self._arrays, config.demonstrations.path),
            "network": self.network,
            "learner": self.learner,
            "optimizer": self.optimizer,
            "early_stop": self.early_stop,
            "explore_rng": self.explore_rng,
            "minibatch_rng": self.minibatch_rng,
        }
        space, self.obs_normalizer = env.observation_space, None
        is_vector = isinstance(space, spaces.Box) and space.dtype != np.uint8
        if config.normalize_obs and is_vector:
            self.obs_normalizer = self.parts["obs_normalizer"] = ObsNormalizer(space.shape)
        self.policy_parts = tuple(n for n in ("network", "obs_normalizer") if n in self.parts)

    @staticmethod
    def sources(config: BCConfig) -> Sources:
        return Sources(demonstrations=config.demonstrations)

    @staticmethod
    def check_spaces(config: BCConfig, observation_space: spaces.Space, action_space: Any) -> None:
        try:
            make_distribution(action_space)
        except UsageError as error:
            raise UsageError(f"algo=bc: {error}") from error
        if config.loss == "mse" and not isinstance(action_space, spaces.Box):
            raise UsageError(f"algo.loss=mse: got actions {action_space}, expected a Box of floats")

    # ---------------------------------------------------------------- acting

    def act(self, obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
        """The most likely actions, or ones drawn from the policy."""
        output_BA = self.policy_outputs(self._normalized(obs_B))
        if not explore:
            return self.distribution.to_env(self.distribution.mode(output_BA))
        [noise_BA] = self.distribution.draw(self.explore_rng, 1, len(obs_B))
        return self.distribution.to_env(self.distribution.sample(output_BA, noise_BA))

    def _normalized(self, obs_B: np.ndarray) -> np.ndarray:
        return obs_B if self.obs_normalizer is None else self.obs_normalizer(obs_B)

    # ---------------------------------------------------------------- data

    @cached_property
    def data(self) -> Data:
        """The demonstrations, read when they are first needed: a trained policy acts without."""
        assert self.setup.demonstrations is not None
        config, seed = self.config, self.setup.seed
        demonstrations: Demonstrations = self.setup.demonstrations()
        kept_rng = numpy_generator(seed, "kept steps")
        kept = demonstrations.kept_steps(config.demonstrations.keep_every, kept_rng)
        split_rng = numpy_generator(seed, "held-out trajectories")
        train, heldout = split(demonstrations, kept, config.heldout_fraction, split_rng)
        if self.obs_normalizer is not None:
            self.obs_normalizer.fit(demonstrations.obs[train])
        return Data(*(self._tensors(demonstrations, steps) for steps in (train, heldout)))

    def _tensors(self, demonstrations: Demonstrations, steps_N: np.ndarray) -> tuple[Tensor, ...]:
        obs = np.ascontiguousarray(self._normalized(demonstrations.obs[steps_N]))
        action = np.ascontiguousarray(self.distribution.from_env(demonstrations.action[steps_N]))
        device = self.setup.device
        return torch.from_numpy(obs).to(device), torch.from_numpy(action).to(device)

    def _arrays(self) -> Iterator[np.ndarray]:
        for pair in self.data:
            yield from (tensor.cpu().numpy() for tensor in pair)

    # ---------------------------------------------------------------- learning

    def step(self) -> Metrics:
        """A block of minibatches, then a measurement on what is held out."""
        (obs, action), updates = self.data.train, self.config.heldout_every_updates
        drawn = self.minibatch_rng.integers(len(obs), size=(updates, self.config.batch_size))
        outcomes = [self.update(obs[rows], action[rows]) for rows in torch.from_numpy(drawn)]
        self.counters.updates += updates
        self.counters.offline_units += updates
        heldout_loss, heldout_error = self._measured()
        best = self.early_stop
        if best.best_heldout_loss is None or heldout_loss < best.best_heldout_loss:
            best.best_heldout_loss, best.measurements_since_best = heldout_loss, 0
            load_module(self.network, module_state(self.learner))
        else:
            best.measurements_since_best += 1
        return {
            **averaged(outcomes, "train"),
            "eval/heldout_loss": heldout_loss,
            "eval/heldout_action_error": heldout_error,
        }

    def loss(self, obs_B: Tensor, action_B: Tensor) -> tuple[Tensor, Named]:
        """The loss of a minibatch, and apart from weight decay what it is made of."""
        fit, _, error = self.fit(obs_B, action_B)
        named = {"loss": fit, "action_error": error}  # logged without the decay
        decay = self.config.weight_decay
        if not decay:
            return fit, named
        weights = [p for p in self.learner.parameters() if p.dim() > 1]
        penalty = torch.stack([p.square().sum() for p in weights]).sum()
        return fit + 0.5 * decay * penalty, named

    def fit(self, obs_B: Tensor, action_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How far the learner is from the expert: (loss, held-out loss, error of its actions).

        What is compared on the held-out steps is -log pi(a|s) of choices, and the mean squared
        error of continuous actions, whatever they are learnt by: the density of held-out actions
        falls as the distribution narrows, long before the actions get worse (Ho & Ermon choose so
        too). The error is the share of wrong choices, or the mean absolute error.
        """
        output_BA = self.learner(obs_B)
        distribution = self.learner.distribution
        if distribution.is_discrete:
            nll = -distribution.log_prob_and_entropy(output_BA, action_B)[0].mean()
            return nll, nll, (distribution.mode(output_BA) != action_B).float().mean()
        deviation_BA = output_BA - action_B
        mse, error = deviation_BA.square().mean(), deviation_BA.abs().mean()
        if self.config.loss == "mse":
            return mse, mse, error
        return -distribution.log_prob_and_entropy(output_BA, action_B)[0].mean(), mse, error

    @torch.no_grad()
    def _measured(self) -> tuple[float, float]:
        """Loss and error of the learner on what is held out."""
        obs, action = self.data.heldout
        batches = zip(obs.split(MEASURED_AT_ONCE), action.split(MEASURED_AT_ONCE), strict=True)
        sums = [torch.stack(self.fit(*batch)) * len(batch[0]) for batch in batches]
        _, loss, error = (torch.stack(sums).sum(dim=0) / len(obs)).tolist()
        return loss, error

    # ---------------------------------------------------------------- for the loop

    def gauges(self) -> dict[str, float]:
        gauges = {"train/updates": float(self.counters.updates)}
        if self.early_stop.best_heldout_loss is not None:
            gauges["eval/heldout_loss_lowest"] = self.early_stop.best_heldout_loss
        return gauges

    def report(self) -> Iterable[Report]:
        """Parameters by name, and the policy's outputs for what is held out."""
        for name, parameter in self.network.named_parameters():
            yield Histogram(f"parameters/{name}", parameter.detach().cpu().numpy())
        obs = self.data.heldout[0][:MEASURED_AT_ONCE].cpu().numpy()
        yield Histogram("policy_outputs", self.policy_outputs(obs))

    def progress(self) -> Progress:
        return Progress("train", self.counters.updates, self.config.updates, "minibatches")

    def done(self) -> bool:
        return self._has_stopped() or self.counters.updates >= self.config.updates

    def _has_stopped(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.early_stop.measurements_since_best >= patience

    def how_to_continue(self) -> str:
        return f"raise {'algo.patience' if self._has_stopped() else 'algo.updates'} to go on"


def split(
    demonstrations: Demonstrations,
    steps_N: np.ndarray,
    heldout_fraction: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Some steps of demonstrations as (training steps, held-out steps), by whole trajectories.

    Neighbouring steps are nearly equal, so a split by steps would hold out what is learnt. A
    single trajectory is cut into ten blocks, of which some are held out. DataError for one step.
    """
    group_N = np.searchsorted(demonstrations.start, steps_N, side="right") - 1
    if demonstrations.num_trajectories == 1:
        group_N = np.arange(len(steps_N)) * BLOCKS // len(steps_N)
    groups = np.unique(group_N)
    if len(groups) < 2:
        raise DataError(f"{demonstrations.source}: got 1 step, expected 2 or more to hold one out")
    num_heldout = min(max(1, round(heldout_fraction * len(groups))), len(groups) - 1)
    is_heldout_N = np.isin(group_N, rng.permutation(groups)[:num_heldout])
    return steps_N[~is_heldout_N], steps_N[is_heldout_N]
