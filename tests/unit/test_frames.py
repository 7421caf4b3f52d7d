"""The 64x64 pictures: weights worked out by hand, and Pillow's, which the original code used."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from rlzoo.envs.zoo.frames import SHOWN_ROWS, frames64

RNG = np.random.default_rng(0)


def black(height: int = 96, width: int = 96) -> np.ndarray:
    return np.zeros((1, height, width, 3), dtype=np.uint8)


def test_rows_of_car_racing() -> None:
    """84 rows become 64: a row is a triangle of half width 84/64, seen at row centres."""
    obs = black()
    obs[:, 21] = 228
    # Distances 37/42, 5/42 of the half width from the centres of rows 16, 15; weights sum to 57/42.
    shown = frames64(obs)[0, :, 7, 1]
    assert {j: int(v) for j, v in enumerate(shown) if v} == {15: 20, 16: 148}
    obs = black()
    obs[:, 0], obs[:, 1] = 100, 200
    assert frames64(obs)[0, 0, 0, 0] == 129  # (37 * 100 + 15 * 200) / 52


def test_columns_of_car_racing() -> None:
    obs = black()
    obs[:, :, 48] = 90
    shown = frames64(obs)[0, 7, :, 2]
    assert {j: int(v) for j, v in enumerate(shown) if v} == {31: 10, 32: 50}
    obs = black()
    obs[:, :, 0] = 160
    assert frames64(obs)[0, 0, 0, 0] == 100  # 5/8, at the edge


def test_columns_of_doom() -> None:
    obs = black(240, 320)
    obs[:, :, 7] = 250
    obs[:, :, 19] = 250
    shown = frames64(obs)[0, 0, :, 0]
    assert {j: int(v) for j, v in enumerate(shown) if v} == {1: 50, 3: 30, 4: 20}


@pytest.mark.parametrize(("size", "rows"), SHOWN_ROWS.items())
def test_they_are_pillows_up_to_one_grey_level(size: tuple[int, int], rows: int) -> None:
    obs_B = RNG.integers(0, 256, (3, *size, 3)).astype(np.uint8)
    frames_B = frames64(obs_B)
    assert frames_B.shape == (3, 64, 64, 3) and frames_B.dtype == np.uint8
    assert frames_B.flags.c_contiguous and frames_B.flags.writeable
    shown_B = [Image.fromarray(obs[:rows]) for obs in obs_B]
    pillow_B = np.stack(
        [np.asarray(i.resize((64, 64), Image.Resampling.BILINEAR)) for i in shown_B]
    )
    assert np.abs(frames_B.astype(int) - pillow_B).max() <= 1
    assert rows * 6 >= size[0] * 5  # at most a sixth is hidden


def test_the_dashboard_does_not_matter_and_one_colour_stays_one() -> None:
    obs_B = RNG.integers(0, 256, (2, 96, 96, 3)).astype(np.uint8)
    other_B = obs_B.copy()
    other_B[:, 84:] = 255 - other_B[:, 84:]
    assert (frames64(obs_B) == frames64(other_B)).all()
    other_B[:, 83] = 255 - other_B[:, 83]
    assert (frames64(obs_B) != frames64(other_B)).any()
    plain = np.full((1, 240, 320, 3), (10, 101, 255), dtype=np.uint8)
    assert (frames64(plain) == (10, 101, 255)).all()


def test_inversion() -> None:
    obs_B = RNG.integers(0, 256, (2, 96, 96, 3)).astype(np.uint8)
    assert (frames64(obs_B, invert=True) == 255 - frames64(obs_B)).all()


def test_a_frame_does_not_depend_on_its_batch() -> None:
    obs_B = RNG.integers(0, 256, (5, 96, 96, 3)).astype(np.uint8)
    one_by_one = np.concatenate([frames64(obs[None]) for obs in obs_B])
    assert (frames64(obs_B) == one_by_one).all()
