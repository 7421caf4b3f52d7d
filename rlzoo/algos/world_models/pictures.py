"""Pictures for TensorBoard. Shapes: R rows, C columns of pictures [H, W, 3] uint8."""

from __future__ import annotations

import numpy as np
import torch

from rlzoo.algos.world_models.models import VAE, as_frames

LINE = 1  # pixels around each picture
GREY = 128


def grid(picture_RCHWC: np.ndarray) -> np.ndarray:
    """R x C pictures as a single one, with thin lines between them."""
    around = ((0, 0), (0, 0), (LINE, LINE), (LINE, LINE), (0, 0))
    framed_RCHWC = np.pad(picture_RCHWC, around, constant_values=GREY)
    rows, columns, height, width, colours = framed_RCHWC.shape
    return framed_RCHWC.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, colours)


def spread(count: int, num_steps: int) -> np.ndarray:
    """So many steps (or all, if there are fewer), evenly spread over a number of them."""
    return np.linspace(0, num_steps - 1, min(count, num_steps)).astype(np.int64)


def decoded(vae: VAE, latent: torch.Tensor) -> np.ndarray:
    """Frames [..., H, W, 3] of latents [..., Z]."""
    device = next(vae.parameters()).device
    image_BHWC = vae.decode(latent.reshape(-1, latent.shape[-1]).to(device))
    frame_BHWC = as_frames(image_BHWC).cpu().numpy()
    return frame_BHWC.reshape(*latent.shape[:-1], *frame_BHWC.shape[1:])
