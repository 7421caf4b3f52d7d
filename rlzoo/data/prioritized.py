"""Proportional prioritised replay (Schaul et al. 2016, section 3.3) on top of `Replay`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlzoo.core.settings import setting
from rlzoo.core.types import DataError, NonFiniteError, State
from rlzoo.data.collector import Transition
from rlzoo.data.replay import Batch, Replay, ReplayConfig


@dataclass(frozen=True)
class PrioritizedConfig(ReplayConfig):
    name: str = "prioritized"
    alpha: float = setting(
        0.6, "prioritized: exponent of |TD error|, 0 is uniform (Schaul et al. 2016)", low=0, high=1
    )
    beta0: float = setting(
        0.4, "prioritized: first importance exponent, ends at 1 (Schaul et al. 2016)", low=0, high=1
    )
    eps: float = setting(
        1e-6, "prioritized: added to |TD error| so that nothing is starved (ibid.)", above=0
    )


class SumTree:
    """Float64 weights of `size` leaves in a binary tree of sums: update and find in O(log size).

    Node i is the sum of nodes 2i and 2i + 1; the leaves are the last `num_leaves` nodes.
    """

    def __init__(self, size: int) -> None:
        self._depth = (size - 1).bit_length()
        num_leaves = 1 << self._depth
        self._node = np.zeros(2 * num_leaves)
        self.leaf = self._node[num_leaves:]

    @property
    def total(self) -> float:
        return float(self._node[1])

    def update(self, leaf_B: np.ndarray, weight_B: np.ndarray | float) -> None:
        """Set weights; of a leaf that is named more than once the last weight holds."""
        self.leaf[leaf_B] = weight_B
        node_B = leaf_B + len(self.leaf)
        for _ in range(self._depth):
            node_B >>= 1
            left_B = node_B << 1
            self._node[node_B] = self._node.take(left_B) + self._node.take(left_B + 1)

    def find(self, mass_B: np.ndarray) -> np.ndarray:
        """The leaf at which the running sum of weights exceeds each mass in [0, total)."""
        rest_B = mass_B.copy()
        node_B = np.ones(len(mass_B), np.int64)
        for _ in range(self._depth):
            node_B <<= 1
            left_B = self._node.take(node_B)
            right_B = rest_B >= left_B
            rest_B -= left_B * right_B
            node_B += right_B
        leaf_B = node_B - len(self.leaf)
        # Rounding may carry a mass past the end of its subtree, onto leaves of no weight.
        while (empty_B := self.leaf.take(leaf_B) == 0).any():
            leaf_B -= empty_B
        return leaf_B

    def load(self, leaf: np.ndarray) -> None:
        """Set the first leaves and sum up afresh; the others weigh nothing."""
        self.leaf[: len(leaf)] = leaf
        self.leaf[len(leaf) :] = 0
        for depth in reversed(range(self._depth)):
            first, end = 1 << depth, 2 << depth
            children = self._node[2 * first : 2 * end]
            self._node[first:end] = children[::2] + children[1::2]


class PrioritizedReplay(Replay):
    """Draws transitions in proportion to (|TD error| + eps)^alpha; new ones have the top priority.

    The importance weights (N P(i))^-beta are divided by the largest of the batch.
    """

    draws_change = True

    def __init__(self, *shape: Any, alpha: float, beta0: float, eps: float, **sizes: Any) -> None:
        """The arguments of `Replay`, and the exponents."""
        super().__init__(*shape, **sizes)
        self.alpha, self.beta0, self.eps = alpha, beta0, eps
        self._tree = SumTree(self.num_rows * self.num_envs)
        self._top_priority = 1.0
        self._new_rows = 0  # added, and not yet in the tree

    def add(self, transition: Transition) -> None:
        """As `Replay.add`; the priorities are set when the next batch is drawn."""
        super().add(transition)
        self._new_rows += 1

    def sample(
        self,
        batch_size: int,
        rng: np.random.Generator,
        *,
        gamma: float,
        n_step: int = 1,
        progress: float = 0.0,
    ) -> Batch:
        """Draw a stratified batch; beta goes from beta0 to 1 as `progress` goes from 0 to 1.

        The strata are shuffled, so that a large batch can be cut into minibatches.
        """
        self._insert_new()
        stratum_B = rng.permutation(batch_size) + rng.random(batch_size)
        cell_B = self._tree.find(stratum_B * (self._tree.total / batch_size))
        priority_B = self._tree.leaf.take(cell_B)
        beta = self.beta0 + (1 - self.beta0) * progress
        weight_B = (priority_B.min() / priority_B) ** beta
        weights = torch.from_numpy(weight_B.astype(np.float32))
        return self.gather(cell_B, weights, gamma=gamma, n_step=n_step)

    def learnt(self, index_B: np.ndarray, td_error_B: np.ndarray | torch.Tensor) -> None:
        """Give the transitions of a batch the priorities of their new TD errors.

        Cells that were overwritten meanwhile and are no longer sampled are left alone. Raises
        NonFiniteError, and changes nothing, if a TD error is not finite.
        """
        error_B = np.asarray(torch.as_tensor(td_error_B).cpu(), dtype=np.float64)
        priority_B = (np.abs(error_B) + self.eps) ** self.alpha
        top_priority = float(priority_B.max())
        if not np.isfinite(top_priority):
            raise NonFiniteError("replay: got a TD error that is not finite as a priority")
        self._insert_new()
        self._top_priority = max(self._top_priority, top_priority)
        held_B = self.holds(index_B)
        self._tree.update(index_B[held_B], priority_B[held_B])

    def _insert_new(self) -> None:
        count = min(self._new_rows, self.steps)
        if not count:
            return
        self._tree.update(self.cells(self.head - count, count), self._top_priority)
        if self.steps == self.max_steps:
            gone = self.cells(self.head, self.num_rows - self.steps)
            self._tree.update(gone, 0.0)
        self._new_rows = 0

    def cells(self, first_row: int, num_rows: int) -> np.ndarray:
        """All cells of consecutive rows, the ring closed."""
        first = first_row * self.num_envs
        return np.arange(first, first + num_rows * self.num_envs) % self._slot.size

    def holds(self, cell_B: np.ndarray) -> np.ndarray:
        """Whether these cells hold a transition that can be sampled."""
        return (cell_B // self.num_envs - self.oldest) % self.num_rows < self.steps

    def state(self) -> State:
        """As `Replay.state`, with the priorities; the arrays are views."""
        self._insert_new()
        return {
            "storage": super().state(),
            "priority": self._tree.leaf[: self.filled_rows * self.num_envs],
            "top_priority": self._top_priority,
        }

    def load(self, state: State) -> None:
        """Continue exactly where `state` was taken; raises DataError if it does not fit."""
        super().load(state["storage"])
        priority = np.asarray(state["priority"])
        expected = (self.filled_rows * self.num_envs,)
        if priority.shape != expected or priority.dtype != np.float64:
            raise DataError(
                f"replay state: priority is {priority.dtype}{list(priority.shape)}, "
                f"expected float64{list(expected)}"
            )
        self._tree.load(priority)
        self._top_priority = state["top_priority"]
        self._new_rows = 0
