"""V, the vision: a VAE learns to see (phase `vision`), then looks at all frames (phase `encode`).

Ha & Schmidhuber 2018, section 2.2 and appendix A.1. Shape suffixes: B batch, Z latent dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from rlzoo.algos.world_models.frame_store import Column, FrameStore
from rlzoo.algos.world_models.models import FRAME_SIZE, VAE, as_images, has_bf16, vae_loss
from rlzoo.algos.world_models.phases import Phase
from rlzoo.algos.world_models.pictures import GREY, decoded, grid, spread
from rlzoo.core.algorithm import Picture, Report
from rlzoo.core.parts import load_module, module_state
from rlzoo.core.seeding import numpy_generator, torch_generator, torch_seed
from rlzoo.core.settings import between, setting
from rlzoo.core.types import Counters, DataError, Metrics, State
from rlzoo.nets.adam import Adam
from rlzoo.nets.update import GradientStep, Named, averaged

SHOWN = 10  # frames in a picture of reconstructions
WALK = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # standard deviations of the prior
ACTIVE_VARIANCE = 0.01
BAND_PIXELS = 6  # height of a dimension in the picture of latents
MAX_BEGINNINGS = 1000  # of dreams


@dataclass(frozen=True)
class VisionConfig:
    """Defaults as in the original's code (github.com/hardmaru/WorldModelsExperiments)."""

    latent_size: int = setting(32, "latent dimensions (TakeCover: 64)", low=1, fixed=True)
    epochs: int = setting(10, "times that each frame is learnt from (the paper: 1)", low=1)
    batch_size: int = setting(100, "frames in a minibatch", low=1)
    lr: float = setting(1e-4, "Adam's learning rate", above=0)
    final_lr: float | None = setting(None, "the rate falls linearly to this (null: stays)", low=0)
    free_nats: float = setting(
        0.5, "KL that costs nothing, in nats for each latent dimension (kl_tolerance)", low=0
    )
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "what the layers compute in; auto: bfloat16 where the processor has it"
    )
    block_updates: int = setting(10, "minibatches between two safe points", low=1)


class VisionPhase(Phase):
    """Trains `vae` on the frames of a store."""

    name: ClassVar = "vision"
    unit: ClassVar = "minibatches"
    length: ClassVar = "vision.epochs"

    def __init__(
        self,
        config: VisionConfig,
        *,
        seed: int,
        frames: FrameStore,
        device: str = "cpu",
        compile: bool = False,
    ) -> None:
        check_frames(frames)
        if frames.num_steps < config.batch_size:
            raise DataError(
                f"{frames.directory}: {frames.num_steps} frames, expected at least a minibatch of "
                f"{config.batch_size}"
            )
        self.config, self.seed, self.frames, self.device = config, seed, frames, device
        self.vae = make_vae(config, seed, device)
        self.optimizer = Adam(self.vae.parameters(), lr=config.lr)
        self.update = GradientStep(self.optimizer, self.loss, max_grad_norm=None, compile=compile)
        self.updates = 0
        self._epoch, self._order = -1, np.empty(0, np.uint32)

    @property
    def updates_per_epoch(self) -> int:
        return self.frames.num_steps // self.config.batch_size

    def step(self) -> Metrics:
        """A block of minibatches."""
        outcomes = []
        config, total = self.config, self.progress()[1]
        final_lr = config.lr if config.final_lr is None else config.final_lr
        for _ in range(min(config.block_updates, total - self.updates)):
            self.optimizer.lr = between(config.lr, final_lr, self.updates / total)
            update = self.update(*self._minibatch())
            outcomes.append({f"vae_{name}": value for name, value in update.items()})
            self.updates += 1
        return {**averaged(outcomes, "train"), "train/vae_lr": self.optimizer.lr}

    def _minibatch(self) -> tuple[Tensor, Tensor]:
        """Frames in an order that is new in each epoch, and noise."""
        epoch, position = divmod(self.updates, self.updates_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.arange(self.frames.num_steps, dtype=np.uint32)
            numpy_generator(self.seed, "vision", "order", epoch).shuffle(self._order)
        size = self.config.batch_size
        step_B = self._order[position * size : (position + 1) * size].astype(np.int64)
        frame_BHWC = torch.from_numpy(self.frames.rows("frame", step_B))
        # A generator for each minibatch: then the count of minibatches is all there is to resume.
        generator = torch_generator(self.seed, "vision", "noise", self.updates)
        noise_BZ = torch.randn(size, self.config.latent_size, generator=generator)
        return frame_BHWC.to(self.device), noise_BZ.to(self.device)

    def loss(self, frame_BHWC: Tensor, noise_BZ: Tensor) -> tuple[Tensor, Named]:
        reconstruction_BHWC, mu_BZ, logvar_BZ = self.vae(frame_BHWC, noise_BZ)
        return vae_loss(
            reconstruction_BHWC,
            as_images(frame_BHWC),
            mu_BZ,
            logvar_BZ,
            free_nats=self.config.free_nats,
        )

    def progress(self) -> tuple[int, int]:
        return self.updates, self.config.epochs * self.updates_per_epoch

    def counted(self) -> Counters:
        return Counters(updates=self.updates, offline_units=self.updates)

    def left(self) -> State:
        return {"network": module_state(self.vae)}

    @torch.inference_mode()
    def report(self) -> Iterable[Report]:
        """Reconstructions below originals and samples; at the end a walk along each dimension.

        That one is as large as the others of a whole run together.
        """
        frame_BHWC = self.frames.rows("frame", spread(SHOWN, self.frames.num_steps))
        mu_BZ, _ = self.vae.encode(torch.from_numpy(frame_BHWC).to(self.device))
        generator = torch_generator(self.seed, "vision", "samples")
        prior_BZ = torch.randn(4 * SHOWN, self.config.latent_size, generator=generator)
        rows = np.stack([frame_BHWC, decoded(self.vae, mu_BZ)])
        yield Picture("vision/reconstructions", grid(rows))
        samples_RCHWC = decoded(self.vae, prior_BZ.unflatten(0, (4, SHOWN)))
        yield Picture("vision/samples", grid(samples_RCHWC))
        if self.done():
            # Each row moves one dimension of the same frame over the prior's range.
            walk_ZCZ = mu_BZ[len(mu_BZ) // 2].repeat(mu_BZ.shape[1], len(WALK), 1)
            for dimension, row_CZ in enumerate(walk_ZCZ):
                row_CZ[:, dimension] = torch.tensor(WALK)
            yield Picture("vision/latent_walk", grid(decoded(self.vae, walk_ZCZ)))

    def state(self) -> State:
        return {
            "updates": self.updates,
            "num_frames": self.frames.num_steps,
            "vae": module_state(self.vae),
            "optimizer": self.optimizer.state(),
        }

    def load(self, state: State) -> None:
        """Go on where `state` was taken; DataError if the frames or the latents are others."""
        check_same_data(self.frames, state["num_frames"])
        load_module(self.vae, state["vae"])
        self.optimizer.load(state["optimizer"])
        self.updates = state["updates"]


@dataclass(frozen=True)
class EncodeConfig:
    dtype: Literal["float16", "float32"] = setting(
        "float16", "numbers of the latents on the disk (the original: float16)", fixed=True
    )
    batch_size: int = setting(500, "frames looked at in one call", low=1)


class EncodePhase(Phase):
    """Turns episodes of frames into episodes of latents: mu and logvar, actions and rewards.

    After them come the episodes of `earlier`, latents that the same V made of other frames.
    """

    name: ClassVar = "encode"
    unit: ClassVar = "episodes"
    length: ClassVar = ""  # all frames that there are

    def __init__(
        self,
        config: EncodeConfig,
        *,
        frames: FrameStore,
        vae: VAE,
        directory: str | Path,
        earlier: FrameStore | None = None,
    ) -> None:
        check_frames(frames)
        self.config, self.frames, self.vae, self.directory = config, frames, vae, Path(directory)
        self.about = {**frames.about, "latent_size": vae.latent_size, "vae": fingerprint(vae)}
        self.earlier = earlier
        if earlier is not None and earlier.about != self.about:
            raise DataError(
                f"{earlier.directory}: made with {earlier.about}, expected {self.about}"
            )
        self.latents: FrameStore | None = None  # from the first step on

    def step(self) -> Metrics:
        """Encode one episode, or take one over.

        The metric counts latents that carry something, as Burda et al. (2016) do: those whose means
        vary by more than 0.01 (a variance, here within the episode).
        """
        if self.latents is None:
            latent = Column(self.config.dtype, (self.vae.latent_size,))
            others = {name: self.frames.columns[name] for name in ("action", "reward")}
            columns = {"mu": latent, "logvar": latent, **others}
            self.latents = FrameStore.create(self.directory, columns, self.about)
        index = self.latents.num_episodes
        new = self.frames.num_episodes
        if index < new:
            episode, terminated = self.frames.episode(index), self.frames.terminated_E[index]
            mu_TZ, logvar_TZ = self._encoded(episode.pop("frame"))
        else:
            assert self.earlier is not None, "done"
            episode = self.earlier.episode(index - new)
            terminated = self.earlier.terminated_E[index - new]
            mu_TZ, logvar_TZ = (
                episode.pop(name).astype(self.config.dtype) for name in ("mu", "logvar")
            )
        columns_T = {"mu": mu_TZ, "logvar": logvar_TZ, **episode}
        self.latents.append_episode(columns_T, terminated=bool(terminated))
        active_Z = mu_TZ.astype(np.float32).var(axis=0) > ACTIVE_VARIANCE
        return {"train/active_latents": float(active_Z.sum())}

    @torch.inference_mode()
    def _encoded(self, frame_THWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        device = next(self.vae.parameters()).device
        pairs = []
        for start in range(0, len(frame_THWC), self.config.batch_size):
            batch_BHWC = frame_THWC[start : start + self.config.batch_size].copy()
            pairs.append(self.vae.encode(torch.from_numpy(batch_BHWC).to(device)))
        mu_TZ, logvar_TZ = (torch.cat(pieces).cpu().numpy() for pieces in zip(*pairs, strict=True))
        return mu_TZ.astype(self.config.dtype), logvar_TZ.astype(self.config.dtype)

    def progress(self) -> tuple[int, int]:
        earlier = self.earlier.num_episodes if self.earlier else 0
        done = self.latents.num_episodes if self.latents else 0
        return done, self.frames.num_episodes + earlier

    def counted(self) -> Counters:
        return Counters(offline_units=self.progress()[0])

    def left(self) -> State:
        """Also the first latents of episodes: what dreams begin with, wherever the store is."""
        assert self.latents is not None
        first = self.latents.start_E[:-1][:MAX_BEGINNINGS]
        mu_NZ, logvar_NZ = (
            self.latents.rows(name, first).astype(np.float32) for name in ("mu", "logvar")
        )
        return {"path": str(self.directory), "mu": mu_NZ, "logvar": logvar_NZ}

    def report(self) -> Iterable[Report]:
        """An episode's latents (means) from left to right, a band for each dimension.

        Grey is 0, black -2 and white 2. A band that stays grey carries nothing.
        """
        if self.latents is None or not self.latents.num_episodes:
            return
        mu_TZ = self.latents.episode(int(self.latents.length_E.argmax()))["mu"]
        grey_TZ = np.clip(GREY + mu_TZ.astype(np.float32) * GREY / 2, 0, 255).astype(np.uint8)
        band_HW = np.repeat(grey_TZ.T, BAND_PIXELS, axis=0)
        yield Picture("encode/latents", np.repeat(band_HW[:, :, None], 3, axis=2))

    def state(self) -> State:
        """How far it is; these latents are on the disk by then."""
        if self.latents is not None:
            self.latents.sync()
        return {"episodes": self.progress()[0]}

    def load(self, state: State) -> None:
        """Go on where `state` was taken; DataError if the latents are damaged or another VAE's."""
        self.latents = None
        if state["episodes"]:
            self.latents = FrameStore.open(
                self.directory, about=self.about, num_episodes=state["episodes"]
            )


def make_vae(config: VisionConfig, seed: int, device: str = "cpu") -> VAE:
    """A new V, as the phase `vision` begins with."""
    bf16 = has_bf16(device) if config.precision == "auto" else config.precision == "bfloat16"
    with torch_seed(seed, "vision", "network"):
        return VAE(config.latent_size, bf16=bf16).to(device)


def fingerprint(vae: VAE) -> str:
    """A short hash of V's parameters, to know its latents by."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in vae.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def check_frames(frames: FrameStore) -> None:
    """DataError unless V can look at the frames of a store."""
    got, expected = frames.columns.get("frame"), Column("|u1", (FRAME_SIZE, FRAME_SIZE, 3))
    if got != expected:
        raise DataError(f"{frames.directory}: frames are {got}, expected {expected}")


def check_same_data(store: FrameStore, num_steps: int) -> None:
    """DataError if a store is not as long as when training began."""
    if store.num_steps != num_steps:
        raise DataError(
            f"{store.directory}: has {store.num_steps} steps, expected {num_steps} as before"
        )
