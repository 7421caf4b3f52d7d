"""A population plays: many controllers at once, an episode or more each, in a real env or a dream.

Shape suffixes: P members, E episodes of each, B = P * E (or fewer, side by side), R those of them
that go on, Z latents, H units of M, F features [z | h | c], A actions, N parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlzoo.algos.world_models.dream import EpisodeNoise, normal
from rlzoo.algos.world_models.models import Controller
from rlzoo.algos.world_models.policy import Senses
from rlzoo.core.types import Step

if TYPE_CHECKING:
    from rlzoo.envs.batch import EpisodeBatch

SLICE_STEPS = 20  # of all episodes, between two points where work may be interrupted


class SeenEpisodes:
    """An EpisodeBatch of frames as one of features."""

    num_envs: int
    alive_B: np.ndarray

    def __init__(
        self,
        envs: EpisodeBatch,
        senses: Senses,
        *,
        preprocess: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        self._envs, self._senses, self._preprocess = envs, senses, preprocess
        shape = (senses.num_features,)
        self.observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.action_space = envs.action_space

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        obs_B = self._envs.reset(seeds)
        self.num_envs, self.alive_B = len(seeds), self._envs.alive_B
        self._t = 0
        self._noise = EpisodeNoise(seeds, self._senses.latent_size, "latents", normal)
        self._feature_BF = torch.zeros(len(seeds), self._senses.num_features)
        self._look(obs_B)
        return self._feature_BF.numpy()

    def step(self, action_B: np.ndarray) -> Step:
        rows = np.flatnonzero(self.alive_B)
        action_RA = torch.from_numpy(action_B[rows])
        carry_RM = self._senses.remember(self._feature_BF[rows], action_RA)
        self._feature_BF[rows, self._senses.latent_size :] = carry_RM
        step = self._envs.step(action_B)
        self.alive_B = self._envs.alive_B
        self._t += 1
        self._look(step.next_obs_B)
        return step._replace(next_obs_B=self._feature_BF.numpy())

    def _look(self, obs_B: np.ndarray) -> None:
        rows = np.flatnonzero(self.alive_B)
        if len(rows):
            noise_RZ = self._noise.at(rows, np.full(len(rows), self._t))
            latent_RZ = self._senses.look(self._preprocess(obs_B[rows]), noise_RZ)
            self._feature_BF[rows, : self._senses.latent_size] = latent_RZ

    def close(self) -> None:
        self._envs.close()


@dataclass(frozen=True)
class Share:
    """Some members of a population, and the episodes that each is to play."""

    params_PN: np.ndarray
    seed_PE: np.ndarray
    patience_env_steps: int | None  # an episode without a reward above 0 for so long is ended

    def __str__(self) -> str:
        seeds = self.seed_PE.ravel().tolist()
        more = ", ..." if len(seeds) > 3 else ""
        return f"{len(seeds)} episodes (seeds {', '.join(map(str, seeds[:3]))}{more})"


class Outcome(NamedTuple):
    return_PE: np.ndarray
    length_PE: np.ndarray  # env steps


class Player:
    """Plays shares, `num_envs` episodes side by side (an `executor.Worker`)."""

    def __init__(
        self, envs: EpisodeBatch, controller: Controller, columns: slice, num_envs: int
    ) -> None:
        self._envs, self._controller, self._columns = envs, controller, columns
        self._num_envs = num_envs

    def __call__(self, share: Share) -> Generator[None, None, Outcome]:
        members, episodes = share.seed_PE.shape
        params_PN = torch.from_numpy(share.params_PN.astype(np.float32))
        member_B = np.repeat(np.arange(members), episodes)
        seed_B = share.seed_PE.reshape(-1)
        played = []
        for first in range(0, len(seed_B), self._num_envs):
            batch = slice(first, first + self._num_envs)
            params_BN = params_PN[member_B[batch]]
            played.append((yield from self._play(params_BN, seed_B[batch].tolist(), share)))
        return_B, length_B = (np.concatenate(parts) for parts in zip(*played, strict=True))
        return Outcome(return_B.reshape(members, episodes), length_B.reshape(members, episodes))

    def _play(
        self, params_BN: Tensor, seeds: list[int], share: Share
    ) -> Generator[None, None, tuple[np.ndarray, np.ndarray]]:
        """Returns and lengths of episodes, each under the parameters beside it."""
        envs, patience = self._envs, share.patience_env_steps
        return_B, length_B, gained_B = np.zeros((3, len(seeds)))
        action_BA = np.zeros((len(seeds), self._controller.action_size), np.float32)
        with torch.inference_mode():
            feature_BF = envs.reset(seeds)
        rows = np.empty(0, np.int64)
        t = 0
        while envs.alive_B.any():
            if len(rows) != envs.alive_B.sum():
                rows = np.flatnonzero(envs.alive_B)
                layers = self._controller.layers(params_BN[rows])
            with torch.inference_mode():
                feature_RF = torch.from_numpy(feature_BF[rows, self._columns])
                action_BA[rows] = self._controller(layers, feature_RF).numpy()
                feature_BF, reward_B, _, _ = envs.step(action_BA)
            t += 1
            return_B += reward_B
            length_B[rows] = t
            gained_B[reward_B > 0] = t
            if patience is not None:
                envs.alive_B[t - gained_B >= patience] = False
            if t % SLICE_STEPS == 0:
                yield
        return return_B, length_B
