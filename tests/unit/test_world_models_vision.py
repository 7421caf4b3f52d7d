"""The phases `vision` and `encode` of World Models."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from world_models_parts import (
    ABOUT,
    check_equal,
    encoding,
    finish,
    latents_store,
    pictures_store,
    saved,
    shown,
    vision,
)

from rlzoo.algos.world_models.frame_store import FrameStore
from rlzoo.algos.world_models.vision import (
    EncodeConfig,
    EncodePhase,
    VisionConfig,
    VisionPhase,
    fingerprint,
    make_vae,
)
from rlzoo.core.types import DataError, NonFiniteError


def test_each_epoch_sees_each_frame_once_in_a_new_order(tmp_path: Path) -> None:
    phase = vision(tmp_path)
    seen, noises = [], []
    frame_NHWC = phase.frames.rows("frame", np.arange(12))
    update = phase.update

    def spy(frame_BHWC: Tensor, noise_BZ: Tensor) -> Any:
        same_BN = (frame_BHWC.numpy()[:, None] == frame_NHWC).all(axis=(2, 3, 4))
        seen.append(same_BN.argmax(axis=1).tolist())
        noises.append(noise_BZ)
        return update(frame_BHWC, noise_BZ)

    phase.update = spy
    finish(phase)
    epochs = [[*itertools.chain(*seen[:3])], [*itertools.chain(*seen[3:])]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 2
    assert epochs[0] != epochs[1] and epochs[0] != list(range(12))
    assert len({tuple(noise.flatten().tolist()) for noise in noises}) == len(noises) == 6


def test_the_rate_falls_if_it_shall(tmp_path: Path) -> None:
    rates = [row["train/vae_lr"] for row in finish(vision(tmp_path, block_updates=1))]
    assert set(rates) == {1e-4}
    rows = finish(vision(tmp_path, block_updates=1, final_lr=1e-6))
    rates = [row["train/vae_lr"] for row in rows]
    assert rates == pytest.approx(np.linspace(1e-4, 1e-6, len(rates) + 1)[:-1].tolist())


def test_vision_reports_the_parts_of_its_loss(tmp_path: Path) -> None:
    [metrics, *_] = finish(vision(tmp_path, block_updates=1, free_nats=0.0))
    parts = metrics["train/vae_reconstruction_error"] + metrics["train/vae_kl"]
    assert metrics["train/vae_loss"] == pytest.approx(parts, rel=1e-5)
    [metrics, *_] = finish(vision(tmp_path, block_updates=1, free_nats=50.0))
    floored = metrics["train/vae_reconstruction_error"] + 50.0 * 4
    assert metrics["train/vae_loss"] == pytest.approx(floored, rel=1e-5)


def test_vision_stops_before_nan_reaches_its_parameters(tmp_path: Path) -> None:
    phase = vision(tmp_path)
    object.__setattr__(phase.config, "free_nats", math.nan)
    before = saved(phase)
    with pytest.raises(NonFiniteError, match=r"^loss is not finite"):
        phase.step()
    check_equal(saved(phase), before)


def test_vision_shows_pictures(tmp_path: Path) -> None:
    phase = vision(tmp_path)
    assert shown(phase).keys() == {"vision/reconstructions", "vision/samples"}
    finish(phase)
    images = shown(phase)
    shapes = {name: picture.shape for name, picture in images.items()}
    assert shapes == {
        "vision/reconstructions": (2 * 66, 10 * 66, 3),
        "vision/latent_walk": (4 * 66, 7 * 66, 3),
        "vision/samples": (4 * 66, 10 * 66, 3),
    }
    original_HWC = phase.frames.rows("frame", np.array([0]))[0]
    np.testing.assert_array_equal(images["vision/reconstructions"][1:65, 1:65], original_HWC)
    walk = images["vision/latent_walk"].reshape(4, 66, 7, 66, 3).swapaxes(1, 2)
    assert (walk[:, 0] != walk[:, -1]).any(axis=(1, 2, 3)).all(), "a row moves its dimension"
    before = saved(phase)
    assert np.array_equal(shown(phase)["vision/samples"], images["vision/samples"])
    check_equal(saved(phase), before)


def test_frames_that_cannot_be_learnt_from_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"12 frames, expected at least a minibatch of 13$"):
        vision(tmp_path, batch_size=13)
    with pytest.raises(DataError, match="frames are None, expected Column"):
        VisionPhase(VisionConfig(), seed=0, frames=latents_store(tmp_path / "latents"))


def test_states_of_other_frames_or_sizes_are_refused(tmp_path: Path) -> None:
    state = saved(vision(tmp_path))
    with pytest.raises(DataError, match="has 12 steps, expected 11 as before"):
        vision(tmp_path).load(state | {"num_frames": 11})
    with pytest.raises(DataError, match=r"network state: mu\.weight is .*, expected .*8, 1024"):
        vision(tmp_path, latent_size=8).load(state)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 1e-3)])
def test_latents_are_what_v_sees(tmp_path: Path, dtype: Any, tolerance: float) -> None:
    frames, vae = pictures_store(tmp_path / "frames"), make_vae(VisionConfig(), seed=0)
    with torch.no_grad():
        vae.mu.weight[:8] *= 100  # one that has learnt: these carry something, the others nothing
    config = EncodeConfig(dtype=dtype, batch_size=2)
    phase = EncodePhase(config, frames=frames, vae=vae, directory=tmp_path / "latents")
    assert shown(phase) == {}, "nothing to show yet"
    metrics = phase.step()
    finish(phase)
    latents = FrameStore.open(tmp_path / "latents", about={**ABOUT, "latent_size": 32})
    assert latents.length_E.tolist() == [5, 4, 3]
    assert latents.terminated_E.tolist() == [False, True, False]
    for index in range(3):
        source, got = frames.episode(index), latents.episode(index)
        with torch.no_grad():
            mu_TZ, logvar_TZ = vae.encode(torch.from_numpy(source["frame"].copy()))
        if index == 0:  # the longest: six rows of pixels for each dimension, grey is 0
            [picture] = shown(phase).values()
            assert picture.shape == (6 * 32, 5, 3) and picture.dtype == np.uint8
            shown_TZ = mu_TZ.clip(-2, 127 / 64)
            brightness_ZT = picture[::6, :, 0].astype(np.float32)
            np.testing.assert_allclose((brightness_ZT.T - 128) / 64, shown_TZ, atol=0.03)
            np.testing.assert_array_equal(picture[5::6], picture[::6])
            assert metrics == {"train/active_latents": 8}
        for name, expected in (("mu", mu_TZ), ("logvar", logvar_TZ)):
            assert got[name].dtype == dtype
            np.testing.assert_allclose(got[name], expected, rtol=tolerance, atol=tolerance)
        for name in ("action", "reward"):
            np.testing.assert_array_equal(got[name], source[name])


def test_latents_of_another_v_are_not_continued(tmp_path: Path) -> None:
    phase = encoding(tmp_path, seed=0)
    phase.step()
    other = encoding(tmp_path, seed=1)
    assert fingerprint(phase.vae) != fingerprint(other.vae)
    with pytest.raises(DataError, match=r"latents: vae is '\w{16}', expected '\w{16}'"):
        other.load(saved(phase))


def test_earlier_latents_of_the_same_v_come_after_the_new_ones(tmp_path: Path) -> None:
    finish(encoding(tmp_path, seed=0))
    old = FrameStore.open(tmp_path / "latents")
    later = tmp_path / "later"
    pictures_store(later / "frames", lengths=(2, 6))
    phase, stopped = (encoding(later, seed=0, earlier=old) for _ in range(2))
    for _ in range(4):  # stopped between two of the earlier episodes
        stopped.step()
    phase.load(saved(stopped))
    assert phase.progress() == (4, 5)
    finish(phase)
    both = FrameStore.open(later / "latents")
    assert both.length_E.tolist() == [2, 6, 5, 4, 3]
    assert both.terminated_E.tolist() == [False, True, False, True, False]
    for index in range(3):
        check_equal(both.episode(2 + index), old.episode(index))
    with pytest.raises(DataError, match=r"made with .*, expected .*'vae': "):
        encoding(tmp_path / "other", seed=1, earlier=old)
