"""Files of demonstrations: read in any known format, written in one, chosen by an algorithm."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlzoo.core.settings import setting
from rlzoo.core.types import DataError, UsageError
from rlzoo.demonstrations import formats
from rlzoo.demonstrations.trajectories import Demonstrations


def load(path: str | Path) -> Demonstrations:
    """Demonstrations from a file of any known format, recognised by its content.

    .npz of imitation, openai/baselines and our own (`formats`), or the folder of a
    Minari dataset. DataError with one line: file, key, got, expected.
    """
    path = Path(path)
    if path.is_dir():
        from rlzoo.demonstrations import minari_format  # which needs an extra

        return minari_format.read(path)
    return Demonstrations(**formats.read(path), source=str(path))


def encode(demonstrations: Demonstrations, format: str) -> bytes:
    """The content of an .npz file, not compressed, so that it can be mapped."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = formats.arrays(demonstrations, format)
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@dataclass(frozen=True)
class DemonstrationsConfig:
    """Which demonstrations an algorithm learns from."""

    path: str = setting("", "file of demonstrations (see rlzoo demos)")
    trajectories: int | None = setting(
        None, "use the first so many trajectories of the file (empty: all)", low=1
    )
    keep_every: int = setting(
        1,
        "of each trajectory keep every so many-th step, from a random offset (Ho & Ermon 2016: 20)",
        low=1,
    )
    recipe: str = setting(
        "", "words for `rlzoo demos record` that make the file; named where it is missing"
    )


def chosen(config: DemonstrationsConfig) -> Demonstrations:
    """The first `trajectories` of the file at `path`; UsageError where there is none."""
    from rlzoo.io.hints import command  # needed for errors alone

    if not config.path:
        raise UsageError(
            "algo.demonstrations.path: got nothing, expected a file; "
            f"make one with: {command('demos', 'record', 'RUN', 'file=FILE')}"
        )
    if not Path(config.path).exists():
        recipe = (config.recipe or "RUN").split()
        raise UsageError(
            f"algo.demonstrations.path: no file '{config.path}'; "
            f"make it with: {command('demos', 'record', *recipe, f'file={config.path}')}"
        )
    demonstrations = load(config.path)
    wanted = config.trajectories or demonstrations.num_trajectories
    if wanted > demonstrations.num_trajectories:
        raise UsageError(
            f"algo.demonstrations.trajectories: got {wanted}, expected at most "
            f"{demonstrations.num_trajectories}, which {config.path} has"
        )
    return demonstrations.subset(range(wanted))


class Unchanged:
    """A part of a run's state that holds the demonstrations to what they were when it began."""

    def __init__(self, arrays: Callable[[], Iterable[np.ndarray]], path: str) -> None:
        """`arrays` gives what is learnt from; it is called when a state is made or loaded."""
        self._arrays, self._path = arrays, path

    def state(self) -> str:
        digest = hashlib.sha256()
        for array in self._arrays():
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def load(self, state: str) -> None:
        if state and self.state() != state:  # '': of a version that learnt from other arrays
            raise DataError(
                f"{self._path}: has changed since the run began; expected the same steps"
            )
