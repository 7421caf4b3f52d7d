"""Random policies that collect data for World Models.

Each acts in B envs that begin an episode together (`reset`), from a generator of its own, and can
be saved at any time. Shape suffixes: B envs, A action dimensions, X pixels, Z latents, H units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from gymnasium import spaces

from rlzoo.core.algorithm import Memory, Policy
from rlzoo.core.parts import load_part, state_of
from rlzoo.core.types import State


class RandomPolicy(Protocol):
    def reset(self, num_envs: int) -> None:
        """Begin an episode in each of so many envs."""

    def act(self, obs_B: np.ndarray) -> np.ndarray:
        """Actions [B, A] in the action space."""

    def state(self) -> State: ...
    def load(self, state: State) -> None: ...


class _Policy:
    """A generator, and arrays with a row for each running episode: all there is to save."""

    def __init__(self, space: spaces.Box, rng: np.random.Generator) -> None:
        self.space, self.rng = space, rng
        self.running: dict[str, np.ndarray] = {}

    def uniform(self, count: int) -> np.ndarray:
        shape = (count, *self.space.shape)
        return self.rng.uniform(self.space.low, self.space.high, shape).astype(np.float32)

    def state(self) -> State:
        running = {name: array.copy() for name, array in self.running.items()}
        return {"rng": state_of(self.rng), "running": running}

    def load(self, state: State) -> None:
        load_part(self.rng, state["rng"])
        self.running = {name: np.array(array) for name, array in state["running"].items()}


class HeldUniform(_Policy):
    """Uniform actions, each held for 1 to `longest` steps (World Models' Doom: 10)."""

    def __init__(self, space: spaces.Box, rng: np.random.Generator, *, longest: int = 10) -> None:
        super().__init__(space, rng)
        self.longest = longest

    def reset(self, num_envs: int) -> None:
        left_B = np.zeros(num_envs, np.int64)
        self.running = {"action": self.uniform(num_envs), "steps_left": left_B}

    def act(self, obs_B: np.ndarray) -> np.ndarray:
        action_BA, left_B = self.running["action"], self.running["steps_left"]
        due = np.flatnonzero(left_B == 0)
        action_BA[due] = self.uniform(len(due))
        left_B[due] = self.rng.integers(1, self.longest + 1, len(due))
        left_B -= 1
        return action_BA.copy()


class Brownian(_Policy):
    """A random walk, clipped to the action space (Tallec et al.: dt = 1/50, a step of 0.14)."""

    def __init__(self, space: spaces.Box, rng: np.random.Generator, *, dt: float = 0.02) -> None:
        super().__init__(space, rng)
        self.step_size = dt**0.5

    def reset(self, num_envs: int) -> None:
        self.running = {"action": self.uniform(num_envs)}

    def act(self, obs_B: np.ndarray) -> np.ndarray:
        action_BA = self.running["action"].copy()
        noise_BA = self.rng.standard_normal(action_BA.shape, np.float32)
        moved_BA = action_BA + np.float32(self.step_size) * noise_BA
        self.running["action"] = np.clip(moved_BA, self.space.low, self.space.high)
        return action_BA


class OneControl(_Policy):
    """One control at a time, by a uniform amount, for `steps` steps; the others stay at 0.

    `low` and `high` are the probabilities of each control's two directions, and what is missing to
    1 is that of doing nothing. The defaults are for CarRacing: left 0.3, right 0.1, gas 0.4, brake
    0.1, held for 5 steps (the walk-through of World Models by Foster).
    """

    def __init__(
        self,
        space: spaces.Box,
        rng: np.random.Generator,
        *,
        low: Sequence[float] = (0.3, 0.0, 0.0),
        high: Sequence[float] = (0.1, 0.4, 0.1),
        steps: int = 5,
    ) -> None:
        super().__init__(space, rng)
        self.limits = np.concatenate([np.diag(space.low), np.diag(space.high), [0 * space.low]])
        self.probabilities = [*low, *high, 1 - sum(low) - sum(high)]
        self.steps = steps

    def reset(self, num_envs: int) -> None:
        action_BA = np.zeros((num_envs, *self.space.shape), np.float32)
        self.running = {"action": action_BA, "steps_left": np.zeros(1, np.int64)}

    def act(self, obs_B: np.ndarray) -> np.ndarray:
        action_BA, left = self.running["action"], self.running["steps_left"]
        if left[0] == 0:
            count = len(action_BA)
            choice_B = self.rng.choice(len(self.limits), count, p=self.probabilities)
            action_BA[:] = self.limits[choice_B] * self.rng.random((count, 1))
            left[0] = self.steps
        left -= 1
        return action_BA.copy()


class RandomNetworks(_Policy):
    """Recurrent networks on what is seen, with weights Cauchy * sigma drawn for each episode.

    sigma is uniform in [0, `largest`] for each (World Models' CarRacing: 0.01). In place of the
    original's convolutions a linear map of a coarse picture; then one tanh layer that remembers
    itself and the last action, and a tanh for each control: scaled to its range, or, in the
    dimensions `clipped`, clipped to it (the brake, so that 0 stays 0).
    """

    GRID, LATENTS, UNITS = 8, 32, 64

    def __init__(
        self,
        space: spaces.Box,
        rng: np.random.Generator,
        *,
        largest: float = 0.01,
        clipped: Sequence[int] = (2,),
    ) -> None:
        super().__init__(space, rng)
        self.largest = largest
        [self.num_actions] = space.shape
        is_clipped_A = np.isin(np.arange(self.num_actions), clipped)
        self.scale_A = np.where(is_clipped_A, 1, (space.high - space.low) / 2)
        self.offset_A = np.where(is_clipped_A, 0, (space.high + space.low) / 2)

    def reset(self, num_envs: int) -> None:
        inputs, actions = 3 * self.GRID**2, self.num_actions
        sizes = {
            "encoder": (inputs, self.LATENTS),
            "recurrent": (self.LATENTS + actions + self.UNITS, self.UNITS),
            "controller": (self.LATENTS + self.UNITS, actions),
            "bias": (1, actions),
        }
        sigma_B = self.rng.uniform(0, self.largest, (num_envs, 1, 1))
        self.running = {
            name: (self.rng.standard_cauchy((num_envs, *size)) * sigma_B).astype(np.float32)
            for name, size in sizes.items()
        }
        self.running["memory"] = np.zeros((num_envs, 1, self.UNITS), np.float32)

    def act(self, obs_B: np.ndarray) -> np.ndarray:
        """`obs_B`: pictures, uint8 [B, height, width, 3]."""
        now = self.running
        latent_B1Z = np.tanh(coarse(obs_B, self.GRID) @ now["encoder"])
        seen_B1X = np.concatenate([latent_B1Z, now["memory"]], axis=2)
        raw_B1A = np.tanh(seen_B1X @ now["controller"] + now["bias"])
        action_B1A = np.clip(
            self.offset_A + self.scale_A * raw_B1A, self.space.low, self.space.high
        ).astype(np.float32)
        input_B1X = np.concatenate([latent_B1Z, action_B1A, now["memory"]], axis=2)
        now["memory"] = np.tanh(input_B1X @ now["recurrent"])
        return action_B1A[:, 0]


def coarse(obs_BHWC: np.ndarray, grid: int) -> np.ndarray:
    """`grid` x `grid` pixels of each picture, as a row of numbers from 0 to 1 [B, 1, X]."""
    height, width = obs_BHWC.shape[1:3]
    rows, columns = ((np.arange(grid) * 2 + 1) * size // (2 * grid) for size in (height, width))
    picked = obs_BHWC[:, rows[:, None], columns]
    return picked.reshape(len(obs_BHWC), 1, -1).astype(np.float32) / 255


class Disturbed(_Policy):
    """Greedy actions of an actor; at a rate, uniform ones for 1 to `longest` steps instead.

    For World Models' iterative training (section 5): what V and M learn from is what C meets, and
    some of what happens when it errs.
    """

    def __init__(
        self,
        space: spaces.Box,
        rng: np.random.Generator,
        *,
        actor: Policy,
        rate: float,
        longest: int,
    ) -> None:
        super().__init__(space, rng)
        self.actor, self.rate, self.longest = actor, rate, longest

    def reset(self, num_envs: int) -> None:
        left_B = np.zeros(num_envs, np.int64)
        self.running = {"action": self.uniform(num_envs), "steps_left": left_B}
        self._remember(self.actor.initial(num_envs))

    def _remember(self, memory: Memory) -> None:
        self.running |= {f"memory_{i}": part for i, part in enumerate(memory)}

    def act(self, obs_B: np.ndarray) -> np.ndarray:
        now = self.running
        memory = tuple(part for name, part in now.items() if name.startswith("memory_"))
        # What is remembered is the actor's own action: a disturbance takes it by surprise.
        own_BA, memory = self.actor.act(obs_B, memory, explore=False)
        self._remember(memory)
        left_B = now["steps_left"]
        begins_B = (left_B == 0) & (self.rng.random(len(left_B)) < self.rate)
        now["action"][begins_B] = self.uniform(int(begins_B.sum()))
        left_B[begins_B] = self.rng.integers(1, self.longest + 1, int(begins_B.sum()))
        action_BA = np.where(left_B[:, None] > 0, now["action"], own_BA)
        now["steps_left"] = np.maximum(left_B - 1, 0)
        return action_BA


class ForcedStart:
    """The same action for the first steps of an episode, then another policy.

    For CarRacing full gas for 60 steps (the walk-through of World Models by Foster), so that the
    car gets somewhere.
    """

    def __init__(
        self, policy: RandomPolicy, *, action: Sequence[float] = (0, 1, 0), steps: int = 60
    ) -> None:
        self.policy, self.steps = policy, steps
        self.action_A = np.array(action, np.float32)
        self.t = 0

    def reset(self, num_envs: int) -> None:
        self.policy.reset(num_envs)
        self.t = 0

    def act(self, obs_B: np.ndarray) -> np.ndarray:
        self.t += 1
        if self.t <= self.steps:
            return np.tile(self.action_A, (len(obs_B), 1))
        return self.policy.act(obs_B)

    def state(self) -> State:
        return {"policy": self.policy.state(), "t": self.t}

    def load(self, state: State) -> None:
        self.policy.load(state["policy"])
        self.t = int(state["t"])


def make_random_policy(
    name: str,
    space: spaces.Box,
    rng: np.random.Generator,
    *,
    clipped: Sequence[int] = (),
    forced_start_steps: int = 0,
    held_steps: int = 10,
    actor: Policy | None = None,
    disturbance_rate: float = 0.0,
) -> RandomPolicy:
    """`networks` (with actions `clipped` as in C), `brownian`, `held` or `one_control`.

    Or `controller`, for which `actor` is the one that is disturbed.
    """
    if name == "controller":
        assert actor is not None
        return Disturbed(space, rng, actor=actor, rate=disturbance_rate, longest=held_steps)
    policies: dict[str, Callable[[], RandomPolicy]] = {
        "networks": lambda: RandomNetworks(space, rng, clipped=clipped),
        "brownian": lambda: Brownian(space, rng),
        "held": lambda: HeldUniform(space, rng, longest=held_steps),
        "one_control": lambda: OneControl(space, rng),
    }
    policy = policies[name]()
    return ForcedStart(policy, steps=forced_start_steps) if forced_start_steps else policy
