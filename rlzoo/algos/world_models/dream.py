"""Dreams: M as an environment (Ha & Schmidhuber 2018, section 4). No frame is ever seen in it.

Observations are features: latents z, and M's h and c after the steps so far, as [z | h | c]. Shape
suffixes: B dreams, R those of them that are stepped, N episodes to begin with, Z latents, A
actions, F features, T steps of a block, X numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlzoo.algos.world_models.models import (
    MDNRNN,
    VAE,
    LSTMState,
    as_frames,
    sample_mixture,
    split_mixture,
)
from rlzoo.core.seeding import numpy_generator
from rlzoo.core.types import NonFiniteError, Step

BLOCK_STEPS = 32  # random numbers are drawn for so many steps at once


class EpisodeNoise:
    """Random numbers [size] for each step of B episodes, each drawn from the episode's seed alone.

    So an episode is a function of its seed (and actions), wherever and beside whatever it is
    played. `draw(generator, shape)` draws float32 numbers.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        size: int,
        purpose: str,
        draw: Callable[[np.random.Generator, tuple[int, int]], np.ndarray],
    ) -> None:
        self._seeds, self._purpose, self._draw = list(map(int, seeds)), purpose, draw
        self._block_BTX = np.empty((len(seeds), BLOCK_STEPS, size), np.float32)
        self._block_B = np.full(len(seeds), -1)  # which block each row holds

    def at(self, rows: np.ndarray, t_R: np.ndarray) -> np.ndarray:
        """The numbers [R, size] of step t of each of some rows."""
        block_R = t_R // BLOCK_STEPS
        drawn: dict[tuple[int, int], np.ndarray] = {}
        for i in np.flatnonzero(self._block_B[rows] != block_R).tolist():
            row, block = int(rows[i]), int(block_R[i])
            key = self._seeds[row], block
            if key not in drawn:  # equal seeds have equal numbers
                generator = numpy_generator(key[0], self._purpose, block)
                drawn[key] = self._draw(generator, self._block_BTX.shape[1:])
            self._block_BTX[row], self._block_B[row] = drawn[key], block
        return self._block_BTX[rows, t_R % BLOCK_STEPS]


def normal(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return generator.standard_normal(shape, np.float32)


def uniform(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return generator.random(shape, np.float32)


class Beginnings(NamedTuple):
    """What V saw at the start of N real episodes; a dream begins with one of them."""

    mu_NZ: np.ndarray
    logvar_NZ: np.ndarray


class Dream:
    """Dreamed episodes (an `envs.batch.EpisodeBatch`), each a function of its seed and the actions.

    They end where M's done head says so, and after `max_steps`. The reward is that of M's reward
    head, else 1 a step. A higher temperature makes the dream less certain.
    """

    def __init__(
        self,
        rnn: MDNRNN,
        beginnings: Beginnings,
        action_space: spaces.Box,
        *,
        temperature: float,
        max_steps: int,
        vae: VAE | None = None,
    ) -> None:
        self._rnn, self._beginnings, self._vae = rnn, beginnings, vae
        self.action_space, self.temperature, self.max_steps = action_space, temperature, max_steps
        shape = (rnn.latent_size + 2 * rnn.hidden_size,)
        self.observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.reset([0])

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        self.num_envs, size = len(seeds), self._rnn.latent_size
        self._normal = EpisodeNoise(seeds, size, "dream, normal", normal)
        self._uniform = EpisodeNoise(seeds, size, "dream, uniform", uniform)
        self.obs_B = np.zeros((self.num_envs, *self.observation_space.shape), np.float32)
        self.length_B = np.zeros(self.num_envs, np.int64)
        self.alive_B = np.ones(self.num_envs, bool)
        mu_NZ, logvar_NZ = self._beginnings
        for row, seed in enumerate(seeds):
            generator = numpy_generator(int(seed), "dream, beginning")
            n = generator.integers(len(mu_NZ))
            noise_Z = generator.standard_normal(size, np.float32)
            self.obs_B[row, :size] = mu_NZ[n] + np.exp(0.5 * logvar_NZ[n]) * noise_Z
        return self.obs_B

    @torch.inference_mode()
    def step(self, action_BA: np.ndarray) -> Step:
        """Dream on; `next_obs_B` is a new array."""
        rows = np.flatnonzero(self.alive_B)
        assert len(rows), "all episodes are over"
        everything = len(rows) == self.num_envs
        obs_RF, action_RA = torch.from_numpy(self.obs_B), torch.from_numpy(action_BA)
        if not everything:
            obs_RF, action_RA = obs_RF[rows], action_RA[rows]
        next_RF, reward_R, done_R = self._next(obs_RF, action_RA, rows)
        self.obs_B = next_RF if everything else self.obs_B.copy()
        if not everything:
            self.obs_B[rows] = next_RF
        self.length_B[rows] += 1

        step = Step(self.obs_B, np.zeros(self.num_envs), *np.zeros((2, self.num_envs), bool))
        step.reward_B[rows] = reward_R
        step.terminated_B[rows] = done_R
        step.truncated_B[rows] = ~done_R & (self.length_B[rows] >= self.max_steps)
        self.alive_B &= ~(step.terminated_B | step.truncated_B)
        return step

    def _next(
        self, obs_RF: Tensor, action_RA: Tensor, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | float, np.ndarray]:
        """Observations, rewards and ends that follow."""
        rnn = self._rnn
        z_RZ, h_RH, c_RH = obs_RF.split([rnn.latent_size, rnn.hidden_size, rnn.hidden_size], dim=1)
        state = rnn.remember(z_RZ, action_RA, LSTMState(h_RH, c_RH))
        prediction = rnn.predict(state.h)
        t_R = self.length_B[rows]
        next_RZ = sample_mixture(
            split_mixture(prediction.mixture, rnn.num_components),
            torch.from_numpy(self._uniform.at(rows, t_R)),
            torch.from_numpy(self._normal.at(rows, t_R)),
            temperature=self.temperature,
        )
        if not math.isfinite(float(next_RZ.sum())):
            raise NonFiniteError("dream: M predicts latents that are not finite")
        reward_R = 1.0 if prediction.reward is None else prediction.reward.numpy()
        logit_R = prediction.done_logit
        done_R = np.zeros(len(rows), bool) if logit_R is None else (logit_R > 0).numpy()
        return torch.cat([next_RZ, *state], dim=1).numpy(), reward_R, done_R

    @torch.inference_mode()
    def render(self) -> np.ndarray:
        """Frames [B, H, W, 3] uint8 of what is dreamed now; needs V."""
        assert self._vae is not None
        latent_BZ = torch.from_numpy(self.obs_B[:, : self._rnn.latent_size])
        return as_frames(self._vae.decode(latent_BZ)).numpy()

    def close(self) -> None: ...
