"""The VAE of World Models: frames per second in training and encoding, against plain PyTorch.

    .venv/bin/python tools/bench/vae.py [--pairs 5] [--json FILE]

The same layers, loss, minibatches of 100 and Adam, with all cores. Our side reads its frames at
random places of a store on the disk, the other one has them in memory. In the tables an env step
is a frame.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import torch
from paired import Measurement, main
from torch import nn

from rlzoo.algos.world_models.frame_store import Column, FrameStore
from rlzoo.algos.world_models.models import VAE
from rlzoo.algos.world_models.vision import VisionConfig, VisionPhase

BATCH, WARM_UP, WORK = 100, 3, 20  # frames; minibatches
FRAMES = 4000
Precision = Literal["float32", "bfloat16"]


def pictures() -> np.ndarray:
    """Coarse random patterns, as compressible as a game's."""
    coarse = np.random.default_rng(0).integers(0, 256, (FRAMES, 16, 16, 3), np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


def measured(work: Callable[[], object]) -> Measurement:
    for _ in range(WARM_UP):
        work()
    start = time.perf_counter()
    for _ in range(WORK):
        work()
    return Measurement(WORK * BATCH, WORK, time.perf_counter() - start)


def ours(task: str, *, precision: Precision) -> Measurement:
    torch.set_num_threads(os.cpu_count() or 1)
    columns = {"frame": Column("uint8", (64, 64, 3))}
    config = VisionConfig(batch_size=BATCH, precision=precision, block_updates=1)
    with tempfile.TemporaryDirectory() as directory:
        store = FrameStore.create(directory, columns, {})
        for frame_BHWC in pictures().reshape(-1, BATCH, 64, 64, 3):
            store.append_episode({"frame": frame_BHWC}, terminated=False)
        phase = VisionPhase(config, seed=0, frames=store)
        if task == "train":
            return measured(phase.step)
        rng = np.random.default_rng(0)
        with torch.inference_mode():
            return measured(
                lambda: phase.vae.encode(
                    torch.from_numpy(store.rows("frame", rng.integers(FRAMES, size=BATCH)))
                )
            )


def plain(task: str) -> Measurement:
    """What one would write: [B, 3, H, W], torch.optim.Adam, a layer after the other."""
    torch.set_num_threads(os.cpu_count() or 1)
    vae = VAE()
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-4)
    decoder = nn.Sequential(vae.features, nn.Unflatten(1, (1024, 1, 1)), vae.first, vae.decoder)
    frames, rng = pictures(), np.random.default_rng(0)

    def batch() -> torch.Tensor:
        frame_BHWC = torch.from_numpy(frames[rng.integers(FRAMES, size=BATCH)])
        return frame_BHWC.permute(0, 3, 1, 2).float().contiguous() / 255

    def update() -> None:
        image = batch()
        features = vae.encoder(image)
        mu, logvar = vae.mu(features), vae.logvar(features)
        z = mu + torch.exp(logvar / 2) * torch.randn_like(mu)
        error = (torch.sigmoid(decoder(z)) - image).square().sum(dim=(1, 2, 3))
        kl = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(dim=1)
        loss = (error + kl.clamp(min=16)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.inference_mode()
    def look() -> None:
        features = vae.encoder(batch())
        vae.mu(features), vae.logvar(features)

    return measured(update if task == "train" else look)


SIDES = {
    "PyTorch float32": plain,
    "rlzoo float32": partial(ours, precision="float32"),
    "rlzoo bfloat16": partial(ours, precision="bfloat16"),
}

if __name__ == "__main__":
    title = "VAE of World Models, 64x64 frames, minibatches of 100, all cores"
    sys.exit(main(__file__, title, SIDES, ["train", "encode"], peer="PyTorch float32"))
