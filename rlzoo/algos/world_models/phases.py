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

from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from rlzoo.core.algorithm import Report
from rlzoo.core.types import Counters, Metrics, State


class Phase:
    """One stage of training."""

    name: ClassVar[str]  # one of `config.ORDER`
    unit: ClassVar[str]  # what `progress` counts, in the plural
    length: ClassVar[str]  # the setting of `algo` that says how much there is to do

    def step(self) -> Metrics:
        """The smallest piece of work between two safe points. Metrics may be empty."""
        raise NotImplementedError

    def progress(self) -> tuple[int, int]:
        """Units done, and units in all; 0 where the phase has no end of its own."""
        raise NotImplementedError

    def done(self) -> bool:
        done, total = self.progress()
        return done >= total

    def counted(self) -> Counters:
        """What this phase has added to the run's counters, over all sessions."""
        raise NotImplementedError

    def left(self) -> State:
        """What later phases need of it once it is done. A `path` is that of a store."""
        raise NotImplementedError

    def params_of_c(self) -> np.ndarray | None:
        """The parameters that C acts with now, in the phase that searches them."""
        return None

    def gauges(self) -> dict[str, float]:
        """Values of the moment, for a log line."""
        return {}

    def report(self) -> Iterable[Report]:
        """Pictures and films of the moment."""
        return ()

    def state(self) -> State:
        raise NotImplementedError

    def load(self, state: State) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Let go of envs and processes."""
