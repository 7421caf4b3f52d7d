"""What finished phases leave to later ones, of this run or of another that it builds on.

    collect     the path of a store of frames
    vision      V's parameters
    encode      the path of a store of latents, and the first ones of some episodes
    memory      M's parameters
    controller  C's parameters, and all of its search

All but the stores is in the run's own checkpoints; paths are relative to the run's directory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from rlzoo.algos.world_models.config import MADE_WITH, NEEDS, STORES, WorldModelsConfig
from rlzoo.algos.world_models.dream import Beginnings
from rlzoo.algos.world_models.frame_store import FrameStore
from rlzoo.algos.world_models.phases import Phase
from rlzoo.core.parts import load_module
from rlzoo.core.types import DataError, State, UsageError

OWN_LATENTS = "latents"  # path of those that a run makes itself


class Artefacts:
    """By the name of the phase that left them; `about` says which env they must be of."""

    def __init__(self, directory: Path, about: Mapping[str, Any]) -> None:
        self._directory, self.about = directory, dict(about)
        self._left: dict[str, State] = {}

    def __contains__(self, phase: str) -> bool:
        return phase in self._left

    def __getitem__(self, phase: str) -> State:
        return self._left[phase]

    def keep(self, phase: Phase) -> None:
        """Take over what a finished phase leaves; what imitates is a C as well."""
        name = "controller" if phase.name == "imitate" else phase.name
        self._left[name] = self._as_seen_from_here(phase.left(), Path())

    def _as_seen_from_here(self, left: State, directory: Path) -> State:
        """The same, with its path, if it has one, relative to this run instead of `directory`."""
        if "path" not in left:
            return left
        return left | {"path": os.path.relpath(directory / left["path"], self._directory)}

    def borrow(self, directory: Path, state: State, config: WorldModelsConfig) -> None:
        """Take what `config.borrowed` left and the phases to come neither make nor make stale.

        Where they are `continued`, what they begin with, too. DataError if that run is of another
        env or lacks something that they need.
        """
        plan, continued = config.phases, config.continued
        goes_on = set(plan) if continued else set()
        if continued and "collect" in plan and config.collect.policy == "controller":
            goes_on.add("controller")  # it drives in V and M as they were, which learn on from that
        if "about" not in state:
            raise DataError(f"{directory}: not a run of world_models")
        if state["about"] != self.about:
            raise DataError(f"{directory}: made with {state['about']}, expected {self.about}")
        made_anew = {*plan, "controller"} if "imitate" in plan else plan
        for phase, left in _checked(state["left"]).items():
            if phase not in config.borrowed:
                continue
            is_stale = phase in made_anew or any(name in plan for name in MADE_WITH[phase])
            if not is_stale or phase in goes_on:
                self._left[phase] = self._as_seen_from_here(left, directory)
        needed = {NEEDS[phase] for phase in plan if phase in NEEDS} - set(plan)
        if continued:
            needed |= {phase for phase in plan if phase not in STORES and phase != "imitate"}
        for phase in sorted(needed - self._left.keys()):
            if phase not in config.borrowed:
                borrowed = list(config.borrowed)
                raise UsageError(f"algo.borrowed: got {borrowed}, expected '{phase}' among them")
            raise DataError(f"{directory}: its phase '{phase}' is not finished")

    def store(self, phase: str) -> FrameStore:
        path = self._directory / self._left[phase]["path"]
        return FrameStore.open(Path(os.path.normpath(path)), about=self.about)

    def earlier_latents(self, config: WorldModelsConfig) -> FrameStore | None:
        """Those of the source, where the same V will look at new frames and M learns on."""
        plan = config.phases
        adds = config.continued and {"collect", "encode"} <= set(plan) and "vision" not in plan
        path = self._left.get("encode", {}).get("path")
        return self.store("encode") if adds and path not in (None, OWN_LATENTS) else None

    def load_network(self, phase: str, network: nn.Module) -> None:
        """Put V's or M's parameters in place, if there are any; DataError for other sizes."""
        if phase in self._left:
            try:
                load_module(network, self._left[phase]["network"])
            except DataError as error:
                raise DataError(f"algo.{phase}: {error}") from error

    def require(self, phase: str, wanted: str, hint: str = "checkpoint=last may have more") -> None:
        """UsageError unless a phase has left what something `wanted` is made of."""
        if phase not in self._left:
            raise UsageError(
                f"{wanted}: needs what the phase '{phase}' leaves, but here are: "
                f"{', '.join(self._left) or 'none'} ({hint})"
            )

    def beginnings(self) -> Beginnings:
        """What dreams begin with; DataError if nothing was encoded."""
        if "encode" not in self._left:
            raise DataError("a dream needs the latents that the phase 'encode' leaves")
        latents = self._left["encode"]
        return Beginnings(*(np.asarray(latents[name], np.float32) for name in ("mu", "logvar")))

    def state(self) -> State:
        return {"about": self.about, "left": self._left}

    def load(self, state: State) -> None:
        self._left = _checked(state["left"])


def _checked(left: Mapping[str, Any]) -> dict[str, State]:
    """What phases left, from a checkpoint that may be anybody's."""
    for phase, state in left.items():
        if not isinstance(state, dict) or not isinstance(state.get("path", ""), str):
            raise DataError(f"{phase}: got {state!r:.100}, expected what that phase leaves")
    return dict(left)
