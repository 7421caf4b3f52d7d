"""What the phases of World Models have in common (collect, vision, encode, memory, ...).

A phase is built from plain arguments (its settings, a seed, directories, what earlier phases made)
and can be used alone:

    phase = VisionPhase(VisionConfig(epochs=2), seed=0, frames=FrameStore.open(directory))
    while not phase.done():
        phase.step()

Between two calls of `step` everything that the rest of the phase depends on is in `state()` and in
the files that this state speaks of. A file, or part of one, that was written after the state was
taken is overwritten once the state is loaded; so a phase that is killed and resumed equals one
that never stopped, bit for bit.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from rlzoo.core.types import Metrics, State

Images = dict[str, np.ndarray]  # name -> picture [H, W, 3] uint8
Films = dict[str, tuple[np.ndarray, float]]  # name -> (frames [T, H, W, 3] uint8, per second)


@runtime_checkable
class Phase(Protocol):
    """One stage of training. `images() -> Images` and `films() -> Films` are optional."""

    name: str  # one of `config.ORDER`
    unit: str  # what `progress` counts, in the plural
    env_steps: int  # taken in real environments by this phase so far, over all sessions

    def step(self) -> Metrics:
        """The smallest piece of work between two safe points. Metrics may be empty."""

    def done(self) -> bool: ...

    def progress(self) -> tuple[int, int]:
        """Units done, and units in all."""

    def state(self) -> State: ...
    def load(self, state: State) -> None: ...
