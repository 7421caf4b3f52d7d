"""M, the memory: an MDN-RNN learns what follows from what is seen and done (phase `memory`).

Ha & Schmidhuber 2018, section 2.3 and appendix A.2. Shape suffixes: T steps of a sequence, B
sequences of a minibatch, N steps of it that are no padding, Z latent dimensions, A action
dimensions, S all sequences.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rlzoo.algos.world_models.frame_store import FrameStore
from rlzoo.algos.world_models.models import (
    MDNRNN,
    VAE,
    mixture_mean,
    mixture_nll,
    sample,
    sample_mixture,
    split_mixture,
)
from rlzoo.algos.world_models.phases import Phase
from rlzoo.algos.world_models.pictures import decoded, grid, spread
from rlzoo.algos.world_models.vision import check_same_data
from rlzoo.core.algorithm import Film, Picture, Report
from rlzoo.core.parts import load_module, module_state
from rlzoo.core.seeding import numpy_generator, torch_generator, torch_seed
from rlzoo.core.settings import between, setting
from rlzoo.core.types import Counters, DataError, Metrics, State
from rlzoo.nets.adam import Adam
from rlzoo.nets.update import GradientStep, Named, averaged

SHOWN = 10  # predictions in a picture
DREAM_STEPS = 200  # of the film
FRAMES_PER_SECOND = 25.0


@dataclass(frozen=True)
class MemoryConfig:
    """Defaults as in the original's code (github.com/hardmaru/WorldModelsExperiments)."""

    hidden_size: int = setting(256, "units of the LSTM (TakeCover: 512)", low=1, fixed=True)
    num_components: int = setting(5, "of each dimension's mixture", low=1, fixed=True)
    reward_head: bool = setting(False, "predict rewards, too", fixed=True)
    done_head: bool = setting(False, "predict terminal states, too (TakeCover)", fixed=True)
    epochs: int = setting(20, "times that each step is learnt from (the paper: 20)", low=1)
    batch_size: int = setting(
        16,
        "sequences in a minibatch (the original: 100; a step costs the same on a processor, "
        "and this makes six times as many updates of them)",
        low=1,
    )
    sequence_steps: int = setting(
        1000, "longer episodes are cut into sequences of at most so many (TakeCover: 500)", low=2
    )
    lr: float = setting(1e-3, "Adam's learning rate", above=0)
    final_lr: float | None = setting(
        None, "the rate falls linearly to this (TakeCover: 1e-5; null: stays)", low=0
    )
    max_grad_value: float = setting(1.0, "each element of the gradient is clipped to +-", above=0)
    done_weight: float = setting(
        10.0, "weight of terminal steps against others, in the loss of the done head", above=0
    )
    block_updates: int = setting(5, "minibatches between two safe points", low=1)


class Sequences(NamedTuple):
    """Where all sequences lie: parts of episodes, of nearly equal length within each."""

    episode_S: np.ndarray
    first_S: np.ndarray  # step of the episode
    length_S: np.ndarray


class Minibatch(NamedTuple):
    """B sequences, padded at the end to the longest one."""

    mu_TBZ: Tensor  # T + 1 steps: the next latents of the last step, too
    logvar_TBZ: Tensor
    noise_TBZ: Tensor
    action_TBA: Tensor
    reward_TB: Tensor
    terminated_TB: Tensor  # 1 where the action led to a terminal state, 0 elsewhere
    is_step_TB: Tensor  # 1 for steps, 0 for padding
    has_next_TB: Tensor  # 1 where the next latents are known: not at an episode's end


class MemoryPhase(Phase):
    """Trains `rnn` on a store of latents. Pictures need V, and the frames if there are any."""

    name: ClassVar = "memory"
    unit: ClassVar = "minibatches"
    length: ClassVar = "memory.epochs"

    def __init__(
        self,
        config: MemoryConfig,
        *,
        seed: int,
        latents: FrameStore,
        vae: VAE | None = None,
        frames: FrameStore | None = None,
        device: str = "cpu",
    ) -> None:
        self.config, self.seed, self.latents, self.device = config, seed, latents, device
        self.vae, self.frames = vae, frames
        self.sequences = find_sequences(latents.length_E, config)
        if not len(self.sequences.length_S):
            raise DataError(f"{latents.directory}: no episode of two steps or more to learn from")
        [latent_size], [action_size] = latents.columns["mu"].shape, latents.columns["action"].shape
        self.rnn = make_rnn(config, latent_size, action_size, seed, device)
        self.optimizer = Adam(self.rnn.parameters(), lr=config.lr)
        self.update = GradientStep(
            self.optimizer,
            self.loss,
            max_grad_norm=None,
            max_grad_value=config.max_grad_value,
            compile=False,  # each length of sequence would be a graph of its own
        )
        self.updates = 0

    @property
    def updates_per_epoch(self) -> int:
        return -(-len(self.sequences.length_S) // self.config.batch_size)

    def step(self) -> Metrics:
        """A block of minibatches."""
        outcomes = []
        config, total = self.config, self.progress()[1]
        final_lr = config.lr if config.final_lr is None else config.final_lr
        for _ in range(min(config.block_updates, total - self.updates)):
            self.optimizer.lr = between(config.lr, final_lr, self.updates / total)
            update = self.update(*self._minibatch())
            outcomes.append({f"rnn_{name}": value for name, value in update.items()})
            self.updates += 1
        return {**averaged(outcomes, "train"), "train/rnn_lr": self.optimizer.lr}

    def _minibatch(self) -> Minibatch:
        epoch, position = divmod(self.updates, self.updates_per_epoch)
        size = self.config.batch_size
        order_S = numpy_generator(self.seed, "memory", "order", epoch).permutation(
            len(self.sequences.length_S)
        )
        chosen_B = order_S[position * size : (position + 1) * size]
        generator = torch_generator(self.seed, "memory", "noise", self.updates)
        return self._padded(
            Sequences(*(array_S[chosen_B] for array_S in self.sequences)), generator
        )

    def _padded(self, sequences: Sequences, generator: torch.Generator) -> Minibatch:
        latents, most, size = self.latents, int(sequences.length_S.max()), len(sequences.length_S)
        mu_TBZ = np.zeros((most + 1, size, self.rnn.latent_size), np.float32)
        logvar_TBZ = np.zeros_like(mu_TBZ)
        action_TBA = np.zeros((most, size, self.rnn.action_size), np.float32)
        reward_TB, terminated_TB, is_step_TB, has_next_TB = np.zeros((4, most, size), np.float32)
        for b, (episode, first, length) in enumerate(np.stack(sequences, axis=1).tolist()):
            left = int(latents.length_E[episode]) - first
            known = min(length + 1, left)
            mu_TBZ[:known, b] = latents.span("mu", episode, first, known)
            logvar_TBZ[:known, b] = latents.span("logvar", episode, first, known)
            action_TBA[:length, b] = latents.span("action", episode, first, length)
            reward_TB[:length, b] = latents.span("reward", episode, first, length)
            is_step_TB[:length, b] = 1
            has_next_TB[: known - 1, b] = 1
            if length == left:
                terminated_TB[length - 1, b] = latents.terminated_E[episode]
        noise_TBZ = torch.randn(mu_TBZ.shape, generator=generator)
        arrays = (action_TBA, reward_TB, terminated_TB, is_step_TB, has_next_TB)
        tensors = (torch.from_numpy(mu_TBZ), torch.from_numpy(logvar_TBZ), noise_TBZ)
        return Minibatch(*(t.to(self.device) for t in (*tensors, *map(torch.from_numpy, arrays))))

    # ---------------------------------------------------------------- learning

    def loss(self, *minibatch: Tensor) -> tuple[Tensor, Named]:
        """The sum of means over steps, and each: NLL; if M has the heads, reward and done loss.

        The NLL is of the next latents, a mean over their dimensions; the latents are sampled anew
        in each minibatch, so that M does not learn to trust V's means.
        """
        batch = Minibatch(*minibatch)
        latent_TBZ = sample(batch.mu_TBZ, batch.logvar_TBZ, batch.noise_TBZ)
        h_TBH = self.rnn.remembered(latent_TBZ[:-1], batch.action_TBA)
        # From here on N steps without the padding: predictions cost as much as the LSTM.
        is_step_TB = batch.is_step_TB.bool()
        prediction = self.rnn.predict(h_TBH[is_step_TB])
        mixture = split_mixture(prediction.mixture, self.config.num_components)
        nll_N = mixture_nll(mixture, latent_TBZ[1:][is_step_TB]).mean(dim=-1)
        nll = weighted_mean(nll_N, batch.has_next_TB[is_step_TB])
        losses = {"nll": nll}
        if prediction.reward is not None:
            reward_N = batch.reward_TB[is_step_TB]
            losses["reward_error"] = functional.mse_loss(prediction.reward, reward_N)
        if prediction.done_logit is not None:
            losses["done_loss"] = functional.binary_cross_entropy_with_logits(
                prediction.done_logit,
                batch.terminated_TB[is_step_TB],
                pos_weight=nll.new_tensor(self.config.done_weight),
            )
        return torch.stack(list(losses.values())).sum(), losses

    # ---------------------------------------------------------------- for the loop

    def progress(self) -> tuple[int, int]:
        return self.updates, self.config.epochs * self.updates_per_epoch

    def counted(self) -> Counters:
        return Counters(updates=self.updates, offline_units=self.updates)

    def left(self) -> State:
        return {"network": module_state(self.rnn)}

    @torch.inference_mode()
    def report(self) -> Iterable[Report]:
        """What M predicts of the longest episode, and what it dreams of the same actions."""
        if self.vae is not None:
            yield Picture("memory/predictions", self._predictions(self.vae))
            yield Film("memory/dream", self._dream(self.vae), FRAMES_PER_SECOND)

    def _predictions(self, vae: VAE) -> np.ndarray:
        """Frames of an episode; below what V keeps of them, and what M expected."""
        episode = int(self.latents.length_E.argmax())
        mu_T1Z, action_T1A = self._episode(episode)
        prediction = self.rnn(mu_T1Z[:-1], action_T1A[:-1])
        mixture = split_mixture(prediction.mixture, self.config.num_components)
        shown = spread(SHOWN, len(mu_T1Z) - 1)
        rows = [decoded(vae, mu_T1Z[shown + 1, 0])]
        rows.append(decoded(vae, mixture_mean(mixture)[shown, 0]))
        if self.frames is not None and episode < self.frames.num_episodes:
            steps = self.frames.start_E[episode] + shown + 1
            rows.insert(0, self.frames.rows("frame", steps))
        return grid(np.stack(rows))

    def _dream(self, vae: VAE) -> np.ndarray:
        """An episode (V's view of it), and beside it what M dreams of the same actions."""
        mu_T1Z, action_T1A = self._episode(int(self.latents.length_E.argmax()))
        mu_T1Z = mu_T1Z[:DREAM_STEPS]
        generator = torch_generator(self.seed, "memory", "film", device=self.device)
        state, dreamt = self.rnn.initial(1), [mu_T1Z[0]]
        for action_1A in action_T1A[: len(mu_T1Z) - 1]:
            state = self.rnn.remember(dreamt[-1], action_1A, state)
            output = self.rnn.predict(state.h).mixture
            mixture = split_mixture(output, self.config.num_components)
            shape, device = mu_T1Z[0].shape, self.device
            uniform_1Z = torch.rand(shape, generator=generator, device=device)
            normal_1Z = torch.randn(shape, generator=generator, device=device)
            dreamt.append(sample_mixture(mixture, uniform_1Z, normal_1Z, temperature=1.0))
        sides = [decoded(vae, latent_T1Z[:, 0]) for latent_T1Z in (mu_T1Z, torch.stack(dreamt))]
        return np.concatenate(sides, axis=2)

    def _episode(self, index: int) -> tuple[Tensor, Tensor]:
        """mu [T, 1, Z] and actions [T, 1, A] of an episode."""
        columns = self.latents.episode(index)
        pair = (torch.from_numpy(columns[name].astype(np.float32)) for name in ("mu", "action"))
        mu_TZ, action_TA = (array.to(self.device) for array in pair)
        return mu_TZ.unsqueeze(1), action_TA.unsqueeze(1)

    def state(self) -> State:
        return {
            "updates": self.updates,
            "num_steps": self.latents.num_steps,
            "rnn": module_state(self.rnn),
            "optimizer": self.optimizer.state(),
        }

    def load(self, state: State) -> None:
        """Go on where `state` was taken; DataError if the latents or the sizes are others."""
        check_same_data(self.latents, state["num_steps"])
        load_module(self.rnn, state["rnn"])
        self.optimizer.load(state["optimizer"])
        self.updates = state["updates"]


def make_rnn(
    config: MemoryConfig, latent_size: int, action_size: int, seed: int, device: str = "cpu"
) -> MDNRNN:
    """A new M, as the phase `memory` begins with."""
    with torch_seed(seed, "memory", "network"):
        rnn = MDNRNN(
            latent_size,
            action_size,
            hidden_size=config.hidden_size,
            num_components=config.num_components,
            reward_head=config.reward_head,
            done_head=config.done_head,
        )
    return rnn.to(device)


def find_sequences(length_E: np.ndarray, config: MemoryConfig) -> Sequences:
    """Cut episodes evenly into as few sequences as `sequence_steps` allows.

    Nothing follows an episode's last step, so it is learnt from only where a head asks for it.
    """
    parts = []
    for episode, length in enumerate(length_E.tolist()):
        if length < 2:
            continue
        steps = length if config.reward_head or config.done_head else length - 1
        count = -(-steps // config.sequence_steps)
        cut = np.linspace(0, steps, count + 1).astype(np.int64)
        parts.append((np.full(count, episode), cut[:-1], np.diff(cut)))
    if not parts:
        return Sequences(*np.empty((3, 0), np.int64))
    return Sequences(*map(np.concatenate, zip(*parts, strict=True)))


def weighted_mean(value_N: Tensor, weight_N: Tensor) -> Tensor:
    assert value_N.shape == weight_N.shape, (value_N.shape, weight_N.shape)
    return (value_N * weight_N).sum() / weight_N.sum()
