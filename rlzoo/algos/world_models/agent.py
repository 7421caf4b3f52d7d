"""World Models (Ha & Schmidhuber 2018): one phase after the other, as one algorithm.

collect -> vision (V) -> encode -> memory (M) -> controller (C). All that a finished phase means to
later ones is what it leaves (artefacts.py), so each can also run on what another run left. Shape
suffixes: B envs, F features [z | h | c], M numbers carried from step to step, A actions, N
parameters of C.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from rlzoo.algos.world_models import viewing
from rlzoo.algos.world_models.artefacts import OWN_LATENTS, Artefacts
from rlzoo.algos.world_models.collect import CollectPhase
from rlzoo.algos.world_models.config import WorldModelsConfig, check_run, how_to_do_more
from rlzoo.algos.world_models.controller import ControllerPhase
from rlzoo.algos.world_models.executor import Executor, make_executor
from rlzoo.algos.world_models.imitate import Driver, ImitatePhase, check_agent
from rlzoo.algos.world_models.memory import MemoryPhase, make_rnn
from rlzoo.algos.world_models.phases import Films, Images, Phase
from rlzoo.algos.world_models.random_policies import make_random_policy
from rlzoo.algos.world_models.vision import EncodePhase, VisionPhase, make_vae
from rlzoo.algos.world_models.worker import (
    Recipe,
    check_spaces,
    make_controller,
    make_player,
    make_senses,
    to_frames,
)
from rlzoo.core.algorithm import Setup
from rlzoo.core.parts import module_state
from rlzoo.core.seeding import generator_state, load_generator, numpy_generator
from rlzoo.core.types import FINISHED, Counters, Metrics, State
from rlzoo.envs.make import make_episode_batch

OFFLINE = ("vision", "encode", "memory", "imitate")  # their units count as offline updates
LEARNING = ("vision", "memory", "controller")  # ... as updates
NOISE_STEPS = 4096  # after so many steps of an episode, greedy actions meet the same noise again


class WorldModels:
    needs = ()
    check, check_spaces = staticmethod(check_run), staticmethod(check_spaces)
    check_agent = staticmethod(check_agent)

    def __init__(self, config: WorldModelsConfig, setup: Setup) -> None:
        self.config, self.setup, self.env = config, setup, setup.env
        self.counters = Counters(phase=config.phases[0])
        self._before = replace(self.counters)  # when the current phase began
        self._imitated = config.imitates and str(Path(config.imitates).absolute())  # to resume
        self._scratch: TemporaryDirectory[str] | None = None
        directory = setup.directory
        if directory is None:
            self._scratch = TemporaryDirectory(prefix="rlzoo-")
            directory = Path(self._scratch.name)
        self._directory = directory
        self._phase: Phase | None = None  # made when its turn comes
        self._ended: Phase | None = None  # the one before it, until its pictures are asked for
        self._finished: State | None = None  # of the plan's last phase, once it has ended
        self._executor: Executor | None = None

        action_space = self.env.action_space
        latent_size, [action_size] = config.vision.latent_size, action_space.shape
        self.vae = make_vae(config.vision, setup.seed, setup.device)
        self.rnn = make_rnn(config.memory, latent_size, action_size, setup.seed, setup.device)
        self.senses = make_senses(config.controller, self.vae, self.rnn, setup.device)
        self.controller, self._columns = make_controller(
            config.controller, self.vae, self.rnn, action_space
        )
        self.params_N = np.zeros(self.controller.num_params)
        self.explore_rng = numpy_generator(setup.seed, "exploration")
        noise_rng = numpy_generator(setup.seed, "greedy latents")
        self._noise_TZ = noise_rng.standard_normal((NOISE_STEPS, latent_size), np.float32)
        self.artefacts = Artefacts(self._directory, {"env": setup.env_id})
        if setup.source is not None:
            state = setup.source.state.get("artefacts", {})
            self.artefacts.borrow(setup.source.directory, state, config)
            self._take_artefacts()

    # ---------------------------------------------------------------- acting

    @property
    def has_policy(self) -> bool:
        """False before the first search of C: there is nothing to evaluate, or another run's C."""
        if not {"imitate", "controller"} & set(self.config.phases):
            return False
        return isinstance(self._phase, ControllerPhase) or "controller" in self.artefacts

    def initial_memory(self, num_envs: int) -> np.ndarray:
        """What is carried through an episode, at its start: M's h and c, and the time [B, M]."""
        return np.zeros((num_envs, 2 * self.senses.hidden_size + 1), np.float32)

    def act(self, obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
        """The actions of an episode's first step."""
        return self.act_with_memory(obs_B, self.initial_memory(len(obs_B)), explore=explore)[0]

    @torch.inference_mode()
    def act_with_memory(
        self, obs_B: np.ndarray, memory_BM: np.ndarray, *, explore: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions, and what is to be carried to the next step.

        Latents are sampled as in training. Without `explore` the noise depends on the time alone.
        """
        carry_BM, t_B = torch.from_numpy(memory_BM[:, :-1]), memory_BM[:, -1:]
        if explore:
            shape = (len(obs_B), self.senses.latent_size)
            noise_BZ = self.explore_rng.standard_normal(shape, np.float32)
        else:
            noise_BZ = self._noise_TZ[t_B[:, 0].astype(np.int64) % NOISE_STEPS]
        latent_BZ = self.senses.look(to_frames(obs_B), noise_BZ)
        feature_BF = torch.cat([latent_BZ, carry_BM], dim=1)
        action_BA = self.policy(feature_BF.numpy())
        carry_BM = self.senses.remember(feature_BF, torch.from_numpy(action_BA))
        return action_BA, np.concatenate([carry_BM.numpy(), t_B + 1], axis=1)

    def policy(self, feature_BF: np.ndarray) -> np.ndarray:
        """Actions of C for features [z | h | c]."""
        layers = self.controller.layers(torch.from_numpy(self.params_N[None].astype(np.float32)))
        return self.controller(layers, torch.from_numpy(feature_BF[:, self._columns])).numpy()

    @property
    def driver(self) -> Driver:
        return Driver(self.senses, self.controller, self._columns)

    # ---------------------------------------------------------------- to look at

    def beside(self, obs_B: np.ndarray, memory_BM: np.ndarray) -> np.ndarray:
        """Frames [B, H, 3 * W, 3]: the real ones, what V keeps of them, what M had expected."""
        return viewing.beside(self, obs_B, memory_BM)

    def dream(self, seed: int, temperature: float | None) -> tuple[np.ndarray, float | None]:
        """Frames [T, H, W, 3] and return, if known, of an episode that C plays in M."""
        return viewing.dream_film(self, seed=seed, temperature=temperature)

    # ---------------------------------------------------------------- phases

    def step(self) -> Metrics:
        """One unit of the current phase."""
        if self._phase is None:
            self._phase = self._begin(self.counters.phase)
        phase = self._phase
        metrics = phase.step()
        self._count(phase)
        if isinstance(phase, ControllerPhase):
            self.params_N = phase.params_N
        if phase.done():
            self._finish(phase)
        return metrics

    def _count(self, phase: Phase) -> None:
        counters, before = self.counters, self._before
        units = phase.progress()[0]
        counters.env_steps = before.env_steps + phase.env_steps
        counters.episodes = before.episodes + getattr(phase, "played", 0)
        if phase.name in OFFLINE:
            counters.offline_updates = before.offline_updates + units
        if isinstance(phase, ControllerPhase):  # a batch of dreamed steps counts as one
            batches = phase.dream_steps // self.config.controller.num_envs
            counters.offline_updates = before.offline_updates + batches
        if phase.name in LEARNING:
            counters.updates = before.updates + units

    def _finish(self, phase: Phase) -> None:
        self.artefacts.keep(phase)
        self._take_artefacts()
        self._leave()
        self._ended = phase
        plan = self.config.phases
        following = plan[plan.index(phase.name) + 1 :]
        if following:
            self.counters.phase = following[0]
            self._before = replace(self.counters)
        else:
            self.counters.phase, self._finished = FINISHED, phase.state()

    def _take_artefacts(self) -> None:
        self.artefacts.load_network("vision", self.vae)
        self.artefacts.load_network("memory", self.rnn)
        if "controller" in self.artefacts:
            self._take_params(self.artefacts["controller"])

    def _take_params(self, state: State) -> None:
        self.params_N = np.array(state[self.config.controller.play])

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
        envs = make_episode_batch(self.setup.env_config)
        envs.num_envs = self.env.num_envs
        config, [action_size] = self.config.collect, self.env.action_space.shape
        if config.policy == "controller":
            hint = "where V or M is made anew, C is gone: algo.continued=true, or a run for collect"
            self.artefacts.require("controller", "algo.collect.policy=controller", hint)
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
                actor=self,
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
        agent = self.setup.load_agent(self._imitated)
        agent.env.close()
        check_agent(self.config, self.setup.env_id, agent)
        return ImitatePhase(
            self.config.imitate,
            seed=self.setup.seed,
            frames=self.artefacts.store("collect"),
            agent=agent.driver,
            params_N=agent.params_N,
            pupil=self.driver,
            patience_env_steps=self.config.controller.patience_env_steps,
        )

    def _controller(self) -> ControllerPhase:
        config = self.config.controller
        recipe = Recipe(
            config=self.config,
            make_episodes=partial(make_episode_batch, self.setup.env_config),
            action_space=self.env.action_space,
            vae=as_arrays(self.vae),
            rnn=as_arrays(self.rnn),
            beginnings=self.artefacts.beginnings() if config.train_in == "dream" else None,
            threads=max(1, torch.get_num_threads() // max(1, config.workers)),
            device=self.setup.device,
        )
        self._executor = make_executor(
            partial(make_player, recipe),
            workers=config.workers,
            kind=config.executor,
            timeout_seconds=config.timeout_seconds,
        )
        phase = ControllerPhase(
            config,
            seed=self.setup.seed,
            num_params=self.controller.num_params,
            executor=self._executor,
        )
        if "controller" in self.artefacts:
            phase.continue_from(self.artefacts["controller"])
        return phase

    # ---------------------------------------------------------------- for the loop

    def done(self) -> bool:
        counters = self.counters
        return counters.phase == FINISHED or counters.clock >= self.setup.total_env_steps

    def progress(self) -> tuple[str, int, int, str]:
        """The phase that worked last, and how many of how many units of which kind it has done."""
        phase = self._phase or self._ended
        if phase is None:
            return self.counters.phase, 0, 0, ""
        return phase.name, *phase.progress(), phase.unit

    def gauges(self) -> dict[str, float]:
        gauges = getattr(self._phase, "gauges", dict)
        return {"train/updates": float(self.counters.updates), **gauges()}

    def pictures(self) -> tuple[Images, Films]:
        """Of the current phase, and once of the one that has just ended."""
        images: Images = {}
        films: Films = {}
        for phase in (self._ended, self._phase):
            images |= getattr(phase, "images", dict)()
            films |= getattr(phase, "films", dict)()
        self._ended = None
        return images, films

    def state(self) -> State:
        return {
            "counters": self.counters.state(),
            "before": self._before.state(),
            "imitated": self._imitated,
            "artefacts": self.artefacts.state(),
            "current": self._phase.state() if self._phase is not None else self._finished,
            "explore_rng": generator_state(self.explore_rng),
        }

    def load(self, state: State) -> None:
        self._leave()
        self.load_policy(state)
        self.counters.load(state["counters"])
        self._before.load(state["before"])
        self._imitated = state.get("imitated", self._imitated)  # older runs have none
        load_generator(self.explore_rng, state["explore_rng"])
        self._finished = None
        if state["current"] is None:
            return
        is_finished = self.counters.phase == FINISHED
        name = self.config.phases[-1] if is_finished else self.counters.phase
        self._phase = self._begin(name)
        self._phase.load(state["current"])
        if is_finished and self._phase.done():
            self._leave()
            self._finished = state["current"]
        elif is_finished:  # by now the settings ask for more of it
            self.counters.phase = name

    def to_go_on(self) -> str:
        """What a finished run needs to do more when it is resumed."""
        if self.counters.phase != FINISHED:
            return "raise total_env_steps to go on"
        return how_to_do_more(self.config.phases, self._directory, self._finished is not None)

    def policy_state(self) -> State:
        names = ("vision", "encode", "memory")
        left = {name: self.artefacts[name] for name in names if name in self.artefacts}
        left["controller"] = {"mean": self.params_N, "best": self.params_N}
        return {
            "counters": self.counters.state(),
            "artefacts": {**self.artefacts.state(), "left": left},
            "current": None,
        }

    def load_policy(self, state: State) -> None:
        self.artefacts.load(state["artefacts"])
        self._take_artefacts()
        if state["current"] is not None and state["counters"]["phase"] == "controller":
            self._take_params(state["current"])

    def _leave(self) -> None:
        """Let go of the current phase."""
        if self._executor is not None:
            self._executor.close()
        self._phase = self._executor = None

    def close(self) -> None:
        self._leave()
        if self._scratch is not None:
            self._scratch.cleanup()


def as_arrays(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.cpu().numpy() for name, tensor in module_state(module).items()}
