"""The 64x64 pictures that World Models looks at (Ha and Schmidhuber, 2018)."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate

SIZE = 64
# Height and width of a frame -> its first rows that are kept: CarRacing without the dashboard, Doom
# (at any resolution) without the status bar.
SHOWN_ROWS = {(96, 96): 84, (120, 160): 100, (240, 320): 200, (480, 640): 400}


def frames64(obs_BHWC: np.ndarray, *, invert: bool = False) -> np.ndarray:
    """Frames of CarRacing or Doom without their lower edge, shrunk: uint8 [B, 64, 64, 3].

    Bilinear with a triangle as wide as the shrinking (anti-aliased), as in the original code, whose
    `imresize` was Pillow's; equal to that up to one grey level. `invert` takes 255 minus
    everything, as the original also did. The input is uint8 [B, H, W, 3], with H and W one of
    `SHOWN_ROWS`.
    """
    rows = SHOWN_ROWS[obs_BHWC.shape[1:3]]
    shown = torch.from_numpy(obs_BHWC)[:, :rows].permute(0, 3, 1, 2)
    small = interpolate(shown, (SIZE, SIZE), mode="bilinear", antialias=True)
    frames = small.permute(0, 2, 3, 1).contiguous().numpy()
    return np.invert(frames, out=frames) if invert else frames
