"""Q-learning (Watkins 1989), Double Q (van Hasselt 2010), Expected SARSA and SARSA on tables.

One table learner; the algorithms differ in the value they bootstrap from and in whether the next
action is chosen before the update (on-policy) or after it. The tables are lists of lists: for a
handful of actions, that is several times faster than arrays or tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from rlzoo.core.algorithm import Algorithm, Histogram, Reactive, Report, Setup, ValueMap
from rlzoo.core.seeding import numpy_generator
from rlzoo.core.settings import between, setting
from rlzoo.core.types import Counters, DataError, Metrics, NonFiniteError, UsageError

BLOCK_ENV_STEPS = 128  # work between two safe points; random numbers are drawn for a block at once
MAX_TABLE_ENTRIES = 50_000_000


@dataclass(frozen=True)
class TableConfig:
    """Settings that all table learners share."""

    name: str = "q_learning"
    gamma: float = setting(0.99, "discount", low=0, high=1)
    alpha: float = setting(0.1, "step size of an update", above=0, high=1)
    alpha_exponent: float = setting(
        0.0, "step size alpha / visits(s, a)^exponent; in (0.5, 1] it converges", low=0, high=1
    )
    initial_value: float = setting(
        0.0, "of every table entry; optimistic values explore", fixed=True
    )
    epsilon_start: float = setting(1.0, "chance of a random action at first", low=0, high=1)
    epsilon_final: float = setting(0.05, "... and after the decay", low=0, high=1)
    epsilon_fraction: float = setting(0.5, "share of the run that the decay takes", low=0, high=1)
    bins: tuple[int, ...] = setting(
        (), "for Box observations: bins in each dimension", low=1, fixed=True
    )
    bin_low: tuple[float, ...] = setting((), "lower edges; left out: the space's own", fixed=True)
    bin_high: tuple[float, ...] = setting((), "upper edges; left out: the space's own", fixed=True)


@dataclass(frozen=True)
class QLearningConfig(TableConfig):
    name: str = "q_learning"
    double: bool = setting(
        False, "two tables, each the other's judge (van Hasselt 2010)", fixed=True
    )
    expected: bool = setting(False, "bootstrap from the mean under the epsilon-greedy policy")

    def check(self) -> None:
        if self.double and self.expected:
            raise UsageError("algo.double=true with algo.expected=true: choose one of them")


@dataclass(frozen=True)
class SarsaConfig(TableConfig):
    name: str = "sarsa"


def state_encoder(space: spaces.Space, config: TableConfig) -> tuple[int, Callable[[Any], int]]:
    """The number of states of an observation space, and the function from observation to state.

    Discrete and MultiDiscrete (also flattened Tuples of them) are numbered; Box needs `bins`.
    """
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return int(space.n), (int if start == 0 else lambda obs: int(obs) - start)
    if isinstance(space, spaces.MultiDiscrete):
        strides = [math.prod(space.nvec[i + 1 :].tolist()) for i in range(len(space.nvec))]
        starts = space.start.tolist()

        def from_digits(obs: Any) -> int:
            return sum((d - s) * w for d, s, w in zip(obs.tolist(), starts, strides, strict=True))

        return math.prod(space.nvec.tolist()), from_digits
    if isinstance(space, spaces.Box):
        return _binned(space, config)
    raise UsageError(f"observations: got {space}, expected Discrete, MultiDiscrete or Box")


def _binned(space: spaces.Box, config: TableConfig) -> tuple[int, Callable[[Any], int]]:
    size = math.prod(space.shape)
    if len(config.bins) != size:
        raise UsageError(
            f"algo.bins: got {list(config.bins)}, expected {size} numbers, one for each dimension "
            f"of the observation {space.shape}: tables need continuous observations in bins"
        )
    low = np.asarray(config.bin_low or space.low.ravel(), dtype=np.float64)
    high = np.asarray(config.bin_high or space.high.ravel(), dtype=np.float64)
    for name, edges in (("bin_low", low), ("bin_high", high)):
        if len(edges) != size or not np.isfinite(edges).all() or (np.abs(edges) > 1e30).any():
            raise UsageError(f"algo.{name}: got {edges.tolist()}, expected {size} finite edges")
    if (low >= high).any():
        raise UsageError(f"algo.bin_low: got {low.tolist()}, expected less than bin_high")
    counts = np.asarray(config.bins)
    strides = np.array([math.prod(config.bins[i + 1 :]) for i in range(size)])
    scale = counts / (high - low)

    def from_box(obs: Any) -> int:
        digits = ((obs.ravel() - low) * scale).astype(np.int64)
        return int(np.clip(digits, 0, counts - 1) @ strides)

    return math.prod(config.bins), from_box


class Numbers(list[Any]):
    """Nested lists of numbers, saved as an array."""

    def state(self) -> np.ndarray:
        return np.array(self)

    def load(self, state: np.ndarray) -> None:
        if state.shape != np.shape(self):
            raise DataError(f"tables: got {state.shape}, expected {np.shape(self)}")
        self[:] = state.tolist()


class Actions(list[int | None]):
    """What each env will do next, where that has been chosen."""

    def state(self) -> list[int | None]:
        return list(self)

    def load(self, state: list[int | None]) -> None:
        self[:] = state


class TableLearner(Algorithm):
    """What Q-learning and SARSA share: tables, exploration, episodes."""

    policy_parts = ("tables",)
    num_tables = 1
    on_policy = False

    def __init__(self, config: Any, setup: Setup) -> None:
        self.config = config
        self.counters = Counters()
        self.total_env_steps = setup.total_env_steps
        self.env = setup.env
        recorded: Any = setup.env
        self.members = recorded.env.members  # in this process, stepped one by one
        self.statistics = recorded.statistics
        self.num_states, self.encode = state_encoder(setup.env.observation_space, config)
        self.num_actions = int(setup.env.action_space.n)
        self.first_action = int(setup.env.action_space.start)
        shape = (self.num_states, self.num_actions)
        first_values = np.full((self.num_tables, *shape), float(config.initial_value))
        self.tables = Numbers(first_values.tolist())
        self.visits = Numbers(np.zeros(shape, np.int64).tolist())
        self.rng = numpy_generator(setup.seed, "tabular")
        self.next_actions = Actions([None] * setup.env.num_envs)
        self.policy = Reactive(self.act)
        self.parts = {
            "tables": self.tables,
            "visits": self.visits,
            "next_actions": self.next_actions,
            "rng": self.rng,
            "statistics": self.statistics,
            "env": recorded.env,
        }

    @staticmethod
    def check(run: Any) -> None:
        if run.env.backend != "sync":
            raise UsageError(
                f"env.backend={run.env.backend}: algo={run.algo.name} needs sync; "
                "a table update costs less than a message to another process"
            )

    @staticmethod
    def check_spaces(config: Any, observation_space: spaces.Space, action_space: Any) -> None:
        if not isinstance(action_space, spaces.Discrete):
            raise UsageError(f"algo={config.name}: got actions {action_space}, expected Discrete")
        num_states, _ = state_encoder(observation_space, config)
        if num_states * int(action_space.n) > MAX_TABLE_ENTRIES:
            raise UsageError(
                f"algo={config.name}: a table of {num_states} states x {action_space.n} actions "
                f"does not fit, expected at most {MAX_TABLE_ENTRIES} entries; use fewer bins"
            )

    def epsilon(self) -> float:
        config = self.config
        decay_env_steps = config.epsilon_fraction * self.total_env_steps
        share = self.counters.env_steps / decay_env_steps if decay_env_steps else 1.0
        return between(config.epsilon_start, config.epsilon_final, share)

    def choose(self, state: int, epsilon: float, draws: Any) -> int:
        """Epsilon-greedy, ties broken at random. `draws` yields uniform numbers."""
        if next(draws) < epsilon:
            return int(next(draws) * self.num_actions)
        row = self.action_values(state)
        best = max(row)
        if row.count(best) == 1:
            return row.index(best)
        ties = [action for action, value in enumerate(row) if value == best]
        return ties[int(next(draws) * len(ties))]

    def action_values(self, state: int) -> list[float]:
        return self.tables[0][state]

    def bootstrap(self, state: int, action: int | None, epsilon: float, table: int) -> float:
        """The value of the next state that the update of `table` looks at."""
        raise NotImplementedError

    def step(self) -> Metrics:
        """A block of env steps (one env after the other) with an update after each."""
        block = min(BLOCK_ENV_STEPS, self.total_env_steps - self.counters.env_steps)
        draws = iter(self.rng.random(5 * block).tolist())  # no env step takes more than 5
        epsilon, gamma, alpha = self.epsilon(), self.config.gamma, self.config.alpha
        exponent, first_action, on_policy = (
            self.config.alpha_exponent,
            self.first_action,
            self.on_policy,
        )
        encode, choose, bootstrap = self.encode, self.choose, self.bootstrap
        statistics, members, num_envs = self.statistics, self.members, len(self.members)
        total_error = 0.0
        for i in range(self.counters.env_steps, self.counters.env_steps + block):
            index = i % num_envs
            env = members[index]
            state = encode(env.obs)
            action = self.next_actions[index]
            if action is None:
                action = choose(state, epsilon, draws)
            next_obs, reward, terminated, truncated = env.step(action + first_action)
            table = int(next(draws) * 2) if self.num_tables == 2 else 0
            next_action, target = None, reward
            if not terminated:
                next_state = encode(next_obs)
                if on_policy:
                    next_action = choose(next_state, epsilon, draws)
                target += gamma * bootstrap(next_state, next_action, epsilon, table)
            row = self.tables[table][state]
            error = target - row[action]
            if not -math.inf < error < math.inf:
                raise NonFiniteError(
                    f"TD error is {error} at state {state}, action {action}: table left unchanged"
                )
            if exponent:
                self.visits[state][action] += 1
                row[action] += alpha / self.visits[state][action] ** exponent * error
            else:
                row[action] += alpha * error
            total_error += abs(error)
            ended = terminated or truncated
            self.next_actions[index] = None if ended else next_action
            statistics.add_one(index, reward, ended)
        self.counters.env_steps += block
        self.counters.updates += block
        self.counters.episodes = statistics.episodes
        return {"train/td_error_abs_mean": total_error / block}

    def gauges(self) -> dict[str, float]:
        best = [max(self.action_values(state)) for state in range(self.num_states)]
        return {
            "train/epsilon": self.epsilon(),
            "train/q_max_mean": float(np.mean(best)),
        }

    def act(self, obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
        epsilon = self.epsilon() if explore else 0.0
        actions = []
        for obs in obs_B:
            row = self.action_values(self.encode(obs))
            if explore and self.rng.random() < epsilon:
                actions.append(int(self.rng.integers(self.num_actions)))
            else:
                actions.append(row.index(max(row)))
        return np.array(actions) + self.first_action

    def q_table(self) -> np.ndarray:
        """The action values acted on, [states, actions]."""
        return np.array([self.action_values(state) for state in range(self.num_states)])

    def report(self) -> Iterable[Report]:
        q_SA = self.q_table()
        yield Histogram("q_table", q_SA)
        yield ValueMap("eval/value_map", q_SA)


class QLearning(TableLearner):
    """Off-policy: bootstraps from the best next action, whatever is done next."""

    def __init__(self, config: QLearningConfig, setup: Setup) -> None:
        self.num_tables = 2 if config.double else 1
        super().__init__(config, setup)

    def action_values(self, state: int) -> list[float]:
        if self.num_tables == 1:
            return self.tables[0][state]
        return [a + b for a, b in zip(self.tables[0][state], self.tables[1][state], strict=True)]

    def bootstrap(self, state: int, action: int | None, epsilon: float, table: int) -> float:
        row = self.tables[table][state]
        if self.config.expected:
            return epsilon * sum(row) / len(row) + (1 - epsilon) * max(row)
        if self.config.double:
            return self.tables[1 - table][state][row.index(max(row))]
        return max(row)


class Sarsa(TableLearner):
    """On-policy: bootstraps from the action that will be taken next, exploration included."""

    on_policy = True

    def bootstrap(self, state: int, action: int | None, epsilon: float, table: int) -> float:
        assert action is not None
        return self.tables[0][state][action]
