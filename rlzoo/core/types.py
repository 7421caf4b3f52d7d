"""Words that every room of the house shares: errors, counters, states and the three contracts.

Shape suffixes used throughout: B batch or number of envs, T time, N n-step, D features, A actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

# A state is a nested dict with string keys whose leaves are numpy arrays, torch tensors or plain
# JSON values (None, bool, int, float, str, lists of these). Never an object: it is written as
# safetensors + JSON, and read back from files that nobody has to trust.
State = dict[str, Any]

# 'group/metric_unit' -> scalar. Values may be 0-d tensors; they are read when they are logged.
Metrics = dict[str, Any]


class RlzooError(Exception):
    """An error with one clear line for the user and an exit code from sysexits.h."""

    exit_code = 70


class UsageError(RlzooError, ValueError):
    """A setting, override or argument that cannot be used (EX_USAGE)."""

    exit_code = 64


class DataError(RlzooError, ValueError):
    """A file with content that cannot be used: corrupt, foreign or hostile (EX_DATAERR)."""

    exit_code = 65


class NonFiniteError(RlzooError, ArithmeticError):
    """NaN or infinity in a loss, gradient, observation or reward (EX_SOFTWARE)."""

    exit_code = 70


class EnvError(RlzooError, RuntimeError):
    """An environment raised, died, hung, or broke its own spaces (EX_SOFTWARE)."""

    exit_code = 70


class CantCreateError(RlzooError, OSError):
    """An output file or directory cannot be created (EX_CANTCREAT)."""

    exit_code = 73


class StorageError(RlzooError, OSError):
    """Writing or reading failed, for example on a full disk (EX_IOERR)."""

    exit_code = 74


class LockedError(RlzooError, RuntimeError):
    """The run directory belongs to a living process (EX_TEMPFAIL)."""

    exit_code = 75


FINISHED = "finished"  # the phase of an algorithm that has gone through all of its own


@dataclass
class Counters:
    """Where a run stands. All numbers count over all envs together and survive a resume."""

    env_steps: int = 0
    updates: int = 0  # gradient steps (or table updates)
    episodes: int = 0
    phase: str = "train"
    offline_updates: int = 0  # minibatches learnt from stored data, without an env

    @property
    def clock(self) -> int:
        """What logging, evaluation, checkpoints and the end of a run are timed by."""
        return self.env_steps + self.offline_updates

    def state(self) -> State:
        return asdict(self)

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what was saved; a counter younger than the checkpoint stays as it is."""
        for name, value in state.items():
            setattr(self, name, value)


class Step(NamedTuple):
    """What one step of B envs hands out.

    `next_obs_B` is always the true next observation of the action that was taken, also where an
    episode ended (never the first one of the next episode). `terminated_B` and `truncated_B` are
    never merged. The arrays are reused by the next step: copy what must be kept.
    """

    next_obs_B: np.ndarray
    reward_B: np.ndarray  # float64
    terminated_B: np.ndarray  # bool
    truncated_B: np.ndarray  # bool


class VectorEnv(Protocol):
    """B copies of an env that share a clock. Episodes restart by themselves after a step."""

    num_envs: int
    observation_space: Any  # of one env
    action_space: Any  # of one env
    obs_B: np.ndarray  # what to act on now (a new array after each step); after an episode's
    # end this is the first observation of the next one
    resume_exact: bool  # False once an episode had to be restarted by `load`

    def step(self, action_B: np.ndarray) -> Step: ...
    def state(self) -> State: ...
    def load(self, state: State) -> None: ...
    def close(self) -> None: ...


class Source(NamedTuple):
    """Another run, which a new one builds on."""

    directory: Path
    state: State  # of its algorithm


@dataclass(frozen=True)
class Setup:
    """The parts that a run hands to an algorithm's constructor: `algorithm(config, setup)`.

    `network` and `replay` are settings dataclasses, `make_encoder` and `replay_class` what the
    registry has under their names; all None for algorithms that do not list them in `needs`.
    """

    env: VectorEnv
    seed: int
    total_env_steps: int  # where `counters.clock` ends
    network: Any = None
    make_encoder: Any = None
    replay: Any = None
    replay_class: Any = None
    device: str = "cpu"
    compile: bool = False
    env_id: str | None = None  # what stored data must be of
    env_config: Any = None  # of `env`, for what needs more of them
    directory: Path | None = None  # of the run, for large files; None: there is none
    source: Source | None = None
    load_agent: Any = None  # (path of another run) -> its algorithm, ready to `act`


@runtime_checkable
class Algorithm(Protocol):
    """What the loop drives. The loop owns *when* (log, evaluate, save, stop), this owns *what*.

    The loop's time is `counters.clock`: each `step` makes env steps, or learns minibatches of
    stored data (`offline_updates`), or both.

    The class also has `needs: tuple[str, ...]` (of 'network', 'replay') and a static
    `check(run_config)` and `check_spaces(observation_space, action_space)` that raise UsageError
    for combinations that cannot work. `histograms() -> dict[str, array]` is optional; so is
    `q_table()`, of which a map is drawn, and `figures` (name -> title -> metrics), which are drawn
    as curves. `progress() -> (phase, done, total, unit)`, `pictures() -> (images, films)` (see
    `algos.world_models.phases`), `close()`, `to_go_on() -> str` (advice for a finished run that
    is resumed and has nothing to do) and `has_policy: bool` (False: nothing to evaluate yet) are
    optional, too.

    A policy with a memory has `initial_memory(num_envs) -> memory_BM` and
    `act_with_memory(obs_B, memory_BM, *, explore) -> (action_B, memory_BM)`; its `act` is that of
    an episode's first step. Stored data is read when it is first learnt from, so that a policy
    acts without it. Such a policy may have `beside(obs_B, memory_BM) -> picture_BHWC`, uint8: what
    it makes of observations, beside them. `dream(seed, temperature) -> (frames_THWC, return)` is an
    episode that is played in a model instead of the env; without a temperature (None) in the one
    it learnt in. Both are for `rlzoo play`.
    """

    counters: Counters
    env: VectorEnv  # what it trains in; closed by the run

    def step(self) -> Metrics:
        """Do the smallest unit of work between two safe points; its metrics are averaged."""

    def gauges(self) -> dict[str, float]:
        """Values of the moment for a log line (epsilon, returns of recent episodes, ...)."""

    def act(self, obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
        """Choose actions for a batch of observations. Without `explore` it draws no numbers."""

    def done(self) -> bool: ...
    def state(self) -> State: ...
    def load(self, state: State) -> None: ...

    def policy_state(self) -> State:
        """Of a `state()`, what `act` needs."""

    def load_policy(self, state: State) -> None:
        """Load only what `act` needs, from a `state()` or a `policy_state()`."""


class Episode(NamedTuple):
    """One finished training episode, as the collector reports it."""

    return_: float  # undiscounted sum of raw rewards
    length: int  # env steps
