"""Behavioural cloning (Pomerleau 1991): learn to do what an expert did, as supervised learning.

Some of the expert's trajectories are held out, and the parameters with the lowest loss on them are
those that act (as in the experiments of Ho & Ermon 2016). One `step` is a block of minibatches and
a measurement of the held-out loss. The env serves evaluation alone.

Shape suffixes: N steps of demonstrations, B minibatch, A outputs of the policy.
"""

from __future__ import annotations

import hashlib
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlzoo.core.seeding import generator_state, load_generator, numpy_generator, torch_seed
from rlzoo.core.settings import setting
from rlzoo.core.types import Counters, DataError, Metrics, Setup, State, UsageError
from rlzoo.data.normalize import ObsNormalizer
from rlzoo.demonstrations.files import DemonstrationsConfig, chosen
from rlzoo.demonstrations.trajectories import Demonstrations, check_fits
from rlzoo.nets.acting import numpy_head
from rlzoo.nets.actor_critic import Categorical, make_distribution
from rlzoo.nets.adam import Adam
from rlzoo.nets.policy import Policy
from rlzoo.nets.state import load_module, module_state
from rlzoo.nets.update import GradientStep

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
    log_std_init: float = setting(0.0, "log standard deviation of continuous actions, at first")


class Data(NamedTuple):
    """Demonstrations as the network gets them."""

    train: tuple[Tensor, Tensor]  # observations [N, ...], actions [N] or [N, A]
    heldout: tuple[Tensor, Tensor]
    sha256: str  # of both


class BC:
    needs = ("network",)

    def __init__(self, config: BCConfig, setup: Setup) -> None:
        self.config, self.setup = config, setup
        self.env = env = setup.env
        self.counters = Counters()
        self.distribution = make_distribution(env.action_space, log_std_init=config.log_std_init)
        with torch_seed(setup.seed, "network"):
            # What acts: the parameters with the lowest held-out loss so far.
            self.network = Policy(
                env.observation_space,
                self.distribution,
                setup.network,
                make_encoder=setup.make_encoder,
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
        self.policy_outputs = numpy_head(self.network.encoder, self.network.policy)
        self.obs_normalizer = self._new_normalizer()
        self.explore_rng = numpy_generator(setup.seed, "exploration")
        self.minibatch_rng = numpy_generator(setup.seed, "minibatches")
        self.best_heldout_loss: float | None = None
        self.measurements_since_best = 0

    @staticmethod
    def check(run: Any) -> None: ...

    @staticmethod
    def check_spaces(config: BCConfig, observation_space: spaces.Space, action_space: Any) -> None:
        try:
            make_distribution(action_space)
        except UsageError as error:
            raise UsageError(f"algo=bc: {error}") from error
        if config.loss == "mse" and not isinstance(action_space, spaces.Box):
            raise UsageError(f"algo.loss=mse: got actions {action_space}, expected a Box of floats")

    def _new_normalizer(self) -> ObsNormalizer | None:
        space = self.env.observation_space
        is_vector = isinstance(space, spaces.Box) and space.dtype != np.uint8
        return ObsNormalizer(space.shape) if self.config.normalize_obs and is_vector else None

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
        config, seed = self.config, self.setup.seed
        demonstrations = chosen(config.demonstrations)
        env = self.env
        check_fits(demonstrations, env.observation_space, env.action_space, self.setup.env_id)
        kept_rng = numpy_generator(seed, "kept steps")
        kept = demonstrations.kept_steps(config.demonstrations.keep_every, kept_rng)
        split_rng = numpy_generator(seed, "held-out trajectories")
        train, heldout = split(demonstrations, kept, config.heldout_fraction, split_rng)
        self.obs_normalizer = self._new_normalizer()
        if self.obs_normalizer is not None:
            self.obs_normalizer.update(demonstrations.obs[train])
        digest = hashlib.sha256()
        parts = [self._tensors(demonstrations, steps, digest) for steps in (train, heldout)]
        return Data(parts[0], parts[1], digest.hexdigest())

    def _tensors(
        self, demonstrations: Demonstrations, steps_N: np.ndarray, digest: Any
    ) -> tuple[Tensor, Tensor]:
        obs = np.ascontiguousarray(self._normalized(demonstrations.obs[steps_N]))
        action = np.ascontiguousarray(self.distribution.from_env(demonstrations.action[steps_N]))
        for array in (obs, action):
            digest.update(array.data)
        device = self.setup.device
        return torch.from_numpy(obs).to(device), torch.from_numpy(action).to(device)

    # ---------------------------------------------------------------- learning

    def step(self) -> Metrics:
        """A block of minibatches, then a measurement on what is held out."""
        (obs, action), updates = self.data.train, self.config.heldout_every_updates
        drawn = self.minibatch_rng.integers(len(obs), size=(updates, self.config.batch_size))
        outcomes = [self.update(obs[rows], action[rows]) for rows in torch.from_numpy(drawn)]
        self.counters.updates += updates
        self.counters.offline_updates += updates
        _, grad_norm, loss, _, error = (
            torch.stack(values).mean() for values in zip(*outcomes, strict=True)
        )
        heldout_loss, heldout_error = self._measured()
        if self.best_heldout_loss is None or heldout_loss < self.best_heldout_loss:
            self.best_heldout_loss, self.measurements_since_best = heldout_loss, 0
            load_module(self.network, module_state(self.learner))
        else:
            self.measurements_since_best += 1
        return {
            "train/loss": loss,
            "train/grad_norm": grad_norm,
            "train/action_error": error,
            "eval/heldout_loss": heldout_loss,
            "eval/heldout_action_error": heldout_error,
        }

    def loss(self, obs_B: Tensor, action_B: Tensor) -> tuple[Tensor, ...]:
        """The loss of a minibatch, weight decay included, and what `fit` says of it."""
        fit = self.fit(obs_B, action_B)
        decay = self.config.weight_decay
        if not decay:
            return fit[0], *fit
        weights = [p for p in self.learner.parameters() if p.dim() > 1]
        penalty = torch.stack([p.square().sum() for p in weights]).sum()
        return fit[0] + 0.5 * decay * penalty, *fit

    def fit(self, obs_B: Tensor, action_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How far the learner is from the expert: (loss, held-out loss, error of its actions).

        What is compared on the held-out steps is -log pi(a|s) of choices, and the mean squared
        error of continuous actions, whatever they are learnt by: the density of held-out actions
        falls as the distribution narrows, long before the actions get worse (Ho & Ermon choose so
        too). The error is the share of wrong choices, or the mean absolute error.
        """
        output_BA = self.learner(obs_B)
        distribution = self.learner.distribution
        if isinstance(distribution, Categorical):
            nll = -distribution.log_prob_and_entropy(output_BA, action_B)[0].mean()
            return nll, nll, (output_BA.argmax(dim=1) != action_B).float().mean()
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
        if self.best_heldout_loss is not None:
            gauges["eval/heldout_loss_lowest"] = self.best_heldout_loss
        return gauges

    def histograms(self) -> dict[str, np.ndarray]:
        """Parameters by name, and the policy's outputs for what is held out."""
        named = self.network.named_parameters()
        weights = {f"parameters/{name}": p.detach().cpu().numpy() for name, p in named}
        obs = self.data.heldout[0][:MEASURED_AT_ONCE].cpu().numpy()
        return {**weights, "policy_outputs": self.policy_outputs(obs)}

    def done(self) -> bool:
        return self._has_stopped() or self.counters.clock >= self.setup.total_env_steps

    def _has_stopped(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.measurements_since_best >= patience

    def to_go_on(self) -> str:
        """What a finished run needs to do more when it is resumed."""
        return f"raise {'algo.patience' if self._has_stopped() else 'total_env_steps'} to go on"

    def state(self) -> State:
        return {
            "counters": self.counters.state(),
            **self.policy_state(),
            "learner": module_state(self.learner),
            "optimizer": self.optimizer.state(),
            "best_heldout_loss": self.best_heldout_loss,
            "measurements_since_best": self.measurements_since_best,
            "explore_rng": generator_state(self.explore_rng),
            "minibatch_rng": generator_state(self.minibatch_rng),
            "demonstrations_sha256": self.data.sha256,
        }

    def load(self, state: State) -> None:
        """Go on where `state` was taken; DataError if the demonstrations are others now."""
        if self.data.sha256 != state["demonstrations_sha256"]:
            path = self.config.demonstrations.path
            raise DataError(f"{path}: has changed since the run began; expected the same steps")
        self.load_policy(state)
        load_module(self.learner, state["learner"])
        self.counters.load(state["counters"])
        self.optimizer.load(state["optimizer"])
        self.best_heldout_loss = state["best_heldout_loss"]
        self.measurements_since_best = state["measurements_since_best"]
        load_generator(self.explore_rng, state["explore_rng"])
        load_generator(self.minibatch_rng, state["minibatch_rng"])

    def policy_state(self) -> State:
        state: State = {"network": module_state(self.network)}
        if self.obs_normalizer is not None:
            state["obs_normalizer"] = self.obs_normalizer.state()
        return state

    def load_policy(self, state: State) -> None:
        load_module(self.network, state["network"])
        if self.obs_normalizer is not None:
            self.obs_normalizer.load(state["obs_normalizer"])


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
