"""The first phase: random policies play, and what they see goes to the disk.

Shape suffixes: B envs, T steps of an episode, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from rlzoo.algos.world_models.frame_store import Column, FrameStore
from rlzoo.algos.world_models.models import FRAME_SIZE
from rlzoo.algos.world_models.phases import Phase
from rlzoo.algos.world_models.pictures import grid, spread
from rlzoo.algos.world_models.random_policies import RandomPolicy
from rlzoo.core.algorithm import Picture, Report
from rlzoo.core.seeding import TRAIN, episode_seed
from rlzoo.core.settings import setting
from rlzoo.core.types import Counters, DataError, Metrics, State

if TYPE_CHECKING:
    from rlzoo.envs.batch import EpisodeBatch

STEPS_AT_ONCE = 100  # of each env, in one `step`: a signal is heard after at most so many
HOPELESS_EPISODES = 100  # all of them too short: the settings are wrong
Preprocess = Callable[[np.ndarray], np.ndarray]  # observations [B, ...] to frames [B, 64, 64, 3]


@dataclass(frozen=True)
class CollectConfig:
    episodes: int = setting(10_000, "episodes to store (the paper: 10,000)", low=1)
    max_episode_steps: int = setting(1000, "longer ones are cut off (CarRacing: 1000)", low=1)
    min_episode_steps: int = setting(1, "shorter ones are dropped (TakeCover's code: 100)", low=1)
    policy: Literal["networks", "brownian", "held", "one_control", "controller"] = setting(
        "networks",
        "who plays: random recurrent networks (the paper, CarRacing), a random walk, uniform "
        "actions held for a while (TakeCover), one control of CarRacing at a time, or the source's "
        "C, disturbed (iterative training)",
    )
    held_steps: int = setting(
        10, "policy=held, controller: a random action lasts at most this (TakeCover: 10)", low=1
    )
    disturbance_rate: float = setting(
        0.01, "policy=controller: how often a random action cuts in, in each step", low=0, high=1
    )
    forced_start_steps: int = setting(
        0, "CarRacing: full gas for so many steps first (the walk-through: 60)", low=0, fixed=True
    )


class _Round:
    """One episode of each env, as far as it has been played."""

    def __init__(self, num_envs: int, num_steps: int, action_size: int) -> None:
        self.frame_BTHWC = np.empty((num_envs, num_steps, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
        self.action_BTA = np.empty((num_envs, num_steps, action_size), np.float32)
        self.reward_BT = np.empty((num_envs, num_steps), np.float32)
        self.is_running = False

    def begin(self, obs_B: np.ndarray, policy: State) -> None:
        self.obs_B, self.policy = obs_B, policy
        self.t, self.is_running = 0, True
        self.length_B = np.zeros(len(self.reward_BT), np.int64)
        self.terminated_B = np.zeros(len(self.reward_BT), bool)
        self.playing_B = np.ones(len(self.reward_BT), bool)


class CollectPhase(Phase):
    """Stores `config.episodes` episodes of a policy as frames, actions and rewards.

    A frame is what was seen *before* the action beside it. All envs begin an episode together, and
    what counts is whole rounds of them: a round that a kill interrupts is played again. `about`
    says which env this is; it is kept with the frames.
    """

    name: ClassVar = "collect"
    unit: ClassVar = "episodes"
    length: ClassVar = "collect.episodes"

    def __init__(
        self,
        config: CollectConfig,
        *,
        seed: int,
        directory: str | Path,
        envs: EpisodeBatch,
        policy: RandomPolicy,
        preprocess: Preprocess,
        action_size: int,
        about: Mapping[str, Any],
    ) -> None:
        self.config, self.seed, self.directory = config, seed, Path(directory)
        self.envs, self.policy, self.preprocess = envs, policy, preprocess
        self.action_size, self.about = action_size, dict(about)
        self.env_steps = self.played = 0
        self.frames: FrameStore | None = None  # from the first step on
        self._round = _Round(envs.num_envs, config.max_episode_steps, action_size)

    def step(self) -> Metrics:
        """Play on for a while. Metrics only where a round of episodes ends."""
        if self.frames is None:
            self.frames = self._new_store()
        if not self._round.is_running:
            self._begin()
        for _ in range(STEPS_AT_ONCE):
            self._advance()
            if not self._round.playing_B.any():
                return self._finish(self.frames)
        return {}

    def _new_store(self) -> FrameStore:
        columns = {
            "frame": Column("uint8", (FRAME_SIZE, FRAME_SIZE, 3)),
            "action": Column("float32", (self.action_size,)),
            "reward": Column("float32", ()),
        }
        return FrameStore.create(self.directory, columns, self.about)

    def _begin(self) -> None:
        policy, num_envs = self.policy.state(), self.envs.num_envs
        first = self.played // num_envs
        seeds = [episode_seed(self.seed, TRAIN, env, first) for env in range(num_envs)]
        self.policy.reset(num_envs)
        self._round.begin(self.envs.reset(seeds), policy)

    def _advance(self) -> None:
        now, t = self._round, self._round.t
        now.frame_BTHWC[:, t] = self.preprocess(now.obs_B)
        now.action_BTA[:, t] = action_BA = self.policy.act(now.obs_B)
        now.obs_B, reward_B, terminated_B, truncated_B = self.envs.step(action_BA)
        now.reward_BT[:, t] = reward_B
        now.length_B += now.playing_B
        now.terminated_B |= now.playing_B & terminated_B
        now.playing_B &= ~(terminated_B | truncated_B)
        now.t += 1
        if now.t == self.config.max_episode_steps:
            now.playing_B[:] = False

    def _finish(self, frames: FrameStore) -> Metrics:
        now, config = self._round, self.config
        returns = []
        for env, length in enumerate(now.length_B.tolist()):
            returns.append(float(now.reward_BT[env, :length].sum()))
            if length >= config.min_episode_steps and frames.num_episodes < config.episodes:
                columns: dict[str, np.ndarray] = {
                    "frame": now.frame_BTHWC[env, :length],
                    "action": now.action_BTA[env, :length],
                    "reward": now.reward_BT[env, :length],
                }
                frames.append_episode(columns, terminated=bool(now.terminated_B[env]))
        now.is_running = False
        self.played += len(returns)
        self.env_steps += int(now.length_B.sum())
        if self.played >= HOPELESS_EPISODES and not frames.num_episodes:
            raise DataError(
                f"min_episode_steps: got {config.min_episode_steps}, but none of the first "
                f"{self.played} episodes was so long (the last ones: {now.length_B.tolist()[:5]})"
            )
        return {
            "rollout/return_mean": float(np.mean(returns)),
            "rollout/length_mean_env_steps": float(now.length_B.mean()),
        }

    def progress(self) -> tuple[int, int]:
        return (self.frames.num_episodes if self.frames else 0), self.config.episodes

    def counted(self) -> Counters:
        return Counters(env_steps=self.env_steps, episodes=self.played)

    def left(self) -> State:
        return {"path": str(self.directory)}

    def report(self) -> Iterable[Report]:
        """Frames from all over the store."""
        if not self.frames or not self.frames.num_steps:
            return
        frame_BHWC = self.frames.rows("frame", spread(32, self.frames.num_steps))
        rows = len(frame_BHWC) // 8 or 1
        frame_RCHWC = frame_BHWC[: rows * 8].reshape(rows, -1, *frame_BHWC.shape[1:])
        yield Picture("collect/frames", grid(frame_RCHWC))

    def state(self) -> State:
        """The end of the last whole round, whose frames are on the disk by then."""
        if self.frames is not None:
            self.frames.sync()
        return {
            "episodes": self.progress()[0],
            "played": self.played,
            "env_steps": self.env_steps,
            "policy": self._round.policy if self._round.is_running else self.policy.state(),
        }

    def load(self, state: State) -> None:
        """Go on where `state` was taken; DataError if the frames are damaged or another env's."""
        self._round.is_running = False
        self.played, self.env_steps = state["played"], state["env_steps"]
        self.policy.load(state["policy"])
        self.frames = None
        if state["episodes"]:
            self.frames = FrameStore.open(
                self.directory, about=self.about, num_episodes=state["episodes"]
            )

    def close(self) -> None:
        self.envs.close()
