"""Several choices at once: the actions of MultiDiscrete and MultiBinary spaces.

Shape suffixes: B batch, M choices, A logits of all choices, one choice after the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlzoo.nets.mlp import MLP


class MultiCategorical(nn.Module):
    """M independent choices; actions [B, M] are kept as indices from 0."""

    make_network: ClassVar = MLP
    is_discrete: ClassVar = True

    def __init__(self, space: spaces.MultiDiscrete | spaces.MultiBinary) -> None:
        super().__init__()
        self.space = space
        if isinstance(space, spaces.MultiBinary):
            sizes, self.start = np.full(space.shape, 2), np.zeros(space.shape, np.int64)
        else:
            sizes, self.start = space.nvec, space.start
        self.sizes: list[int] = sizes.ravel().tolist()
        self.action_shape = (len(self.sizes),)
        self.num_outputs = sum(self.sizes)

    def draw(self, rng: np.random.Generator, steps: int, num_envs: int) -> Iterable[np.ndarray]:
        """What chance contributes to each of some steps: arrays [B, A]."""
        return rng.gumbel(size=(steps, num_envs, self.num_outputs))

    def sample(self, logit_BA: np.ndarray, noise_BA: np.ndarray) -> np.ndarray:
        """Actions [B, M]; `Categorical.sample` for each choice."""
        return self.mode(logit_BA + noise_BA)

    def mode(self, logit_BA: Any) -> Any:
        """The most likely actions [B, M], for arrays and for tensors."""
        ends = zip(np.cumsum(self.sizes).tolist(), self.sizes, strict=True)
        best = [logit_BA[:, end - size : end].argmax(axis=1) for end, size in ends]
        return torch.stack(best, 1) if isinstance(logit_BA, Tensor) else np.stack(best, 1)

    def to_env(self, action_BM: np.ndarray) -> np.ndarray:
        action_B = action_BM.reshape(-1, *self.space.shape) + self.start
        return action_B.astype(self.space.dtype, copy=False)

    def from_env(self, action_B: np.ndarray) -> np.ndarray:
        return (action_B - self.start).reshape(len(action_B), -1).astype(np.int64, copy=False)

    def log_prob_and_entropy(self, logit_BA: Tensor, action_BM: Tensor) -> tuple[Tensor, Tensor]:
        """log pi(a|s) [B] and the mean entropy, in nats: sums over the choices."""
        log_prob_BA = self._log_probs(logit_BA)
        first_M = torch.tensor([0, *self.sizes[:-1]], device=action_BM.device).cumsum(0)
        log_prob_B = log_prob_BA.gather(1, action_BM + first_M).sum(dim=1)
        return log_prob_B, -(log_prob_BA.exp() * log_prob_BA).sum(dim=1).mean()

    def _log_probs(self, logit_BA: Tensor) -> Tensor:
        parts = logit_BA.split(self.sizes, dim=1)
        return torch.cat([part.log_softmax(dim=1) for part in parts], dim=1)

    def as_tensors(self, logit_BA: Tensor) -> tuple[Tensor, ...]:
        """All that defines the distributions of a batch, in tensors of their own: for `kl`."""
        return (self._log_probs(logit_BA),)

    @staticmethod
    def kl(old: tuple[Tensor, ...], new: tuple[Tensor, ...]) -> Tensor:
        """KL(old, new) [B] of pairs of distributions (`as_tensors`), in nats."""
        [old_log_prob_BA], [log_prob_BA] = old, new
        return (old_log_prob_BA.exp() * (old_log_prob_BA - log_prob_BA)).sum(dim=1)
