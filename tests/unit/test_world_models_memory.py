"""The phase `memory` of World Models: sequences, their masks, and the loss step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from world_models_parts import (
    check_equal,
    finish,
    latents_store,
    memory,
    pictures_store,
    saved,
    shown,
)

from rlzoo.algos.world_models.memory import (
    MemoryConfig,
    MemoryPhase,
    Minibatch,
    Sequences,
    find_sequences,
)
from rlzoo.algos.world_models.models import mixture_nll, split_mixture
from rlzoo.algos.world_models.vision import EncodeConfig, EncodePhase, VisionConfig, make_vae
from rlzoo.core.types import DataError, NonFiniteError


def sequences(episode_S: list[int], first_S: list[int], length_S: list[int]) -> Sequences:
    return Sequences(*map(np.array, (episode_S, first_S, length_S)))


TWO = sequences([0, 1], [0, 0], [9, 2])  # episodes 0 and 1, whole


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("sequence_steps", [2, 3, 5, 100])
def test_sequences_cover_every_step_once(sequence_steps: int, heads: bool) -> None:
    length_E = np.array([9, 2, 1, 6, 12, 3])
    config = MemoryConfig(sequence_steps=sequence_steps, reward_head=heads)
    found = find_sequences(length_E, config)
    covered = [
        (episode, step)
        for episode, first, length in zip(*map(np.ndarray.tolist, found), strict=True)
        for step in range(first, first + length)
    ]
    steps = [n if heads else n - 1 for n in length_E]
    assert covered == [(e, t) for e, n in enumerate(steps) for t in range(n) if length_E[e] > 1]
    assert found.length_S.max() <= sequence_steps
    for episode in set(found.episode_S.tolist()):
        lengths = found.length_S[found.episode_S == episode]
        assert lengths.max() - lengths.min() <= 1


def test_a_minibatch_is_padded_and_masked(tmp_path: Path) -> None:
    """Episodes 0 (9 steps, terminated) and 1 (2 steps, cut off), whole."""
    phase = memory(tmp_path, sequence_steps=100)
    batch = phase._padded(TWO, torch.Generator())
    first, second = phase.latents.episode(0), phase.latents.episode(1)
    np.testing.assert_array_equal(batch.mu_TBZ[:9, 0], first["mu"])
    np.testing.assert_array_equal(batch.logvar_TBZ[:2, 1], second["logvar"])
    np.testing.assert_array_equal(batch.action_TBA[:2, 1], second["action"])
    np.testing.assert_array_equal(batch.reward_TB[:9, 0], first["reward"])
    assert batch.mu_TBZ.shape == batch.noise_TBZ.shape == (10, 2, 4)
    assert batch.is_step_TB.T.tolist() == [[1.0] * 9, [1.0] * 2 + [0.0] * 7]
    assert batch.has_next_TB.T.tolist() == [[1.0] * 8 + [0.0], [1.0] + [0.0] * 8]
    assert batch.terminated_TB.T.tolist() == [[0.0] * 8 + [1.0], [0.0] * 9]


def test_memory_stops_before_nan_reaches_its_parameters(tmp_path: Path) -> None:
    phase = memory(tmp_path, done_head=True)
    object.__setattr__(phase.config, "done_weight", math.nan)
    before = saved(phase)
    with pytest.raises(NonFiniteError, match=r"^loss is not finite"):
        phase.step()
    check_equal(saved(phase), before)


def test_parts_of_an_episode_know_what_follows(tmp_path: Path) -> None:
    """Steps 2 to 4 of episode 0: the next latents are those of step 5; the end is elsewhere."""
    phase = memory(tmp_path)
    batch = phase._padded(sequences([0], [2], [3]), torch.Generator())
    np.testing.assert_array_equal(batch.mu_TBZ[:, 0], phase.latents.episode(0)["mu"][2:6])
    assert batch.has_next_TB.tolist() == [[1.0]] * 3 and not batch.terminated_TB.any()


def by_hand(phase: MemoryPhase, batch: Minibatch) -> list[float]:
    """NLL, squared reward error and done loss of a minibatch, step by step."""
    nll, reward_error, done_loss = [], [], []
    std_TBZ = (batch.logvar_TBZ / 2).exp()
    z_TBZ = batch.mu_TBZ + std_TBZ * batch.noise_TBZ
    for b in range(z_TBZ.shape[1]):
        memory = phase.rnn.initial(1)
        for t in range(int(batch.is_step_TB[:, b].sum())):
            memory = phase.rnn.remember(z_TBZ[t, b : b + 1], batch.action_TBA[t, b : b + 1], memory)
            prediction = phase.rnn.predict(memory.h)
            if batch.has_next_TB[t, b]:
                mixture = split_mixture(prediction.mixture, 2)
                nll += mixture_nll(mixture, z_TBZ[t + 1, b : b + 1]).flatten().tolist()
            error = prediction.reward.item() - batch.reward_TB[t, b].item()
            reward_error.append(error**2)
            p = 1 / (1 + math.exp(-prediction.done_logit.item()))
            is_end = bool(batch.terminated_TB[t, b])
            done_loss.append(-10 * math.log(p) if is_end else -math.log(1 - p))
    return [float(np.mean(values)) for values in (nll, reward_error, done_loss)]


@torch.no_grad()
def test_the_loss_is_that_of_a_plain_loop(tmp_path: Path) -> None:
    phase = memory(tmp_path, sequence_steps=100)
    batch = phase._padded(TWO, torch.Generator().manual_seed(1))
    total, parts = phase.loss(*batch)
    expected = by_hand(phase, batch)
    assert list(parts) == ["nll", "reward_error", "done_loss"]
    assert [part.item() for part in parts.values()] == pytest.approx(expected, rel=1e-5)
    assert total.item() == pytest.approx(sum(expected), rel=1e-5)


PLANTED: dict[str, Callable[[Minibatch], Minibatch]] = {
    "mu instead of z": lambda batch: batch._replace(noise_TBZ=torch.zeros_like(batch.noise_TBZ)),
    "padding learnt from": lambda batch: batch._replace(
        is_step_TB=torch.ones_like(batch.is_step_TB), has_next_TB=torch.ones_like(batch.has_next_TB)
    ),
    "an end that is not weighted": lambda batch: batch._replace(
        terminated_TB=torch.zeros_like(batch.terminated_TB)
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
@torch.no_grad()
def test_known_faults_give_another_loss(tmp_path: Path, fault: str) -> None:
    phase = memory(tmp_path, sequence_steps=100)
    batch = phase._padded(TWO, torch.Generator().manual_seed(1))
    expected = sum(by_hand(phase, batch))
    assert phase.loss(*PLANTED[fault](batch))[0].item() != pytest.approx(expected, rel=1e-3)


@torch.no_grad()
def test_padding_has_no_influence(tmp_path: Path) -> None:
    phase = memory(tmp_path, sequence_steps=100)
    batch = phase._padded(TWO, torch.Generator().manual_seed(1))
    before = phase.loss(*batch)
    for array in (batch.mu_TBZ, batch.noise_TBZ, batch.action_TBA, batch.reward_TB):
        array[2:, 1] = 7.0
    torch.testing.assert_close(phase.loss(*batch), before, rtol=0, atol=0)


def test_latents_are_drawn_anew_for_each_minibatch(tmp_path: Path) -> None:
    phase = memory(tmp_path, batch_size=100)  # all sequences in one
    noises = []
    for _ in range(2):
        batch = phase._minibatch()
        noises.append(batch.noise_TBZ)
        phase.updates += 1
    assert noises[0].shape == noises[1].shape and not torch.equal(*noises)


def test_each_epoch_learns_from_each_sequence_once(tmp_path: Path) -> None:
    phase = memory(tmp_path)
    epochs = []
    for _ in range(2):
        batches = []
        for _ in range(phase.updates_per_epoch):
            batches.append(phase._minibatch().reward_TB[0])  # first rewards tell them apart
            phase.updates += 1
        epochs.append(torch.cat(batches).tolist())
    episodes = [phase.latents.episode(e)["reward"] for e in range(5)]
    starts = zip(phase.sequences.episode_S, phase.sequences.first_S, strict=True)
    expected = sorted(float(episodes[e][t]) for e, t in starts)
    assert [sorted(epoch) for epoch in epochs] == [expected] * 2
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(("most", "is_clipped"), [(1e-3, True), (1e3, False)])
def test_each_element_of_the_gradient_is_clipped(
    tmp_path: Path, most: float, is_clipped: bool
) -> None:
    phase = memory(tmp_path, max_grad_value=most)
    largest = []
    step = phase.optimizer.step

    def spy(gradient: torch.Tensor) -> None:
        largest.append(gradient.abs().max().item())
        step(gradient)

    phase.optimizer.step = spy  # type: ignore[method-assign]
    finish(phase)
    assert (max(largest) == pytest.approx(most)) == is_clipped
    assert max(largest) > 0.9e-3


def test_the_rate_falls_if_it_shall(tmp_path: Path) -> None:
    rates = [row["train/rnn_lr"] for row in finish(memory(tmp_path, block_updates=1))]
    assert set(rates) == {1e-3}
    falling = memory(tmp_path, block_updates=1, final_lr=1e-5)
    rates = [row["train/rnn_lr"] for row in finish(falling)]
    assert rates == pytest.approx(np.linspace(1e-3, 1e-5, len(rates) + 1)[:-1].tolist())


def test_metrics_are_those_of_the_heads(tmp_path: Path) -> None:
    both = memory(tmp_path).step().keys()
    bare = memory(tmp_path, reward_head=False, done_head=False).step().keys()
    assert both - bare == {"train/rnn_reward_error", "train/rnn_done_loss"}
    assert bare == {f"train/rnn_{name}" for name in ("loss", "grad_norm", "nll", "lr")}


def test_memory_shows_what_it_expects_and_dreams(tmp_path: Path) -> None:
    frames = pictures_store(tmp_path / "frames")
    vae = make_vae(VisionConfig(latent_size=4), seed=0)
    encode_phase = EncodePhase(EncodeConfig(), frames=frames, vae=vae, directory=tmp_path / "l")
    finish(encode_phase)
    config = MemoryConfig(hidden_size=8)
    latents = encode_phase.latents
    phase = MemoryPhase(config, seed=0, latents=latents, vae=vae, frames=frames)
    before = saved(phase)
    picture = shown(phase)["memory/predictions"]
    assert picture.shape == (3 * 66, 4 * 66, 3)  # the longest episode has four next frames
    np.testing.assert_array_equal(picture[1:65, 1:65], frames.episode(0)["frame"][1])
    film_THWC = shown(phase)["memory/dream"]
    assert film_THWC.shape == (5, 64, 128, 3) and film_THWC.dtype == np.uint8
    np.testing.assert_array_equal(film_THWC[0, :, :64], film_THWC[0, :, 64:])
    assert (film_THWC[1:, :, :64] != film_THWC[1:, :, 64:]).any()
    np.testing.assert_array_equal(shown(phase)["memory/dream"], film_THWC)
    check_equal(saved(phase), before)
    blind = MemoryPhase(config, seed=0, latents=latents)
    assert shown(blind) == {}
    without_frames = MemoryPhase(config, seed=0, latents=latents, vae=vae)
    assert shown(without_frames)["memory/predictions"].shape == (2 * 66, 4 * 66, 3)


def test_latents_that_cannot_be_learnt_from_are_one_line(tmp_path: Path) -> None:
    latents = latents_store(tmp_path, lengths=(1, 1))
    with pytest.raises(DataError, match=r"no episode of two steps or more to learn from$"):
        MemoryPhase(MemoryConfig(), seed=0, latents=latents)


def test_states_of_other_latents_or_sizes_are_refused(tmp_path: Path) -> None:
    state = saved(memory(tmp_path))
    with pytest.raises(DataError, match="has 30 steps, expected 29 as before"):
        memory(tmp_path).load(state | {"num_steps": 29})
    with pytest.raises(DataError, match=r"network state: .*, expected"):
        memory(tmp_path, hidden_size=9).load(state)
