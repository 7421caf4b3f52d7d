"""Random numbers for episodes that are played side by side.

Shape suffixes: B episodes, R some of them, T steps of a block, X numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rlzoo.core.seeding import numpy_generator

BLOCK_STEPS = 32  # numbers are drawn for so many steps at once


class EpisodeNoise:
    """Random numbers [size] for each step of B episodes, each drawn from the episode's seed alone.

    So an episode is a function of its seed (and actions), wherever and beside whatever it is
    played. `draw(generator, shape)` draws float32 numbers.
    """

    def __init__(
        self,
        num_episodes: int,
        size: int,
        purpose: str,
        draw: Callable[[np.random.Generator, tuple[int, int]], np.ndarray],
    ) -> None:
        self._purpose, self._draw = purpose, draw
        self._seed_B = [0] * num_episodes
        self._block_BTX = np.empty((num_episodes, BLOCK_STEPS, size), np.float32)
        self._block_B = np.full(num_episodes, -1)

    def reset(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Other episodes begin in some rows."""
        for row, seed in zip(rows, seeds, strict=True):
            self._seed_B[row] = int(seed)
            self._block_B[row] = -1

    def at(self, rows: np.ndarray, t_R: np.ndarray) -> np.ndarray:
        """The numbers [R, size] of step t of each of some rows."""
        block_R = t_R // BLOCK_STEPS
        drawn: dict[tuple[int, int], np.ndarray] = {}
        for i in np.flatnonzero(self._block_B[rows] != block_R).tolist():
            row, block = int(rows[i]), int(block_R[i])
            key = self._seed_B[row], block
            if key not in drawn:  # equal seeds have equal numbers
                generator = numpy_generator(key[0], self._purpose, block)
                drawn[key] = self._draw(generator, self._block_BTX.shape[1:])
            self._block_BTX[row], self._block_B[row] = drawn[key], block
        return self._block_BTX[rows, t_R % BLOCK_STEPS]


def normal(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return generator.standard_normal(shape, np.float32)


def uniform(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return generator.random(shape, np.float32)
