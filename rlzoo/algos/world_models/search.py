"""The last phase, `controller`: CMA-ES searches C's parameters (Ha & Schmidhuber 2018, 2.4).

One unit of work is a generation: all members play the same episodes, or all of a group do, and
CMA-ES learns from their mean returns. Shape suffixes: P members, G groups, E episodes, N
parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces

from rlzoo.algos.world_models.cma_es import CMAES, CMAESConfig
from rlzoo.algos.world_models.dream import Beginnings, Dream
from rlzoo.algos.world_models.executor import Executor, Kind
from rlzoo.algos.world_models.memory import MemoryConfig, make_rnn
from rlzoo.algos.world_models.phases import Phase
from rlzoo.algos.world_models.policy import PolicyConfig, make_controller, make_senses, to_frames
from rlzoo.algos.world_models.population import Outcome, Player, SeenEpisodes, Share
from rlzoo.algos.world_models.vision import VisionConfig, make_vae
from rlzoo.core.parts import load_module
from rlzoo.core.seeding import SELECT, TRAIN, episode_seed
from rlzoo.core.settings import setting
from rlzoo.core.types import Counters, Metrics, State

if TYPE_CHECKING:
    from rlzoo.envs.batch import EpisodeBatch

POPULATION = -1  # in the place of an env's index, for the seeds of a generation's episodes


@dataclass(frozen=True)
class ControllerConfig(PolicyConfig, CMAESConfig):
    """What C is, how CMA-ES moves, and how members play."""

    train_in: Literal["env", "dream"] = setting("env", "where members play")
    temperature: float = setting(
        1.15, "of the dream: higher is less certain (the paper: 1.15)", above=0
    )
    max_dream_steps: int = setting(2100, "a dream ends after so many (TakeCover: 2100)", low=1)
    generations: int | None = setting(
        None,
        "the phase ends after so many, those of a continued search not counted (null: when "
        "total_env_steps are over; not where the search takes none)",
        low=1,
    )
    episodes: int = setting(
        1, "that each member plays in a generation, the same for all (the paper: 16)", low=1
    )
    groups: int = setting(
        1,
        "members are dealt into so many groups, each with episodes of its own, and count by how "
        "far they are above their group's mean: more episodes teach, and none more is played",
        low=1,
    )
    replayed_groups: int = setting(
        0,
        "the episodes of so many groups, those with the lowest returns of a generation, are played "
        "again in the next: what goes wrong is practised most (as Jiang et al. 2021 replay levels)",
        low=0,
    )
    averaged_generations: int = setting(
        1,
        "the search's mean, as it is played, is averaged over about so many generations, for steps "
        "in a noisy search go around the best place (1: the newest; Polyak & Juditsky 1992)",
        low=1,
    )
    patience_env_steps: int | None = setting(
        None,
        "in training, an episode without a reward above 0 for so long is ended (null: never)",
        low=1,
    )
    evaluate_every_generations: int = setting(
        25, "the mean of the search is played on other seeds this often (the original: 25)", low=1
    )
    evaluate_episodes: int = setting(16, "that it then plays (the original: 1024)", low=1)
    play: Literal["mean", "best"] = setting(
        "mean",
        "who acts for the run: the mean of the search, or the mean that did best when played",
    )
    num_envs: int = setting(64, "episodes that a worker plays side by side", low=1)
    workers: int = setting(0, "processes that share a generation; 0: this one alone", low=0)
    executor: Kind = setting("process", "what workers are: processes here, or actors of Ray")
    timeout_seconds: float = setting(
        300.0, "a worker that gives no sign of life for so long is replaced", above=0
    )


class ControllerPhase(Phase):
    """Searches `num_params` parameters with CMA-ES; `executor` has `population.Player`s.

    A generation that is interrupted is played again: until it ends, `state` is the one that it
    began with. So is the evaluation of the mean.
    """

    name: ClassVar = "controller"
    unit: ClassVar = "generations"
    length: ClassVar = "controller.generations"

    def __init__(
        self, config: ControllerConfig, *, seed: int, num_params: int, executor: Executor
    ) -> None:
        self.config, self.seed, self.executor = config, seed, executor
        self.es = CMAES(num_params, config, seed=seed)
        self.mean_N = self.best_N = self.es.mean_N
        self.best_return: float | None = None  # of the best mean, when it was played
        self.env_steps = self.dream_steps = self.played = 0
        self._earlier_generations = 0  # of the search that this one continues
        self._evaluation_is_due = False
        self._replayed_RE = np.empty((0, config.episodes), np.int64)  # seeds of episodes gone wrong
        self._under_way: State | None = None  # the state before the work in progress

    @property
    def params_N(self) -> np.ndarray:
        """The parameters of the policy."""
        return self.best_N if self.config.play == "best" else self.mean_N

    def step(self) -> Metrics:
        """Go on with a generation, or an evaluation, for a moment; metrics where it ends."""
        if self._under_way is None:
            self._under_way = self._state()
            self._begin()
        outcomes = self.executor.poll()
        if outcomes is None:
            return {}
        self._under_way = None
        parts = (np.concatenate(arrays) for arrays in zip(*outcomes, strict=True))
        outcome = Outcome(*parts)
        return self._evaluated(outcome) if self._evaluation_is_due else self._learn(outcome)

    def _begin(self) -> None:
        config = self.config
        if self._evaluation_is_due:
            seeds = [episode_seed(self.seed, SELECT, 0, k) for k in range(config.evaluate_episodes)]
            members_PN = np.tile(self.mean_N, (len(seeds), 1))
            seed_PE, patience = np.array(seeds)[:, None], None
        else:
            self._params_PN = members_PN = self.es.ask()
            seed_PE, patience = self._seed_GE()[self._group_P()], config.patience_env_steps
        count = min(max(config.workers, 1), len(members_PN))
        parts = (np.array_split(array, count) for array in (members_PN, seed_PE))
        shares = [Share(params, seeds, patience) for params, seeds in zip(*parts, strict=True)]
        self.executor.start(shares)

    def _seed_GE(self) -> np.ndarray:
        """Of the episodes of this generation: new ones, but for the groups that replay."""
        groups, episodes = self.config.groups, self.config.episodes
        first = self.es.generation * groups * episodes
        seeds = [
            episode_seed(self.seed, TRAIN, POPULATION, first + k) for k in range(groups * episodes)
        ]
        seed_GE = np.array(seeds).reshape(groups, episodes)
        replayed_RE = self._replayed_RE[: self.config.replayed_groups]
        seed_GE[: len(replayed_RE)] = replayed_RE
        return seed_GE

    def _group_P(self) -> np.ndarray:
        """Neighbours share a group: the step size comes from comparing the first two members."""
        return np.arange(self.config.population) * self.config.groups // self.config.population

    def _learn(self, outcome: Outcome) -> Metrics:
        return_P = outcome.return_PE.mean(axis=1)
        group_P = self._group_P()
        mean_G = np.bincount(group_P, return_P) / np.bincount(group_P)
        lowest_R = mean_G.argsort(kind="stable")[: self.config.replayed_groups]
        self._replayed_RE = self._seed_GE()[lowest_R]
        self.es.tell(self._params_PN, return_P - mean_G[group_P])
        newest = 1 / min(self.es.generation, self.config.averaged_generations)
        self.mean_N = (1 - newest) * self.mean_N + newest * self.es.mean_N
        steps = int(outcome.length_PE.sum())
        if self.config.train_in == "dream":
            self.dream_steps += steps
        else:
            self.env_steps += steps
        self.played += outcome.return_PE.size
        self._evaluation_is_due = self.es.generation % self.config.evaluate_every_generations == 0
        return {
            "rollout/return_mean": float(return_P.mean()),
            "rollout/return_max": float(return_P.max()),
            "rollout/return_std": float(return_P.std()),
            "rollout/length_mean_env_steps": float(outcome.length_PE.mean()),
        }

    def _evaluated(self, outcome: Outcome) -> Metrics:
        self._evaluation_is_due = False
        return_mean = float(outcome.return_PE.mean())
        if self.best_return is None or return_mean > self.best_return:
            self.best_N, self.best_return = self.mean_N, return_mean
        return {
            "eval/heldout_return_mean": return_mean,
            "eval/heldout_return_std": float(outcome.return_PE.std()),
        }

    def gauges(self) -> dict[str, float]:
        return {
            "train/generations": float(self.es.generation),
            "train/sigma": self.es.sigma,
            "train/dream_steps": float(self.dream_steps),
        }

    def done(self) -> bool:
        done, total = self.progress()
        return 0 < total <= done and not self._evaluation_is_due

    def progress(self) -> tuple[int, int]:
        """Generations; of those in all 0 where only the run's end ends the phase."""
        return self._generations, self.config.generations or 0

    @property
    def _generations(self) -> int:
        return self.es.generation - self._earlier_generations

    def counted(self) -> Counters:
        """A batch of dreamed steps counts as one."""
        return Counters(
            env_steps=self.env_steps,
            episodes=self.played,
            updates=self._generations,
            offline_units=self.dream_steps // self.config.num_envs,
        )

    def left(self) -> State:
        return self.state()

    def params_of_c(self) -> np.ndarray:
        return self.params_N

    def state(self) -> State:
        return self._under_way or self._state()

    def _state(self) -> State:
        return {
            "es": self.es.state(),
            "mean": self.mean_N,
            "best": self.best_N,
            "best_return": self.best_return,
            "env_steps": self.env_steps,
            "dream_steps": self.dream_steps,
            "played": self.played,
            "earlier_generations": self._earlier_generations,
            "replayed_seeds": self._replayed_RE,
            "evaluation_is_due": self._evaluation_is_due,
        }

    def load(self, state: State) -> None:
        self.load_policy(state)
        self.es.load(state["es"])
        self.best_return = state["best_return"]
        self.env_steps, self.dream_steps = state["env_steps"], state["dream_steps"]
        self.played, self._evaluation_is_due = state["played"], state["evaluation_is_due"]
        # Older runs have none of these, and episodes of another number than now are let go.
        self._earlier_generations = state.get("earlier_generations", 0)
        replayed_RE = np.array(state.get("replayed_seeds", self._replayed_RE))
        if replayed_RE.shape[1] == self.config.episodes:
            self._replayed_RE = replayed_RE
        self._under_way = None

    def continue_from(self, state: State) -> None:
        """Go on with another run's search; of an exported one a new search begins at the mean."""
        if "es" in state:
            self.load(state)
            self._earlier_generations = self.es.generation
        else:
            self.load_policy(state)
            num_params = len(self.mean_N)
            self.es = CMAES(num_params, self.config, seed=self.seed, start_N=self.mean_N)
        self.env_steps = self.dream_steps = self.played = 0  # the other run counted its own

    def load_policy(self, state: State) -> None:
        """Only the parameters of the policy."""
        self.mean_N, self.best_N = np.array(state["mean"]), np.array(state["best"])

    def close(self) -> None:
        self.executor.close()


# ---------------------------------------------------------------- who plays a share of a generation


@dataclass(frozen=True)
class Recipe:
    """What a player is made of, in plain values that can be sent to another process."""

    vision: VisionConfig
    memory: MemoryConfig
    controller: ControllerConfig
    make_episodes: Callable[[], EpisodeBatch]
    action_space: spaces.Box
    vae: dict[str, np.ndarray]
    rnn: dict[str, np.ndarray]
    beginnings: Beginnings | None  # of dreams
    threads: int
    device: str


def make_player(recipe: Recipe) -> Player:
    """Called where it plays: in this process or in a worker."""
    torch.set_num_threads(recipe.threads)
    config, [action_size] = recipe.controller, recipe.action_space.shape
    device = "cpu" if config.train_in == "dream" else recipe.device
    vae = make_vae(recipe.vision, 0, device)
    rnn = make_rnn(recipe.memory, recipe.vision.latent_size, action_size, 0, device)
    load_module(vae, recipe.vae)
    load_module(rnn, recipe.rnn)
    envs: EpisodeBatch
    if config.train_in == "dream":
        assert recipe.beginnings is not None
        envs = Dream(
            rnn,
            recipe.beginnings,
            recipe.action_space,
            temperature=config.temperature,
            max_steps=config.max_dream_steps,
        )
    else:
        senses = make_senses(config, vae, rnn, device)
        envs = SeenEpisodes(recipe.make_episodes(), senses, preprocess=to_frames)
    controller, part = make_controller(config, vae, rnn, recipe.action_space)
    return Player(envs, controller, part, config.num_envs)
