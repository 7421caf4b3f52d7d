"""Replay memory that stores each observation once and samples n-step transitions from it.

A time-major ring of cells [row, env]. The observation after a cell is the one in the next row,
except where an episode ended: there it lies in a sparse table of final observations. The row at
the head already holds the newest next observations. Of stacked frames only the newest is stored;
rows kept behind the oldest transition complete its stack.

Shape suffixes: B batch (in `add`: envs), N steps of an n-step path, K frames of a stack.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch

from rlzoo.core.settings import setting
from rlzoo.core.types import DataError, State, UsageError
from rlzoo.data.collector import Transition


@dataclass(frozen=True)
class ReplayConfig:
    name: str = setting("uniform", "how transitions are drawn")
    capacity: int = setting(100_000, "transitions kept, over all envs together", low=1)
    frame_stack: int = setting(
        0,
        "k: observations are stacks of k frames, keep one frame each (0: keep as is)",
        low=0,
        high=64,
    )


class Batch(NamedTuple):
    """B transitions; the TD target is `return_B + discount_B * value(next_obs_B)`."""

    obs_B: torch.Tensor
    action_B: torch.Tensor
    return_B: torch.Tensor  # float32, discounted sum of the k <= n rewards on the path
    discount_B: torch.Tensor  # float32, gamma^k, or 0 where the path ends in a termination
    next_obs_B: torch.Tensor  # k steps after obs_B, the true final one at an episode's end
    index_B: np.ndarray  # int64 cells, what `learnt` takes
    weight_B: torch.Tensor  # float32 importance weights


class Replay:
    """The newest `capacity // num_envs` steps of every env, sampled uniformly.

    Observations and actions keep the dtypes of their spaces. Raises UsageError for spaces, sizes
    or arrays that it cannot store. Other ways to draw transitions subclass it.
    """

    draws_change = False  # with each update: then only a minibatch is drawn at a time

    def __init__(
        self,
        obs_space: Any,
        action_space: Any,
        num_envs: int,
        *,
        capacity: int,
        frame_stack: int = 0,
    ) -> None:
        self.num_envs = num_envs
        self.max_steps = capacity // num_envs  # transitions kept of each env
        self.frame_stack = frame_stack
        if self.max_steps == 0:
            raise UsageError(f"replay.capacity: got {capacity}, expected >= {num_envs} (num_envs)")
        obs_shape, self._obs_dtype = _array_type(obs_space, "observation")
        action_shape, self._action_dtype = _array_type(action_space, "action")
        if frame_stack and obs_shape[:1] != (frame_stack,):
            raise UsageError(
                f"replay.frame_stack: got {frame_stack} for observations of shape {obs_shape}, "
                f"expected the first dimension ({obs_shape[0] if obs_shape else 'none'}) or 0"
            )
        self._obs_shape = (num_envs, *obs_shape)
        self._action_shape = (num_envs, *action_shape)
        self._frame_shape = obs_shape[1:] if frame_stack else obs_shape
        self.num_rows = self.max_steps + max(frame_stack, 1)
        try:
            self._allocate()
        except (MemoryError, ValueError) as error:
            raise UsageError(f"replay.capacity: got {capacity}, too large ({error})") from error
        self.head = max(frame_stack - 1, 0)  # the row that the next transition goes to
        self.steps = 0  # transitions held of each env
        self._wrapped = False
        self._accepted: list[Any] = []
        self._lag_K = np.arange(frame_stack - 1, -1, -1)
        self._ones_B = torch.ones(0)

    @classmethod
    def build(
        cls, config: ReplayConfig, obs_space: Any, action_space: Any, num_envs: int
    ) -> Replay:
        """What `replay=` names; raises UsageError if the spaces do not fit."""
        sizes = {key: value for key, value in vars(config).items() if key != "name"}
        return cls(obs_space, action_space, num_envs, **sizes)

    def _allocate(self) -> None:
        cells = (self.num_rows, self.num_envs)
        self._obs = np.zeros((*cells, *self._frame_shape), self._obs_dtype)
        self._action = np.zeros((*cells, *self._action_shape[1:]), self._action_dtype)
        self._reward = np.zeros(cells, np.float32)
        self._terminated = np.zeros(cells, bool)
        self._truncated = np.zeros(cells, bool)
        self._slot = np.zeros(cells, np.int32)  # into _final_obs; 0: the episode goes on
        self._final_obs = np.zeros((1, *self._frame_shape), self._obs_dtype)
        self._free_slots: list[int] = []
        # Frames seen before in the episode, up to k - 1: how far back a stack may reach.
        self._age = np.zeros(cells if self.frame_stack else (0, self.num_envs), np.uint8)
        self._next_age_B = np.full(self.num_envs, max(self.frame_stack - 1, 0), np.uint8)
        self._flat_obs = self._obs.reshape(prod(cells), *self._frame_shape)
        self._flat_action = self._action.reshape(prod(cells), *self._action_shape[1:])

    def __len__(self) -> int:
        return self.steps * self.num_envs

    # ---------------------------------------------------------------- writing

    def add(self, transition: Transition) -> None:
        """Store one transition of every env."""
        obs_B, action_B, (next_obs_B, reward_B, terminated_B, truncated_B) = transition
        arrays = (obs_B, action_B, next_obs_B)
        types = [(array.shape, array.dtype) for array in arrays]
        if types != self._accepted:
            self._check_arrays(*arrays)
            self._cut_restarted(obs_B)
            self._accepted = types
        head = self.head
        following = head + 1
        if following == self.num_rows:
            following, self._wrapped = 0, True
        if self.frame_stack:
            self._note_age(head, obs_B)
            obs_B, next_obs_B = obs_B[:, -1], next_obs_B[:, -1]
        self._obs[head] = obs_B
        self._obs[following] = next_obs_B
        self._action[head] = action_B
        self._reward[head] = reward_B
        self._terminated[head] = terminated_B
        self._truncated[head] = truncated_B
        slot_B = self._slot[head]
        if np.count_nonzero(slot_B):
            self._free_slots += slot_B[slot_B > 0].tolist()
            slot_B[:] = 0
        if np.count_nonzero(terminated_B) or np.count_nonzero(truncated_B):
            self._keep_final_obs(head, terminated_B | truncated_B)
        self.head = following
        if self.steps < self.max_steps:
            self.steps += 1

    def _cut_restarted(self, obs_B: np.ndarray) -> None:
        """Truncate episodes that `obs_B` does not go on with: a resume may restart an env."""
        shown_B = obs_B[:, -1] if self.frame_stack else obs_B
        differs_B = self._obs[self.head] != shown_B.astype(self._obs_dtype)
        newest = self.head - 1 if self.head else self.num_rows - 1
        cut_B = differs_B.reshape(self.num_envs, -1).any(axis=1) & (self._slot[newest] == 0)
        if self.steps and cut_B.any():
            self._truncated[newest] |= cut_B
            self._keep_final_obs(newest, cut_B)

    def _keep_final_obs(self, row: int, ended_B: np.ndarray) -> None:
        following = (row + 1) % self.num_rows
        for env in np.flatnonzero(ended_B):
            if not self._free_slots:
                used = len(self._final_obs)
                self._final_obs = np.concatenate([self._final_obs, np.zeros_like(self._final_obs)])
                self._free_slots = list(range(2 * used - 1, used - 1, -1))
            slot = self._free_slots.pop()
            self._final_obs[slot] = self._obs[following, env]
            self._slot[row, env] = slot
            self._next_age_B[env] = 0

    def _note_age(self, row: int, obs_B: np.ndarray) -> None:
        if self.steps == 0:  # may be the middle of an episode: take its history as it comes
            self._obs[row - len(self._lag_K) + 1 : row] = obs_B[:, :-1].swapaxes(0, 1)
        elif np.count_nonzero(self._next_age_B) < self.num_envs:
            first_B = self._next_age_B == 0
            if (obs_B[first_B] != obs_B[first_B, -1:]).any():
                raise UsageError(
                    f"replay.frame_stack: got {self.frame_stack} and an episode that starts with "
                    "differing frames, expected stacks padded with the first frame (or 0)"
                )
        self._age[row] = self._next_age_B
        self._next_age_B += self._next_age_B < self._lag_K[0]

    def _check_arrays(
        self, obs_B: np.ndarray, action_B: np.ndarray, next_obs_B: np.ndarray
    ) -> None:
        for what, array, shape, dtype in (
            ("observations", obs_B, self._obs_shape, self._obs_dtype),
            ("next observations", next_obs_B, self._obs_shape, self._obs_dtype),
            ("actions", action_B, self._action_shape, self._action_dtype),
        ):
            if array.shape != shape or not np.can_cast(array.dtype, dtype, "same_kind"):
                raise UsageError(
                    f"replay: got {what} {array.dtype}{list(array.shape)}, "
                    f"expected {dtype}{list(shape)}"
                )
        if self.frame_stack and (obs_B[:, 1:] != next_obs_B[:, :-1]).any():
            raise UsageError(
                f"replay.frame_stack: got {self.frame_stack}, but an observation's older frames "
                "are not the previous observation's newer ones: expected stacks, oldest first"
            )

    # ---------------------------------------------------------------- sampling

    def sample(
        self,
        batch_size: int,
        rng: np.random.Generator,
        *,
        gamma: float,
        n_step: int = 1,
        progress: float = 0.0,
    ) -> Batch:
        """Draw transitions uniformly with replacement (`progress` is for prioritised replay)."""
        cell_B = rng.integers(len(self), size=batch_size)
        cell_B += self.oldest * self.num_envs
        cell_B %= self._slot.size
        if len(self._ones_B) != batch_size:
            self._ones_B = torch.ones(batch_size)
        return self.gather(cell_B, self._ones_B, gamma=gamma, n_step=n_step)

    def gather(
        self, cell_B: np.ndarray, weight_B: torch.Tensor, *, gamma: float, n_step: int
    ) -> Batch:
        """The transitions that start in these cells, all of which must hold one (see `holds`)."""
        if n_step == 1:
            last_B, return_B = cell_B, self._reward.take(cell_B)
            discount_B = ~self._terminated.take(cell_B) * np.float32(gamma)
        else:
            last_B, return_B, discount_B = self._follow(cell_B, gamma, n_step)
        tensor = torch.from_numpy
        return Batch(
            obs_B=tensor(self._observations(cell_B)),
            action_B=tensor(self._flat_action.take(cell_B, axis=0)),
            return_B=tensor(return_B),
            discount_B=tensor(discount_B),
            next_obs_B=tensor(self._next_observations(last_B)),
            index_B=cell_B,
            weight_B=weight_B,
        )

    def learnt(self, index_B: np.ndarray, td_error_B: torch.Tensor) -> None:
        """Uniform draws do not depend on TD errors."""

    def _follow(
        self, cell_B: np.ndarray, gamma: float, n_step: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Last cell, discounted return and bootstrap discount of each path of up to n steps."""
        step_N = np.arange(n_step)
        cell_BN = cell_B[:, None] + step_N * self.num_envs
        rows_left_B = (self.head - cell_B // self.num_envs) % self.num_rows
        on_path_BN = step_N < rows_left_B[:, None]
        ended_BN = self._slot.take(cell_BN[:, :-1], mode="wrap") > 0
        on_path_BN[:, 1:] &= ~np.logical_or.accumulate(ended_BN, axis=1)
        discount_N = (gamma ** np.arange(n_step + 1)).astype(np.float32)
        reward_BN = self._reward.take(cell_BN, mode="wrap")
        return_B = np.where(on_path_BN, reward_BN, 0) @ discount_N[:-1]
        length_B = on_path_BN.sum(axis=1)
        last_B = (cell_B + (length_B - 1) * self.num_envs) % self._slot.size
        return last_B, return_B, ~self._terminated.take(last_B) * discount_N[length_B]

    def _observations(self, cell_B: np.ndarray) -> np.ndarray:
        if not self.frame_stack:
            return self._flat_obs.take(cell_B, axis=0)
        lag_BK = np.minimum(self._lag_K, self._age.take(cell_B)[:, None])
        return self._flat_obs.take(cell_B[:, None] - lag_BK * self.num_envs, axis=0, mode="wrap")

    def _next_observations(self, cell_B: np.ndarray) -> np.ndarray:
        following_B = cell_B + self.num_envs
        if self.frame_stack:
            lag_BK = np.minimum(self._lag_K, self._age.take(cell_B)[:, None] + 1)
            frame_BK = following_B[:, None] - lag_BK * self.num_envs
            obs_B = self._flat_obs.take(frame_BK, axis=0, mode="wrap")
        else:
            obs_B = self._flat_obs.take(following_B, axis=0, mode="wrap")
        slot_B = self._slot.take(cell_B)
        if np.count_nonzero(slot_B):
            ended_B = slot_B.nonzero()[0]
            newest_B = obs_B[:, -1] if self.frame_stack else obs_B
            newest_B[ended_B] = self._final_obs.take(slot_B.take(ended_B), axis=0)
        return obs_B

    # ---------------------------------------------------------------- cells

    @property
    def oldest(self) -> int:
        """The row of the oldest transition."""
        return (self.head - self.steps) % self.num_rows

    @property
    def filled_rows(self) -> int:
        """Rows that were ever written, from row 0 on."""
        return self.num_rows if self._wrapped else self.head + 1

    # ---------------------------------------------------------------- state

    def state(self) -> State:
        """All that was written. The arrays are views: write or copy them before the next `add`."""
        rows = self.filled_rows
        slots = self._slot[self._slot > 0]
        return {
            "num_rows": self.num_rows,
            "head": self.head,
            "steps": self.steps,
            "final_obs": self._final_obs[slots],
            "next_age": self._next_age_B.copy(),
            **{name: array[:rows] for name, array in self._arrays().items()},
        }

    def load(self, state: State) -> None:
        """Continue exactly where `state` was taken; raises DataError if it does not fit."""
        if state["num_rows"] != self.num_rows:
            raise DataError(
                f"replay state: got {state['num_rows']} rows, expected {self.num_rows} "
                "(capacity, num_envs or frame_stack changed)"
            )
        self._allocate()
        self._accepted = []
        self.head, self.steps = state["head"], state["steps"]
        rows = len(state["reward"])
        self._wrapped = rows == self.num_rows
        for name, array in self._arrays().items():
            _restore(array[:rows], state[name], name)
        _restore(self._next_age_B, state["next_age"], "next_age")
        cells = np.flatnonzero(self._terminated | self._truncated)
        self._slot.flat[cells] = np.arange(1, len(cells) + 1)
        self._final_obs = np.zeros((len(cells) + 1, *self._frame_shape), self._obs_dtype)
        _restore(self._final_obs[1:], state["final_obs"], "final_obs")

    def _arrays(self) -> dict[str, np.ndarray]:
        names = ("obs", "action", "reward", "terminated", "truncated", "age")
        return {name: vars(self)[f"_{name}"] for name in names}


def _array_type(space: Any, what: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    if space.shape is None or space.dtype is None or space.dtype.kind not in "biuf":
        raise UsageError(f"replay: got {what} space {space}, expected Box, Discrete or Multi...")
    return tuple(space.shape), np.dtype(space.dtype)


def _restore(target: np.ndarray, leaf: Any, name: str) -> None:
    source = np.asarray(leaf)
    if source.shape != target.shape or source.dtype != target.dtype:
        raise DataError(
            f"replay state: {name} is {source.dtype}{list(source.shape)}, "
            f"expected {target.dtype}{list(target.shape)}"
        )
    target[...] = source
