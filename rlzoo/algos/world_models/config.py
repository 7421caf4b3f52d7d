"""The settings of World Models: a group for each phase, and which phases a run goes through."""

from __future__ import annotations

from dataclasses import dataclass

from rlzoo.algos.world_models.collect import CollectConfig
from rlzoo.algos.world_models.imitate import ImitateConfig
from rlzoo.algos.world_models.memory import MemoryConfig
from rlzoo.algos.world_models.search import ControllerConfig
from rlzoo.algos.world_models.vision import EncodeConfig, VisionConfig
from rlzoo.core.settings import nearest, setting
from rlzoo.core.types import UsageError

PHASES = ("collect", "vision", "encode", "memory", "controller")
ORDER = (*PHASES[:-1], "imitate", PHASES[-1])  # with the one that needs an agent
# What a phase cannot do without, and which phase leaves it.
NEEDS = {"vision": "collect", "encode": "collect", "memory": "encode", "imitate": "collect"}
STORES = ("collect", "encode")  # they leave files
# phase -> phases without which, made anew, what it left is worth nothing
MADE_WITH = {
    "collect": (),
    "vision": (),
    "encode": ("collect", "vision"),
    "memory": ("vision",),
    "controller": ("vision", "memory"),
}


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
    collect: CollectConfig = setting(CollectConfig(), "random play")
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
        if "controller" in self.phases and self.controller.generations is None:
            raise UsageError(
                "algo.controller.generations: got null, expected a number: a search in the dream "
                "takes no env steps, so total_env_steps does not end it"
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
