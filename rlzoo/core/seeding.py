"""One run seed becomes a tree of generators, one for each consumer.

Nothing else in rlzoo touches a global random state. The name of a consumer is part of the key, so
adding a consumer never shifts the numbers that another one draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# Streams of episode seeds. They share no seed by construction: the purpose is hashed in.
TRAIN, SELECT, TEST = "train", "select", "test"


def derive_seed(run_seed: int, *path: int | str) -> int:
    """A 63-bit seed for the consumer at `path` (for example ('episode', 'train', env, index))."""
    text = f"{run_seed}/" + "/".join(map(str, path))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def episode_seed(run_seed: int, purpose: str, env_index: int, episode_index: int) -> int:
    """The seed of one episode, in 31 bits because some simulators take no more.

    31 bits are drawn apart for each purpose by its lowest bits: train, select and test are
    congruent to 0, 1 and 2 modulo 3, so that no episode is ever shared between them.
    """
    streams = (TRAIN, SELECT, TEST)
    raw = derive_seed(run_seed, "episode", purpose, env_index, episode_index) % (2**31 // 3 - 1)
    return raw * 3 + streams.index(purpose)


def numpy_generator(run_seed: int, *path: int | str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(derive_seed(run_seed, *path)))


def torch_generator(run_seed: int, *path: int | str, device: str = "cpu") -> torch.Generator:
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(run_seed, *path))


@contextmanager
def torch_seed(run_seed: int, *path: int | str) -> Iterator[None]:
    """Run a block (module constructors, which draw from the global generator) under its own seed.

    The global generator is put back afterwards, so that blocks do not influence each other.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(run_seed, *path))
        yield
