"""Demonstrations: what an expert saw, did and got, read from files that nobody has to trust.

N steps of E trajectories, flat over time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium import spaces

from rlzoo.core.types import DataError
from rlzoo.envs.checks import SpaceCheck, describe_space

_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class Demonstrations:
    """Steps of an expert; the arrays are checked and read-only. DataError where they don't fit.

    Trajectory e is the steps start[e]:start[e + 1]. Numbers must be finite, also as float32.
    """

    obs: np.ndarray  # [N, ...] raw, in the env's dtype
    action: np.ndarray  # [N, ...] as given to the env (Discrete: int64)
    reward: np.ndarray  # [N] float64
    start: np.ndarray  # [E + 1] int64
    terminated: np.ndarray  # [E] bool: ended in a terminal state (False: time limit, or cut off)
    final_obs: np.ndarray | None  # [E, ...] after the last step; None: the file has none
    source: str  # the file's path
    env_id: str | None
    seed: np.ndarray | None = None  # [E] int64: the env was reset with it; None: not known

    def __post_init__(self) -> None:
        steps, trajectories = len(self.action), len(self.start) - 1
        if steps == 0 or trajectories == 0:
            raise self._error("empty: 0 steps, expected at least one trajectory of one step")
        self._require("obs", steps)
        self._require("reward", steps)
        self._require("terminated", trajectories)
        if self.seed is not None:
            self._require("seed", trajectories)
            if self.seed.min() < 0:
                raise self._error(f"seed: got {self.seed.min()}, expected whole numbers >= 0")
        lengths = np.diff(self.start)
        if self.start[0] != 0 or self.start[-1] != steps or (lengths < 1).any():
            raise self._error(f"start: expected numbers that rise from 0 to {steps}")
        if self.final_obs is not None:
            self._require("final_obs", trajectories)
            got, expected = self.final_obs.shape[1:], self.obs.shape[1:]
            if got != expected:
                raise self._error(f"final_obs: got the shape {got}, expected {expected} as in obs")
        for name in ("obs", "action", "reward", "final_obs"):
            if getattr(self, name) is not None:
                self._require_finite(name)
        for name in ("obs", "action", "reward", "start", "terminated", "final_obs", "seed"):
            if (array := getattr(self, name)) is not None:
                view = array.view()
                view.setflags(write=False)
                object.__setattr__(self, name, view)

    @property
    def num_trajectories(self) -> int:
        return len(self.start) - 1

    @property
    def num_steps(self) -> int:
        return len(self.action)

    @property
    def lengths(self) -> np.ndarray:
        """Env steps of each trajectory, [E]."""
        return np.diff(self.start)

    @property
    def returns(self) -> np.ndarray:
        """Undiscounted sums of rewards, [E]."""
        return np.add.reduceat(self.reward, self.start[:-1])

    def subset(self, trajectories: Sequence[int]) -> Demonstrations:
        """Some trajectories, in the order given; the first so many are views of the same memory."""
        chosen = [int(e) for e in trajectories]
        if chosen == list(range(len(chosen))):
            steps: Any = slice(0, int(self.start[len(chosen)]))
            ends: Any = slice(0, len(chosen))
        else:
            spans = [np.arange(self.start[e], self.start[e + 1]) for e in chosen]
            steps, ends = np.concatenate(spans), chosen
        return Demonstrations(
            obs=self.obs[steps],
            action=self.action[steps],
            reward=self.reward[steps],
            start=np.concatenate([[0], np.cumsum(self.lengths[chosen])]),
            terminated=self.terminated[ends],
            final_obs=None if self.final_obs is None else self.final_obs[ends],
            source=self.source,
            env_id=self.env_id,
            seed=None if self.seed is None else self.seed[ends],
        )

    def kept_steps(self, every: int, rng: np.random.Generator) -> np.ndarray:
        """Indices of every k-th step of each trajectory from a random offset (Ho & Ermon 2016).

        A trajectory of fewer than k steps keeps one of them.
        """
        kept = [
            np.arange(begin + rng.integers(min(every, end - begin)), end, every)
            for begin, end in pairwise(self.start)
        ]
        return np.concatenate(kept)

    def _require(self, name: str, count: int) -> None:
        if len(getattr(self, name)) != count:
            got = len(getattr(self, name))
            unit = "trajectory" if name in ("terminated", "final_obs", "seed") else "action"
            raise self._error(f"{name}: got {got} rows, expected {count}, one for each {unit}")

    def _require_finite(self, name: str) -> None:
        array = getattr(self, name)
        if array.dtype.kind != "f":
            return
        limit = np.finfo(np.float32).max
        for first, block in _blocks(array):
            finite = (block >= -limit) & (block <= limit)  # no copy, as abs() would make
            if not finite.all():
                row, *rest = np.argwhere(~finite)[0].tolist()
                where = f"index {[first + row, *rest]}"
                got = block[(row, *rest)]
                raise self._error(f"{name}: got {got} at {where}, expected finite numbers")

    def _error(self, text: str) -> DataError:
        return DataError(f"{self.source}: {text}")


def _blocks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Pieces of an array along its first axis, so that a mapped one is never copied as a whole."""
    rows = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
    for first in range(0, len(array), rows):
        yield first, array[first : first + rows]


def check_fits(
    demonstrations: Demonstrations,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    env_id: str | None = None,
) -> None:
    """DataError unless observations and actions belong to an env's spaces: key, got, expected.

    float32 and float64 stand for each other; an action may lie beyond a Box's limit by rounding.
    With `env_id`, a file that names another env is refused too (versions may differ).
    """
    source = demonstrations.source
    if env_id and demonstrations.env_id and _name(env_id) != _name(demonstrations.env_id):
        raise DataError(f"{source}: env_id: got {demonstrations.env_id}, expected {env_id}")
    for key, array, space in (
        ("obs", demonstrations.obs, observation_space),
        ("action", demonstrations.action, action_space),
    ):
        is_action = key == "action"
        SpaceCheck(space, action=is_action)  # UsageError for a space that is not of arrays
        expected = describe_space(space, bounded=is_action)
        kind = np.dtype(space.dtype).kind if space.dtype is not None else ""
        same_kind = array.dtype.kind == kind or {array.dtype.kind, kind} <= set("iu")
        if array.shape[1:] != (space.shape or ()) or not same_kind:
            got = f"{array.dtype} {array.shape[1:]}"
            raise DataError(f"{source}: {key}: got {got}, expected {expected}")
        for first, block in _blocks(array):
            outside = _outside(block, space, bounded=is_action)
            if outside.any():
                row = int(outside.reshape(len(block), -1).any(1).argmax())
                got = f"{block[row].tolist()} at step {first + row}"
                raise DataError(f"{source}: {key}: got {got}, expected {expected}")


def _name(env_id: str) -> str:
    """Hopper for gymnasium_robotics:Hopper-v5."""
    return re.sub(r"^.*:|-v\d+$", "", env_id)


def _outside(block: np.ndarray, space: spaces.Space[Any], *, bounded: bool) -> np.ndarray:
    """Where values are not in the space."""
    if isinstance(space, spaces.Discrete):
        return (block < space.start) | (block >= space.start + space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return (block < space.start) | (block >= space.start + space.nvec)
    if isinstance(space, spaces.MultiBinary):
        return (block < 0) | (block > 1)
    assert isinstance(space, spaces.Box)
    if not bounded:
        return np.zeros(len(block), bool)
    slack = 1e-6 * np.maximum(1, np.minimum(abs(space.low), abs(space.high)))
    return (block < space.low - slack) | (block > space.high + slack)
