"""Play whole episodes with fixed seeds, and record one of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np

from rlzoo.core import statistics
from rlzoo.core.settings import setting
from rlzoo.core.types import UsageError
from rlzoo.envs.episodes import Env, EpisodeEnv, RestoreClass
from rlzoo.envs.make import EnvConfig, make_env, restore_class


@dataclass(frozen=True)
class EvalConfig:
    every_env_steps: int = setting(10_000, "greedy episodes for model selection, this often", low=1)
    episodes: int = setting(20, "episodes of each such evaluation", low=1)
    test_episodes: int = setting(100, "episodes of the final test, on seeds of their own", low=1)
    num_envs: int = setting(8, "episodes played side by side; no result depends on it", low=1)


class Act(Protocol):
    """The policy: a batch of observations in, a batch of actions out."""

    def __call__(self, obs_B: np.ndarray, *, explore: bool) -> np.ndarray: ...


class Greedy:
    """Greedy actions for episodes side by side, with what each carries in a policy's memory.

    The policy is an algorithm, or a plain function of observations.
    """

    def __init__(self, policy: Any) -> None:
        self._act: Act = getattr(policy, "act", policy)
        self._policy = policy if hasattr(policy, "act_with_memory") else None
        self._memories: dict[int, np.ndarray] = {}  # by episode

    def __call__(self, episodes: Sequence[int], obs_B: np.ndarray) -> np.ndarray:
        """One action for each of some episodes; one that is new begins with an empty memory."""
        if self._policy is None:
            return self._act(obs_B, explore=False)
        new = [k for k in episodes if k not in self._memories]
        self._memories |= dict(zip(new, self._policy.initial_memory(len(new)), strict=True))
        memory_BM = np.stack([self._memories[k] for k in episodes])
        action_B, memory_BM = self._policy.act_with_memory(obs_B, memory_BM, explore=False)
        self._memories = dict(zip(episodes, memory_BM, strict=True))  # the others are over
        return action_B

    def beside(self, episode: int, obs: np.ndarray) -> np.ndarray:
        """What the policy makes of what it acts on next, as a picture [H, W, 3]."""
        assert self._policy is not None
        memory_M = self._memories.get(episode)
        memory_BM = self._policy.initial_memory(1) if memory_M is None else memory_M[None]
        [picture_HWC] = self._policy.beside(obs[None], memory_BM)
        return np.asarray(picture_HWC)


class Stopped(Exception):
    """An evaluation was told to stop before its last episode ended; its episodes are dropped."""


def never() -> bool:
    return False


def nobody() -> None:
    """Who hears of an episode's end where nobody asked to."""


@dataclass(frozen=True)
class Evaluation:
    """What the episodes of one evaluation came to; index k is episode k."""

    returns: tuple[float, ...]  # undiscounted sums of raw rewards
    lengths: tuple[int, ...]  # env steps
    seeds: tuple[int, ...]

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Statistics of the returns (`rlzoo.core.statistics.summary`)."""
        return statistics.summary(self.returns)

    @property
    def mean(self) -> float:
        return float(self.summary["mean"])

    @property
    def std(self) -> float:
        return float(self.summary["std"])

    def to_json(self) -> dict[str, Any]:
        episodes = {name: list(values) for name, values in asdict(self).items()}
        return {"return": self.summary, "length": statistics.summary(self.lengths), **episodes}

    def describe(self) -> str:
        """The result in one line."""
        low, high = self.summary["ci95"]
        return (
            f"{len(self.returns)} episodes: return {_number(self.mean)} "
            f"(95 % interval {_number(low)} to {_number(high)}), "
            f"std {_number(self.std)}, median {_number(self.summary['median'])}"
        )

    def table(self) -> str:
        """The result as a plain text table, two rows: returns and lengths."""
        rows = [["", "mean", "95 % interval", "std", "median", "IQM", "min", "max"]]
        for name, values in (("return", self.returns), ("length", self.lengths)):
            s = self.summary if name == "return" else statistics.summary(values)
            interval = " to ".join(map(_number, s["ci95"]))
            rest = (_number(s[key]) for key in ("std", "median", "iqm", "min", "max"))
            rows.append([name, _number(s["mean"]), interval, *rest])
        return text_table(rows) + f"\n{len(self.returns)} episodes"


def _number(x: float) -> str:
    return f"{x:.4g}" if abs(x) < 1000 else f"{x:.0f}"


def text_table(rows: list[list[str]]) -> str:
    """Rows of equal length with the first one as header; the first column is flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *rest = zip(row, widths, strict=True)
        cells = [f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in rest)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * sum(widths + [2] * (len(widths) - 1)), *lines[1:]])


def evaluate(
    policy: Any,
    env_config: EnvConfig,
    *,
    episodes: int,
    num_envs: int,
    run_seed: int,
    purpose: str,
    stop: Callable[[], bool] = never,
    episode_over: Callable[[], None] = nobody,
) -> Evaluation:
    """Play `episodes` whole greedy episodes, `num_envs` side by side; raises Stopped, EnvError.

    Episode k is played under `episode_seed(run_seed, purpose, 0, k)`, whatever `num_envs` is.
    `stop` is asked before every step, `episode_over` called after each episode.
    """
    return play_episodes(
        policy,
        partial(make_env, env_config),
        restore=restore_class(env_config, run_seed),
        episodes=episodes,
        num_envs=num_envs,
        run_seed=run_seed,
        purpose=purpose,
        stop=stop,
        episode_over=episode_over,
    )


def play_episodes(
    policy: Any,
    make: Callable[[], Env],
    *,
    restore: RestoreClass,
    episodes: int,
    num_envs: int,
    run_seed: int,
    purpose: str,
    stop: Callable[[], bool] = never,
    episode_over: Callable[[], None] = nobody,
) -> Evaluation:
    """`evaluate` for envs that `make` makes.

    Env i of N plays the episodes i, i + N, i + 2N, ..., so that which episodes count does not
    depend on how long they are. An env that has played its last one leaves the batch.
    """
    num_envs, greedy = min(num_envs, episodes), Greedy(policy)
    returns, lengths, seeds = [0.0] * episodes, [0] * episodes, [0] * episodes
    envs: list[EpisodeEnv] = []
    try:
        for first in range(num_envs):
            env = EpisodeEnv(
                make,
                run_seed=run_seed,
                purpose=purpose,
                env_index=0,
                restore=restore,
                auto_reset=False,
            )
            envs.append(env)
            env.begin(first)
        playing = list(envs)
        while playing:
            if stop():
                raise Stopped
            numbers = [env.episode_index for env in playing]
            action_B = greedy(numbers, np.stack([env.obs for env in playing]))
            for env, action in zip(playing, action_B, strict=True):
                k = env.episode_index
                _, reward, _, _ = env.step(action)
                returns[k] += reward
                if env.over:
                    lengths[k], seeds[k] = env.length, env.seed
                    episode_over()
                    if k + num_envs < episodes:
                        env.begin(k + num_envs)
            playing = [env for env in playing if not env.over]
    finally:
        for env in envs:
            env.close()
    return Evaluation(tuple(returns), tuple(lengths), tuple(seeds))


def record_episode(
    policy: Any,
    env_config: EnvConfig,
    *,
    run_seed: int,
    purpose: str,
    episode_index: int = 0,
    beside: bool = False,
    max_frames: int = 3000,
    stop: Callable[[], bool] = never,
) -> tuple[np.ndarray, float, float]:
    """Film one greedy episode: (frames_THWC uint8, frames per second, return).

    The frames are the env's, or what the policy draws itself (`Algorithm.beside`). An episode of
    more than `max_frames` frames is filmed only so far, and played to its end. Raises Stopped,
    EnvError, and UsageError for an env that cannot draw itself.
    """
    prepare_headless_drawing()
    greedy = Greedy(policy)
    env = EpisodeEnv(
        partial(make_env, env_config, render_mode="rgb_array"),
        run_seed=run_seed,
        purpose=purpose,
        env_index=0,
        restore=restore_class(env_config, run_seed),
        auto_reset=False,
    )

    def frame() -> np.ndarray:
        return greedy.beside(episode_index, env.obs) if beside else _frame(env.env)

    try:
        env.begin(episode_index)
        frames = [frame()]
        return_ = 0.0
        while not env.over:
            if stop():
                raise Stopped
            [action] = greedy([episode_index], np.stack([env.obs]))
            return_ += env.step(action)[1]
            if len(frames) < max_frames:
                frames.append(frame())
        return np.stack(frames), frames_per_second(env.env), return_
    finally:
        env.close()


def frames_per_second(env: Env) -> float:
    return float(env.metadata.get("render_fps", 30))


def _frame(env: Env) -> np.ndarray:
    try:
        frame_HWC = env.render()
    except Exception as error:
        raise UsageError(f"env cannot draw itself: {type(error).__name__}: {error}") from error
    if not isinstance(frame_HWC, np.ndarray) or frame_HWC.ndim != 3:
        modes = env.metadata.get("render_modes", [])
        raise UsageError(f"env cannot draw itself: render modes {modes}, expected rgb_array")
    return frame_HWC.astype(np.uint8)  # a copy: some envs draw into the same array again


def has_display() -> bool:
    names = ("DISPLAY", "WAYLAND_DISPLAY")  # an empty one is none
    return sys.platform != "linux" or any(os.environ.get(name) for name in names)


def prepare_headless_drawing() -> None:
    """Let pygame and MuJoCo draw without a display; their first import reads this."""
    if not has_display():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
