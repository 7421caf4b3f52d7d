"""The settings of World Models: a group for each phase, and which phases a run goes through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlzoo.algos.world_models.collect import CollectConfig
from rlzoo.algos.world_models.controller import ControllerConfig
from rlzoo.algos.world_models.executor import require_ray
from rlzoo.algos.world_models.imitate import ImitateConfig
from rlzoo.algos.world_models.memory import MemoryConfig
from rlzoo.algos.world_models.vision import EncodeConfig, VisionConfig
from rlzoo.core.settings import nearest, setting
from rlzoo.core.types import UsageError

PHASES = ("collect", "vision", "encode", "memory", "controller")
ORDER = (*PHASES[:-1], "imitate", PHASES[-1])  # with the one that needs an agent
# What a phase cannot do without, and which phase leaves it.
NEEDS = {"vision": "collect", "encode": "collect", "memory": "encode", "imitate": "collect"}
# What a finished phase goes on for, if it is raised.
MORE = {
    "collect": "collect.episodes",
    "vision": "vision.epochs",
    "memory": "memory.epochs",
    "imitate": "imitate.episodes",
    "controller": "controller.generations",
}
# phase -> phases without which, made anew, what it left is worth nothing
MADE_WITH = {
    "collect": (),
    "vision": (),
    "encode": ("collect", "vision"),
    "memory": ("vision",),
    "controller": ("vision", "memory"),
}


@dataclass(frozen=True)
class RandomPlayConfig(CollectConfig):
    policy: Literal["networks", "brownian", "held", "one_control", "controller"] = setting(
        "networks",
        "who plays: recurrent networks drawn at random (the paper, CarRacing), a random walk, "
        "uniform actions held for a while (TakeCover), one control of CarRacing at a time, or "
        "the source's C, disturbed (the paper's iterative training)",
    )
    held_steps: int = setting(
        10, "policy=held, controller: a random action lasts at most this (TakeCover: 10)", low=1
    )
    disturbance_rate: float = setting(
        0.01, "policy=controller: how often a random action cuts in, in each step", low=0, high=1
    )
    forced_start_steps: int = setting(
        0, "CarRacing: full gas for so many steps first (the walk-through: 60)", low=0
    )


@dataclass(frozen=True)
class WorldModelsConfig:
    """A phase that is left out has taught nothing: V and M stay as they were made, at random."""

    name: str = "world_models"
    phases: tuple[str, ...] = setting(
        PHASES,
        "the phases of this run, some or all of them, in this order; before `controller` may come "
        "`imitate`, where C begins as another agent's",
        fixed=True,
    )
    source: str = setting(
        "", "a run whose frames, latents, V, M and C stand in for phases left out", fixed=True
    )
    borrowed: tuple[str, ...] = setting(
        PHASES, "the source's phases that may stand in, some or all of them", fixed=True
    )
    continued: bool = setting(
        False, "V, M and C begin as the source's, where this run trains them, not anew", fixed=True
    )
    collect: RandomPlayConfig = setting(RandomPlayConfig(), "random play")
    vision: VisionConfig = setting(VisionConfig(), "V, the VAE")
    encode: EncodeConfig = setting(EncodeConfig(), "from frames to latents")
    memory: MemoryConfig = setting(MemoryConfig(), "M, the MDN-RNN")
    imitate: ImitateConfig = setting(ImitateConfig(), "C as another agent's, for a new V or M")
    controller: ControllerConfig = setting(ControllerConfig(), "C, searched by CMA-ES")

    def check(self) -> None:
        for key, names, known in (
            ("phases", self.phases, ORDER),
            ("borrowed", self.borrowed, PHASES),
        ):
            for name in names:
                if name not in known:
                    raise UsageError(
                        f"algo.{key}: unknown phase '{name}'.{nearest(name, known)} "
                        f"Known: {', '.join(known)}"
                    )
        for name in self.borrowed:
            for other in MADE_WITH[name]:
                if other not in self.borrowed:
                    raise UsageError(
                        f"algo.borrowed: got '{name}' without '{other}', with which it was made"
                    )
        if not self.phases or list(self.phases) != sorted(set(self.phases), key=ORDER.index):
            raise UsageError(
                f"algo.phases: got {list(self.phases)}, expected one or more of "
                f"{', '.join(ORDER)}, in this order"
            )
        population, groups = self.controller.population, self.controller.groups
        if 2 * groups > population:
            raise UsageError(
                f"algo.controller.groups: got {groups}, expected at most {population // 2}, two "
                f"members of algo.controller.population={population} in each"
            )
        replayed = self.controller.replayed_groups
        if replayed >= groups:
            raise UsageError(
                f"algo.controller.replayed_groups: got {replayed}, expected fewer than "
                f"algo.controller.groups={groups}, so that new episodes are played, too"
            )
        if self.controller.train_in == "dream":
            self._check_dream()
        if not self.source:
            self._check_without_source()
        if "imitate" in self.phases:
            self._check_imitate()

    def _check_imitate(self) -> None:
        if not self.imitates:
            raise UsageError("algo.phases: 'imitate' got no agent, expected algo.imitate.agent=RUN")
        if self.controller.hidden:
            raise UsageError(
                f"algo.controller.hidden: got {self.controller.hidden}, expected 0: what the phase "
                "'imitate' fits is linear"
            )

    @property
    def imitates(self) -> str:
        """The run whose agent the phase `imitate` is about, if there is that phase."""
        return (self.imitate.agent or self.source) if "imitate" in self.phases else ""

    def _check_dream(self) -> None:
        if not (self.memory.reward_head or self.memory.done_head):
            raise UsageError(
                "algo.controller.train_in=dream: all episodes would be equal, expected "
                "algo.memory.done_head=true or algo.memory.reward_head=true"
            )

    def _check_without_source(self) -> None:
        if self.continued:
            raise UsageError("algo.continued=true: got no algo.source, expected a run")
        if "collect" in self.phases and self.collect.policy == "controller":
            raise UsageError("algo.collect.policy=controller: got no algo.source, expected a run")
        needs = dict(NEEDS)
        if self.controller.train_in == "dream":
            needs["controller"] = "encode"
        for name in self.phases:
            if name in needs and needs[name] not in self.phases:
                raise UsageError(
                    f"algo.phases: '{name}' needs what '{needs[name]}' leaves: add that phase, or "
                    "a run that went through it (algo.source=RUN)"
                )


def check_run(run: Any) -> None:
    """UsageError for what the phases would ignore, or ask for hours later."""
    search = run.algo.controller
    if run.env.backend == "process" and (search.workers or search.executor == "ray"):
        raise UsageError(
            "env.backend=process: workers of algo.controller have their envs in themselves, "
            "expected algo.controller.workers=0, or env.backend=sync"
        )
    if "controller" in run.algo.phases and search.executor == "ray":
        require_ray()


def how_to_do_more(plan: Sequence[str], directory: Path, can_be_raised: bool) -> str:
    """Advice for a run that has finished all phases of `plan`, the last of which may be resumed."""
    ways, learnt = [], [name for name in plan if name in ("vision", "memory", "controller")]
    if can_be_raised and plan[-1] in MORE:
        ways.append(f"raise algo.{MORE[plan[-1]]} to go on")
    if learnt:
        ways.append(
            f"train {' or '.join(learnt)} further in a new run: rlzoo from={directory} "
            f"algo.phases=[{learnt[0]}] algo.continued=true"
        )
    return ", or ".join(ways) or "so are all its phases"
