"""The contract between an algorithm and what drives it.

The framework owns when (log, evaluate, save, stop); an algorithm owns what. Shape suffixes: B
batch of observations, one a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from rlzoo.core.parts import load_part, state_of
from rlzoo.core.types import Counters, DataError, Metrics, State, UsageError, VectorEnv

# What a policy carries from step to step of an episode: arrays [B, ...], () where it has no memory.
Memory = tuple[np.ndarray, ...]


class Policy(Protocol):
    """What acts."""

    def initial(self, num_envs: int) -> Memory:
        """The memory at the start of an episode."""

    def act(self, obs_B: np.ndarray, memory: Memory, *, explore: bool) -> tuple[np.ndarray, Memory]:
        """Actions, and the memory to act with in the next step. Greedy: no random numbers."""


class Reactive:
    """A policy without a memory, from a function `choose(obs_B, explore=...)` of observations."""

    def __init__(self, choose: Callable[..., np.ndarray]) -> None:
        self._choose = choose

    def initial(self, num_envs: int) -> Memory:
        return ()

    def act(self, obs_B: np.ndarray, memory: Memory, *, explore: bool) -> tuple[np.ndarray, Memory]:
        return self._choose(obs_B, explore=explore), memory


class Progress(NamedTuple):
    phase: str
    done: int
    total: int  # 0: not known
    unit: str  # what `done` and `total` count, in the plural


# What an algorithm has to show, besides numbers. `name` is 'group/what'.


class Histogram(NamedTuple):
    name: str
    values: np.ndarray


class Picture(NamedTuple):
    name: str
    image_HWC: np.ndarray  # uint8


class Film(NamedTuple):
    name: str
    frames_THWC: np.ndarray  # uint8
    frames_per_second: float


class Curves(NamedTuple):
    """Metrics logged so far, drawn in panels side by side: title -> names of metrics."""

    name: str
    panels: Mapping[str, tuple[str, ...]]


class ValueMap(NamedTuple):
    """Action values [states, actions], drawn on the env's grid where it has one."""

    name: str
    q_SA: np.ndarray


Report = Histogram | Picture | Film | Curves | ValueMap


@dataclass(frozen=True)
class Sources:
    """What an algorithm's settings name, read by the framework before the algorithm is built."""

    run: str = ""  # a run whose state a new run begins with
    agent: str = ""  # a run whose agent is imitated
    demonstrations: Any = None  # a DemonstrationsConfig


class Source(NamedTuple):
    directory: Path
    state: State  # of its algorithm


class EnvSource(Protocol):
    """More envs like the one that is trained in."""

    @property
    def id(self) -> str:
        """A gymnasium id."""

    def make(self) -> Any:
        """One gymnasium env."""

    def make_batch(self) -> Any:
        """An `envs.batch.EpisodeBatch`; picklable, so that a worker can call it."""


@dataclass(frozen=True)
class Network:
    """What `network=` chose."""

    settings: Any  # with `hidden: tuple[int, ...]` and `activation: str`
    make_encoder: Callable[[Any], Any]  # observation space -> nn.Module with `num_features`


@dataclass(frozen=True)
class Setup:
    """The parts that a run hands to an algorithm's constructor: `algorithm(config, setup)`."""

    env: VectorEnv
    seed: int
    total_env_steps: int
    network: Network | None = None  # of algorithms that need one
    make_replay: Callable[[VectorEnv], Any] | None = None  # likewise
    device: str = "cpu"
    compile: bool = False
    envs: EnvSource | None = None
    directory: Path | None = None  # of the run, for large files; None: there is none
    source: Source | None = None  # of `Sources.run`
    agent: Callable[[], Algorithm] | None = None  # of `Sources.agent`
    demonstrations: Callable[[], Any] | None = None  # of `Sources.demonstrations`, read once


class Algorithm:
    """What the loop drives. A subclass sets the attributes and implements `step`.

    Between two calls of `step` everything that a run depends on is in `parts` and `counters`.
    """

    needs: ClassVar[tuple[str, ...]] = ()  # of 'network', 'replay'
    policy_parts: tuple[str, ...] = ()  # names of the parts that `policy` needs
    counters: Counters
    env: VectorEnv  # what it trains in; closed by the run
    total_env_steps: int
    policy: Policy | None  # None: its phases have not come to one yet
    parts: Mapping[str, Any]  # name -> what `core.parts` can save; loaded in order

    @staticmethod
    def check(run: Any) -> None:
        """UsageError for settings (a `RunConfig`) that cannot work together."""

    @staticmethod
    def check_spaces(config: Any, observation_space: Any, action_space: Any) -> None:
        """UsageError for spaces that it cannot work in."""

    @staticmethod
    def sources(config: Any) -> Sources:
        """The files and runs that its settings name."""
        return Sources()

    @staticmethod
    def check_agent(config: Any, env_id: str, agent: Algorithm) -> None:
        """UsageError for an agent (of `Sources.agent`) that cannot be imitated."""

    def step(self) -> Metrics:
        """Do the smallest unit of work between two safe points; its metrics are averaged."""
        raise NotImplementedError

    def gauges(self) -> dict[str, float]:
        """Values of the moment, for a log line."""
        return {}

    def progress(self) -> Progress:
        """What the algorithm is at, and how much of it is done."""
        counters = self.counters
        return Progress(counters.phase, counters.env_steps, self.total_env_steps, "env steps")

    def done(self) -> bool:
        return self.counters.env_steps >= self.total_env_steps

    def how_to_continue(self) -> str:
        """Advice for who resumes a finished run."""
        return "raise total_env_steps to go on"

    def spent(self) -> Iterable[str]:
        """Names of settings below `algo` that nothing to come depends on any more."""
        return ()

    def report(self) -> Iterable[Report]:
        """Histograms, pictures, films, curves of the moment."""
        return ()

    def beside(self, obs_B: np.ndarray, memory: Memory) -> np.ndarray:
        """What the policy makes of observations, as pictures [B, H, W, 3] uint8 for `play`."""
        raise UsageError("beside=true: this algorithm has no such pictures")

    def dream(self, seed: int, temperature: float | None) -> tuple[np.ndarray, float | None]:
        """An episode played in a model: frames [T, H, W, 3] uint8, and its return if known."""
        raise UsageError("dream=true: this algorithm has no such pictures")

    def close(self) -> None:
        """Let go of files and processes."""

    def state(self) -> State:
        parts = {name: state_of(part) for name, part in self.parts.items()}
        return {"counters": self.counters.state(), **parts}

    def load(self, state: State) -> None:
        """Go on exactly where `state` was taken; DataError if it is another algorithm's."""
        self.counters.load(_found(state, "counters"))
        for name, part in self.parts.items():
            load_part(part, _found(state, name))

    def policy_state(self) -> State:
        """Of a `state()`, what the policy needs."""
        parts = ((name, self.parts[name]) for name in self.policy_parts)
        return {n: p.policy_state() if isinstance(p, Algorithm) else state_of(p) for n, p in parts}

    def load_policy(self, state: State) -> None:
        """Load only what the policy needs, from a `state()` or a `policy_state()`."""
        for name in self.policy_parts:
            part, saved = self.parts[name], _found(state, name)
            if isinstance(part, Algorithm):
                part.load_policy(saved)
            else:
                load_part(part, saved)


def _found(state: State, name: str) -> Any:
    if name not in state:
        raise DataError(f"state: got {', '.join(state) or 'nothing'}, expected '{name}' in it")
    return state[name]
