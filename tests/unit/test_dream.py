"""Dreams: M's own predictions as an env, exact for given noise, a function of the seed alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlzoo.algos.world_models.dream import (
    BLOCK_STEPS,
    Beginnings,
    Dream,
    EpisodeNoise,
    normal,
    uniform,
)
from rlzoo.algos.world_models.models import MDNRNN, VAE, LSTMState, split_mixture
from rlzoo.core.seeding import numpy_generator, torch_seed
from rlzoo.core.types import NonFiniteError

Z, A, H, K = 3, 2, 5, 4
ACTIONS = spaces.Box(-1, 1, (A,), np.float32)


def memory(**heads: bool) -> MDNRNN:
    with torch_seed(0, "test"):
        rnn = MDNRNN(Z, A, hidden_size=H, num_components=K, **heads)
        for parameter in rnn.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return rnn


def beginnings() -> Beginnings:
    rng = np.random.default_rng(1)
    mu_NZ = rng.standard_normal((6, Z)).astype(np.float32)
    return Beginnings(mu_NZ, np.full((6, Z), -2, np.float32))


def dream(rnn: MDNRNN | None = None, **settings) -> Dream:
    settings = {"temperature": 1.15, "max_steps": 1000, **settings}
    return Dream(rnn or memory(), beginnings(), ACTIONS, **settings)


def actions(num_envs: int, steps: int) -> np.ndarray:
    rng = np.random.default_rng(2)
    return rng.uniform(-1, 1, (steps, num_envs, A)).astype(np.float32)


def reference(rnn: MDNRNN, seed: int, action_TA: np.ndarray, temperature: float) -> list:
    """One dream, step by step and dimension by dimension: [(z, reward, done logit)]."""
    start = numpy_generator(seed, "dream, beginning")
    mu_NZ, logvar_NZ = beginnings()
    n = start.integers(len(mu_NZ))
    z = mu_NZ[n] + np.exp(logvar_NZ[n] / 2) * start.standard_normal(Z, np.float32)
    state, seen = LSTMState(torch.zeros(1, H), torch.zeros(1, H)), [(z, 0.0, 0.0)]
    for t, action in enumerate(action_TA):
        block, at = divmod(t, BLOCK_STEPS)
        shape = (BLOCK_STEPS, Z)
        n_Z = numpy_generator(seed, "dream, normal", block).standard_normal(shape, np.float32)[at]
        u_Z = numpy_generator(seed, "dream, uniform", block).random(shape, np.float32)[at]
        state = rnn.remember(torch.from_numpy(z)[None], torch.from_numpy(action)[None], state)
        prediction = rnn.predict(state.h)
        mixture = [p[0].detach().numpy() for p in split_mixture(prediction.mixture, K)]
        z = np.empty(Z, np.float32)
        for d in range(Z):
            weight_K = np.exp(mixture[0][d] / temperature)
            edges = np.cumsum(weight_K / weight_K.sum())
            k = min(int(np.searchsorted(edges, u_Z[d])), K - 1)
            z[d] = mixture[1][d, k] + np.exp(mixture[2][d, k]) * np.sqrt(temperature) * n_Z[d]
        seen.append((z, float(prediction.reward[0]), float(prediction.done_logit[0])))
    return seen


@torch.no_grad()
def test_it_is_what_m_predicts_for_the_noise_of_the_seed():
    rnn = memory(reward_head=True, done_head=True)
    env, seeds, action_TBA = dream(rnn), [11, 12, 13, 14], actions(4, 40)
    env.reset(seeds)
    wanted = [reference(rnn, seed, action_TBA[:, b], 1.15) for b, seed in enumerate(seeds)]
    ended = 0
    for t in range(41):
        for b in np.flatnonzero(env.alive_B):
            np.testing.assert_allclose(env.obs_B[b, :Z], wanted[b][t][0], rtol=1e-4, atol=1e-4)
        if t == 40 or not env.alive_B.any():
            break
        before_B = env.alive_B.copy()
        step = env.step(action_TBA[t])
        for b in np.flatnonzero(before_B):
            _, reward, logit = wanted[b][t + 1]
            assert step.reward_B[b] == pytest.approx(reward, abs=1e-4)
            assert step.terminated_B[b] == (logit > 0)
            ended += int(logit > 0)
    assert ended, "no dream ended: the test did not see the done head"


def test_the_beginnings_are_those_of_real_episodes():
    env = dream()
    env.reset(range(300))
    distance_BN = np.abs(env.obs_B[:, None, :Z] - beginnings().mu_NZ).max(axis=2)
    assert distance_BN.min(axis=1).max() < 4 * np.exp(-1)
    assert len(set(distance_BN.argmin(axis=1))) == 6
    assert not env.obs_B[:, Z:].any()


def played(env: Dream, seeds: list[int], action_TBA: np.ndarray) -> np.ndarray:
    env.reset(seeds)
    return np.stack([env.step(action_BA).next_obs_B for action_BA in action_TBA])


def test_an_episode_depends_on_its_seed_alone():
    action_TBA = np.repeat(actions(1, 70), 5, axis=1)  # over two borders of blocks
    together = played(dream(), [1, 2, 3, 2, 9], action_TBA)
    np.testing.assert_array_equal(together[:, 1], together[:, 3])
    alone = played(dream(), [2], action_TBA[:, :1])
    np.testing.assert_allclose(together[:, 1], alone[:, 0], rtol=1e-4, atol=1e-4)
    assert not np.allclose(together[-1, 0], together[-1, 1])


def test_what_is_over_stays_and_costs_nothing():
    env = dream(max_steps=3)
    action_TBA = actions(3, 4)
    env.reset([1, 2, 3])
    env.step(action_TBA[0])
    env.alive_B[1] = False  # given up
    before = env.obs_B.copy()
    step = env.step(action_TBA[1])
    np.testing.assert_array_equal(env.obs_B[1], before[1])
    assert not np.array_equal(env.obs_B[[0, 2]], before[[0, 2]])
    assert step.reward_B.tolist() == [1, 0, 1]
    step = env.step(action_TBA[2])
    assert step.truncated_B.tolist() == [True, False, True]
    assert not step.terminated_B.any() and not env.alive_B.any()


def test_a_dream_that_ends_is_terminated_and_not_truncated():
    rnn = memory(done_head=True)
    torch.nn.init.constant_(rnn.head.bias, 5.0)
    torch.nn.init.zeros_(rnn.head.weight)
    env = dream(rnn, max_steps=1)
    env.reset([1, 2, 3, 4])
    step = env.step(actions(4, 1)[0])
    assert step.terminated_B.all() and not step.truncated_B.any()


def test_temperature_widens_the_dream():
    rnn = memory()
    torch.nn.init.zeros_(rnn.head.weight)
    torch.nn.init.zeros_(rnn.head.bias)  # a standard normal distribution
    for temperature in (0.25, 1.0, 4.0):
        env = dream(rnn, temperature=temperature)
        env.reset(range(2000))
        step = env.step(np.zeros((2000, A), np.float32))
        assert step.next_obs_B[:, :Z].std() == pytest.approx(temperature**0.5, rel=0.05)


def test_a_broken_m_is_noticed():
    rnn = memory()
    torch.nn.init.constant_(rnn.head.bias, float("nan"))
    env = dream(rnn)
    env.reset([1, 2, 3, 4])
    with pytest.raises(NonFiniteError, match="not finite"):
        env.step(actions(4, 1)[0])


def test_v_decodes_it():
    rnn, vae = MDNRNN(Z, A, hidden_size=H), VAE(Z)
    env = dream(rnn, vae=vae)
    env.reset([1, 2])
    frame_BHWC = env.render()
    assert frame_BHWC.shape == (2, 64, 64, 3) and frame_BHWC.dtype == np.uint8
    env.step(actions(2, 1)[0])
    assert not np.array_equal(env.render(), frame_BHWC)


# Noise -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("draw", "mean", "std"), [(normal, 0, 1), (uniform, 0.5, 12**-0.5)])
def test_noise_has_its_distribution(draw, mean, std):
    noise = EpisodeNoise(range(100), 8, "test", draw)
    rows = np.arange(100)
    numbers = np.stack([noise.at(rows, np.full(100, t)) for t in range(64)])
    assert numbers.mean() == pytest.approx(mean, abs=0.02)
    assert numbers.std() == pytest.approx(std, rel=0.02)
    flat = numbers.reshape(-1)
    assert abs(np.corrcoef(flat[:-8], flat[8:])[0, 1]) < 0.02  # neighbours in time


def test_noise_of_a_step_does_not_depend_on_what_was_asked_before():
    one, two = (EpisodeNoise([5, 6, 5], 2, "test", normal) for _ in range(2))
    for t in range(50):
        one.at(np.array([0, 1, 2]), np.array([t, t, t]))
    late = one.at(np.array([0, 1, 2]), np.array([50, 50, 50]))
    np.testing.assert_array_equal(two.at(np.array([1, 2]), np.array([50, 50])), late[1:])
    np.testing.assert_array_equal(late[0], late[2])  # the same seed
    assert not np.array_equal(late[0], late[1])
