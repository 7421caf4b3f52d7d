"""World Models (Ha & Schmidhuber 2018): one phase after the other, as one algorithm.

collect -> vision (V) -> encode -> memory (M) -> controller (C). All that a finished phase means to
later ones is what it leaves (artefacts.py), so each can also run on what another run left. The
order to read in is the paper's: models.py, collect.py, vision.py, memory.py, dream.py, policy.py,
population.py, search.py, and this file last. Shape suffixes: B envs, N parameters of C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from rlzoo.algos.world_models.artefacts import OWN_LATENTS, Artefacts
from rlzoo.algos.world_models.collect import CollectPhase
from rlzoo.algos.world_models.config import ORDER, WorldModelsConfig
from rlzoo.algos.world_models.executor import make_executor, require_ray
from rlzoo.algos.world_models.imitate import ImitatePhase
from rlzoo.algos.world_models.memory import MemoryPhase, make_rnn
from rlzoo.algos.world_models.phases import Phase
from rlzoo.algos.world_models.policy import (
    VMCPolicy,
    beside,
    check_env,
    dream_film,
    make_controller,
    make_senses,
    to_frames,
)
from rlzoo.algos.world_models.random_policies import make_random_policy
from rlzoo.algos.world_models.search import ControllerPhase, Recipe, make_player
from rlzoo.algos.world_models.vision import EncodePhase, VisionPhase, make_vae
from rlzoo.core.algorithm import Algorithm, Memory, Progress, Report, Setup, Sources
from rlzoo.core.parts import module_state
from rlzoo.core.seeding import numpy_generator
from rlzoo.core.types import FINISHED, Counters, Metrics, State, UsageError
from rlzoo.io.regular import foreign

LEARNING = ("vision", "memory", "controller")  # a new run can train what they made further
CLASSES: dict[str, type[Phase]] = {
    phase.name: phase
    for phase in (
        CollectPhase,
        VisionPhase,
        EncodePhase,
        MemoryPhase,
        ImitatePhase,
        ControllerPhase,
    )
}


class WorldModels(Algorithm):
    def __init__(self, config: WorldModelsConfig, setup: Setup) -> None:
        assert setup.envs is not None
        self.config, self.setup, self.env, self.envs = config, setup, setup.env, setup.envs
        self.total_env_steps = setup.total_env_steps
        self.counters = Counters(phase=config.phases[0])
        self._before = replace(self.counters)  # when the current phase began
        self._scratch: TemporaryDirectory[str] | None = None
        directory = setup.directory
        if directory is None:
            self._scratch = TemporaryDirectory(prefix="rlzoo-")
            directory = Path(self._scratch.name)
        self._directory = directory
        self._phase: Phase | None = None  # made when its turn comes
        self._ended: Phase | None = None  # the one before it, until its pictures are asked for
        self._finished: State | None = None  # of the plan's last phase, once it has ended

        action_space = self.env.action_space
        latent_size, [action_size] = config.vision.latent_size, action_space.shape
        self.vae = make_vae(config.vision, setup.seed, setup.device)
        self.rnn = make_rnn(config.memory, latent_size, action_size, setup.seed, setup.device)
        self.actor = VMCPolicy(
            make_senses(config.controller, self.vae, self.rnn, setup.device),
            *make_controller(config.controller, self.vae, self.rnn, action_space),
            seed=setup.seed,
        )
        self.artefacts = Artefacts(self._directory, {"env": without_module(self.envs.id)})
        self.parts = {
            "before": self._before,
            "artefacts": self.artefacts,
            "explore_rng": self.actor.explore_rng,
        }
        if setup.source is not None:
            with foreign(setup.source.directory):
                state = setup.source.state.get("artefacts", {})
                self.artefacts.borrow(setup.source.directory, state, config)
                self._use_artefacts()
        self._offer_policy()

    # ---------------------------------------------------------------- settings

    @staticmethod
    def check(run: Any) -> None:
        search = run.algo.controller
        if run.env.backend == "process" and (search.workers or search.executor == "ray"):
            raise UsageError(
                "env.backend=process: workers of algo.controller have their envs in themselves, "
                "expected algo.controller.workers=0, or env.backend=sync"
            )
        if "controller" in run.algo.phases and search.executor == "ray":
            require_ray()

    @staticmethod
    def check_spaces(config: WorldModelsConfig, observation_space: Any, action_space: Any) -> None:
        check_env(observation_space, action_space)
        for_cars = config.collect.policy == "one_control" or config.collect.forced_start_steps
        if for_cars and action_space.shape != (3,):
            raise UsageError(
                "algo.collect: policy=one_control and forced_start_steps are for CarRacing, got "
                f"actions {action_space}"
            )

    @staticmethod
    def sources(config: WorldModelsConfig) -> Sources:
        return Sources(run=config.source, agent=config.imitates)

    @staticmethod
    def check_agent(config: WorldModelsConfig, env_id: str, agent: Algorithm) -> None:
        if not isinstance(agent, WorldModels) or not agent.actor.params_N.any():
            raise UsageError(
                f"algo.imitate.agent: {config.imitates} has no C, expected a run of world_models "
                "that has come to its phase 'controller'"
            )
        got, expected = without_module(agent.envs.id), without_module(env_id)
        if got != expected:
            raise UsageError(
                f"algo.imitate.agent: {config.imitates} acts in {got}, expected {expected}"
            )

    # ---------------------------------------------------------------- phases

    def step(self) -> Metrics:
        """One unit of the current phase."""
        if self._phase is None:
            self._phase = self._begin(self.counters.phase)
        phase = self._phase
        metrics = phase.step()
        self._count(phase)
        self._act_as(phase)
        if phase.done():
            self._finish(phase)
        self._offer_policy()
        return metrics

    def _count(self, phase: Phase) -> None:
        counters, before, counted = self.counters, self._before, phase.counted()
        counters.env_steps = before.env_steps + counted.env_steps
        counters.episodes = before.episodes + counted.episodes
        counters.updates = before.updates + counted.updates
        counters.offline_units = before.offline_units + counted.offline_units

    def _act_as(self, phase: Phase) -> None:
        params_N = phase.params_of_c()
        if params_N is not None:
            self.actor.params_N = params_N

    def _finish(self, phase: Phase) -> None:
        self.artefacts.keep(phase)
        self._use_artefacts()
        self._leave()
        self._ended = phase
        plan = self.config.phases
        following = plan[plan.index(phase.name) + 1 :]
        if following:
            self.counters.phase = following[0]
            self._before.load(self.counters.state())
        else:
            self.counters.phase, self._finished = FINISHED, phase.state()

    def _use_artefacts(self) -> None:
        self.artefacts.load_network("vision", self.vae)
        self.artefacts.load_network("memory", self.rnn)
        if "controller" in self.artefacts:
            self._use_params(self.artefacts["controller"])

    def _use_params(self, searched: State) -> None:
        self.actor.params_N = np.array(searched[self.config.controller.play])

    def _offer_policy(self, *, searching: bool = False) -> None:
        """None before the first search of C: there is nothing to evaluate, or another run's C."""
        searching = searching or bool(self._phase and self._phase.params_of_c() is not None)
        makes_c = not {"imitate", "controller"}.isdisjoint(self.config.phases)
        has_c = makes_c and (searching or "controller" in self.artefacts)
        self.policy = self.actor if has_c else None

    def _leave(self) -> None:
        """Let go of the current phase."""
        if self._phase is not None:
            self._phase.close()
        self._phase = None

    def _begin(self, name: str) -> Phase:
        """A phase at its start; where it is continued, with what the source's came to."""
        make: dict[str, Callable[[], Phase]] = {
            "collect": self._collect,
            "vision": self._vision,
            "encode": self._encode,
            "memory": self._memory,
            "imitate": self._imitate,
            "controller": self._controller,
        }
        return make[name]()

    def _collect(self) -> CollectPhase:
        config, [action_size] = self.config.collect, self.env.action_space.shape
        if config.policy == "controller":
            hint = "where V or M is made anew, C is gone: algo.continued=true, or a run for collect"
            self.artefacts.require("controller", "algo.collect.policy=controller", hint)
        envs = self.envs.make_batch()
        envs.num_envs = self.env.num_envs
        return CollectPhase(
            config,
            seed=self.setup.seed,
            directory=self._directory / "frames",
            envs=envs,
            policy=make_random_policy(
                config.policy,
                self.env.action_space,
                numpy_generator(self.setup.seed, "collect"),
                clipped=self.config.controller.clipped_actions,
                forced_start_steps=config.forced_start_steps,
                held_steps=config.held_steps,
                actor=self.actor,
                disturbance_rate=config.disturbance_rate,
            ),
            preprocess=to_frames,
            action_size=action_size,
            about=self.artefacts.about,
        )

    def _vision(self) -> VisionPhase:
        phase = VisionPhase(
            self.config.vision,
            seed=self.setup.seed,
            frames=self.artefacts.store("collect"),
            device=self.setup.device,
            compile=self.setup.compile,
        )
        self.artefacts.load_network("vision", phase.vae)
        return phase

    def _encode(self) -> EncodePhase:
        return EncodePhase(
            self.config.encode,
            frames=self.artefacts.store("collect"),
            vae=self.vae,
            directory=self._directory / OWN_LATENTS,
            earlier=self.artefacts.earlier_latents(self.config),
        )

    def _memory(self) -> MemoryPhase:
        phase = MemoryPhase(
            self.config.memory,
            seed=self.setup.seed,
            latents=self.artefacts.store("encode"),
            vae=self.vae,
            frames=self.artefacts.store("collect") if "collect" in self.artefacts else None,
            device=self.setup.device,
        )
        self.artefacts.load_network("memory", phase.rnn)
        return phase

    def _imitate(self) -> ImitatePhase:
        assert self.setup.agent is not None
        agent = self.setup.agent()
        agent.env.close()
        agent.close()
        self.check_agent(self.config, self.envs.id, agent)
        assert isinstance(agent, WorldModels)
        return ImitatePhase(
            self.config.imitate,
            seed=self.setup.seed,
            frames=self.artefacts.store("collect"),
            agent=agent.actor,
            pupil=self.actor,
            patience_env_steps=self.config.controller.patience_env_steps,
        )

    def _controller(self) -> ControllerPhase:
        config = self.config.controller
        recipe = Recipe(
            vision=self.config.vision,
            memory=self.config.memory,
            controller=config,
            make_episodes=self.envs.make_batch,
            action_space=self.env.action_space,
            vae=as_arrays(self.vae),
            rnn=as_arrays(self.rnn),
            beginnings=self.artefacts.beginnings() if config.train_in == "dream" else None,
            threads=max(1, torch.get_num_threads() // max(1, config.workers)),
            device=self.setup.device,
        )
        phase = ControllerPhase(
            config,
            seed=self.setup.seed,
            num_params=self.actor.controller.num_params,
            executor=make_executor(
                partial(make_player, recipe),
                workers=config.workers,
                kind=config.executor,
                timeout_seconds=config.timeout_seconds,
            ),
        )
        if "controller" in self.artefacts:
            phase.continue_from(self.artefacts["controller"])
        return phase

    # ---------------------------------------------------------------- for the loop

    def done(self) -> bool:
        return self.counters.phase == FINISHED or super().done()

    def progress(self) -> Progress:
        phase = self._phase or self._ended
        if phase is None:  # how much it has to do is known when it begins
            return Progress(self.counters.phase, 0, 0, "units")
        done, total = phase.progress()
        if not total:
            return super().progress()
        return Progress(phase.name, done, total, phase.unit)

    def how_to_continue(self) -> str:
        if self.counters.phase != FINISHED:
            return super().how_to_continue()
        last = CLASSES[self.config.phases[-1]]
        ways, learnt = [], [name for name in self.config.phases if name in LEARNING]
        if self._finished is not None and last.length:
            ways.append(f"raise algo.{last.length} to go on")
        if learnt:
            ways.append(
                f"train {' or '.join(learnt)} further in a new run: rlzoo from={self._directory} "
                f"algo.phases=[{learnt[0]}] algo.continued=true"
            )
        return ", or ".join(ways) or "so are all its phases"

    def spent(self) -> Iterable[str]:
        """Of the phases that are over or not in the plan."""
        plan, phase = self.config.phases, self.counters.phase
        to_come = plan[-1:] if phase == FINISHED else plan[plan.index(phase) :]
        over = [name for name in ORDER[:-1] if name not in to_come]  # C's say how it acts, too
        names = {f"{name}.{f.name}" for name in over for f in fields(getattr(self.config, name))}
        return names - {"vision.precision"}  # which V computes in later, too

    def gauges(self) -> dict[str, float]:
        of_phase = self._phase.gauges() if self._phase is not None else {}
        return {"train/updates": float(self.counters.updates), **of_phase}

    def report(self) -> Iterable[Report]:
        """Of the current phase, and once of the one that has just ended."""
        for phase in (self._ended, self._phase):
            if phase is not None:
                yield from phase.report()
        self._ended = None

    def beside(self, obs_B: np.ndarray, memory: Memory) -> np.ndarray:
        """Frames [B, H, 3 * W, 3]: the real ones, what V keeps of them, what M had expected.

        The last is missing where M has learnt nothing or is not in use.
        """
        self.artefacts.require("vision", "beside=true")
        uses_m = self.actor.senses.hidden_size and "memory" in self.artefacts
        return beside(obs_B, memory, self.vae, self.rnn if uses_m else None)

    def dream(self, seed: int, temperature: float | None) -> tuple[np.ndarray, float | None]:
        """An episode that C plays in M; the settings' temperature where none is given."""
        for phase in ("encode", "memory"):
            self.artefacts.require(phase, "dream=true")
        config = self.config.controller
        return dream_film(
            self.actor,
            self.vae,
            self.rnn,
            self.artefacts.beginnings(),
            seed=seed,
            temperature=config.temperature if temperature is None else temperature,
            max_steps=config.max_dream_steps,
        )

    def close(self) -> None:
        self._leave()
        if self._scratch is not None:
            self._scratch.cleanup()

    # ---------------------------------------------------------------- checkpoints

    # The current phase is no part: it can be made only once the counters and artefacts are loaded.

    def state(self) -> State:
        current = self._phase.state() if self._phase is not None else self._finished
        return {**super().state(), "current": current}

    def load(self, state: State) -> None:
        self._leave()
        super().load(state)
        self._use_artefacts()
        self._finished = None
        if state["current"] is not None:
            self._load_phase(state["current"])
        self._offer_policy()

    def _load_phase(self, current: State) -> None:
        is_finished = self.counters.phase == FINISHED
        name = self.config.phases[-1] if is_finished else self.counters.phase
        self._phase = phase = self._begin(name)
        phase.load(current)
        self._act_as(phase)
        if is_finished and phase.done():
            self._leave()
            self._finished = current
        elif is_finished:  # by now the settings ask for more of it
            self.counters.phase = name

    # Of V, M and C no more is needed than the artefacts; C may be one that is still searched.

    def policy_state(self) -> State:
        names = ("vision", "encode", "memory")
        left = {name: self.artefacts[name] for name in names if name in self.artefacts}
        left["controller"] = {"mean": self.actor.params_N, "best": self.actor.params_N}
        return {
            "counters": self.counters.state(),
            "artefacts": {**self.artefacts.state(), "left": left},
            "current": None,
        }

    def load_policy(self, state: State) -> None:
        self.artefacts.load(state["artefacts"])
        self._use_artefacts()
        searching = state["current"] is not None and state["counters"]["phase"] == "controller"
        if searching:
            self._use_params(state["current"])
        self._offer_policy(searching=searching)


def without_module(env_id: str) -> str:
    """An env's name in a gymnasium id; the module that registers it may move."""
    return env_id.rpartition(":")[2]


def as_arrays(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.cpu().numpy() for name, tensor in module_state(module).items()}
