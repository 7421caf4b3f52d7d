"""Dreams: M as an environment (Ha & Schmidhuber 2018, section 4). No frame is ever seen in it.

Observations are features: latents z, and M's h and c after the steps so far, as [z | h | c]. Shape
suffixes: B dreams, R those of them that are stepped, Z latents, A actions, F features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlzoo.algos.world_models.mdn_rnn import MDNRNN, Memory
from rlzoo.algos.world_models.mixture import sample_mixture, split_mixture
from rlzoo.algos.world_models.noise import EpisodeNoise, normal, uniform
from rlzoo.algos.world_models.vae import VAE, as_frames
from rlzoo.core.seeding import TRAIN, episode_seed, numpy_generator
from rlzoo.core.types import NonFiniteError, State, Step


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
        self._normal = EpisodeNoise(self.num_envs, size, "dream, normal", normal)
        self._uniform = EpisodeNoise(self.num_envs, size, "dream, uniform", uniform)
        self.obs_B = np.zeros((self.num_envs, *self.observation_space.shape), np.float32)
        self.length_B = np.zeros(self.num_envs, np.int64)
        self.alive_B = np.ones(self.num_envs, bool)
        self.begin(range(self.num_envs), seeds)
        return self.obs_B

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Begin other episodes in some rows; the observations are a new array then."""
        index_R, size = np.asarray(rows), self._rnn.latent_size
        self.obs_B = self.obs_B.copy()
        self.obs_B[index_R] = 0
        mu_NZ, logvar_NZ = self._beginnings
        for row, seed in zip(rows, seeds, strict=True):
            generator = numpy_generator(int(seed), "dream, beginning")
            n = generator.integers(len(mu_NZ))
            noise_Z = generator.standard_normal(size, np.float32)
            self.obs_B[row, :size] = mu_NZ[n] + np.exp(0.5 * logvar_NZ[n]) * noise_Z
        for noise in (self._normal, self._uniform):
            noise.reset(rows, seeds)
        self.length_B[index_R] = 0
        self.alive_B[index_R] = True

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
        memory = rnn.remember(z_RZ, action_RA, Memory(h_RH, c_RH))
        prediction = rnn.predict(memory.h)
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
        return torch.cat([next_RZ, *memory], dim=1).numpy(), reward_R, done_R

    @torch.inference_mode()
    def render(self) -> np.ndarray:
        """Frames [B, H, W, 3] uint8 of what is dreamed now; needs V."""
        assert self._vae is not None
        latent_BZ = torch.from_numpy(self.obs_B[:, : self._rnn.latent_size])
        return as_frames(self._vae.decode(latent_BZ)).numpy()

    def close(self) -> None: ...


class DreamVectorEnv:
    """A dream as a `types.VectorEnv`: the next episode begins where one ends."""

    resume_exact = True

    def __init__(self, dream: Dream, *, num_envs: int, run_seed: int, purpose: str = TRAIN) -> None:
        self._dream, self._run_seed, self._purpose = dream, run_seed, purpose
        self.num_envs = num_envs
        self.observation_space, self.action_space = dream.observation_space, dream.action_space
        self._episode_B = np.zeros(num_envs, np.int64)
        dream.reset([self._seed(row) for row in range(num_envs)])

    @property
    def obs_B(self) -> np.ndarray:
        return self._dream.obs_B

    def step(self, action_B: np.ndarray) -> Step:
        step = self._dream.step(action_B)
        ended = np.flatnonzero(step.terminated_B | step.truncated_B)
        if len(ended):
            self._episode_B[ended] += 1
            self._begin(ended.tolist())
        return step

    def _begin(self, rows: Sequence[int]) -> None:
        self._dream.begin(rows, [self._seed(row) for row in rows])

    def _seed(self, row: int) -> int:
        return episode_seed(self._run_seed, self._purpose, row, int(self._episode_B[row]))

    def state(self) -> State:
        dream = self._dream
        return {
            "episode": self._episode_B.copy(),
            "length": dream.length_B.copy(),
            "obs": dream.obs_B.copy(),
        }

    def load(self, state: State) -> None:
        self._episode_B[:] = state["episode"]
        self._begin(range(self.num_envs))
        self._dream.length_B[:] = state["length"]
        self._dream.obs_B[:] = state["obs"]

    def close(self) -> None:
        self._dream.close()
