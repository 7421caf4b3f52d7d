"""Words that every room of the house shares: errors, counters, states, steps.

Shape suffixes used throughout: B batch or number of envs, T time, N n-step, D features, A actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

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
class Record:
    """A part of a state that is a dataclass of plain values."""

    def state(self) -> State:
        return asdict(self)

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what was saved; a field younger than the checkpoint stays as it is."""
        known = {field.name for field in fields(self)}
        for name, value in state.items():
            if name not in known:
                raise DataError(f"state: got '{name}', expected one of {', '.join(sorted(known))}")
            own, number = getattr(self, name), int | float
            if not isinstance(value, {int: number, float: number, str: str}.get(type(own), object)):
                raise DataError(f"state: {name}: got {value!r:.60}, expected one such as {own!r}")
            setattr(self, name, value)


@dataclass
class Counters(Record):
    """Where a run stands. All numbers count over all envs together and survive a resume."""

    env_steps: int = 0
    updates: int = 0  # gradient steps (or table updates)
    episodes: int = 0
    phase: str = "train"
    # Work without an env, in the unit that `progress` names: minibatches of stored data, ...
    offline_units: int = 0

    def load(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            if name != "phase" and not (type(value) is int and 0 <= value < 2**63):
                raise DataError(f"state: {name}: got {value!r:.60}, expected a whole number >= 0")
        super().load(state)

    @property
    def clock(self) -> int:
        """What `log_every`, `eval.every` and `save_every` are counted by, and curves drawn over."""
        return self.env_steps + self.offline_units


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

    @property
    def resume_exact(self) -> bool: ...  # False once `load` had to restart an episode
    @property
    def episodes(self) -> int: ...  # finished so far
    def step(self, action_B: np.ndarray) -> Step: ...
    def gauges(self) -> dict[str, float]: ...  # of its episodes, for a log line
    def state(self) -> State: ...
    def load(self, state: State) -> None: ...
    def close(self) -> None: ...


def passed(period: int, before: int, now: int) -> bool:
    """Whether a clock that went from `before` to `now` has come to a multiple of `period`."""
    return now // period > before // period
