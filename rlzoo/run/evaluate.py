"""Play whole episodes with fixed seeds: what they come to, and one of them as a film."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from rlzoo.core.algorithm import Policy
from rlzoo.core.messages import note
from rlzoo.core.settings import setting
from rlzoo.core.types import UsageError
from rlzoo.envs.episodes import Env, RestoreClass, faults_as
from rlzoo.envs.make import EnvConfig, make_env, restore_class, with_time_limit
from rlzoo.envs.play import Playing, episode_envs, play
from rlzoo.run import statistics

MAX_FRAMES = 3000  # of a film
MAX_EPISODES = 10_000_000  # of an evaluation; their results are held in memory


@dataclass(frozen=True)
class EvalConfig:
    every: int = setting(
        10_000,
        "greedy episodes for model selection, this often, in the unit of the progress bar",
        low=1,
    )
    episodes: int = setting(20, "episodes of each such evaluation", low=1, high=MAX_EPISODES)
    test_episodes: int = setting(
        100, "episodes of the final test, on seeds of their own", low=1, high=MAX_EPISODES
    )
    num_envs: int = setting(
        8, "episodes played side by side; no result depends on it", low=1, high=10_000
    )


class Stopped(Exception):
    """An evaluation was told to stop before its last episode ended; its episodes are dropped."""


def never() -> bool:
    return False


def _ignore() -> None: ...


@dataclass(frozen=True)
class Evaluation:
    """What the episodes of one evaluation came to; index k is episode k."""

    returns: tuple[float, ...]  # undiscounted sums of raw rewards
    lengths: tuple[int, ...]  # env steps
    seeds: tuple[int, ...]

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Statistics of the returns (`rlzoo.run.statistics.summary`)."""
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
    policy: Policy,
    env_config: EnvConfig,
    *,
    episodes: int,
    num_envs: int,
    run_seed: int,
    purpose: str,
    stop: Callable[[], bool] = never,
    episode_over: Callable[[], None] = _ignore,
) -> Evaluation:
    """Play `episodes` whole greedy episodes, `num_envs` side by side; raises Stopped, EnvError.

    Episode k is played under `episode_seed(run_seed, purpose, 0, k)`, whatever `num_envs` is.
    `stop` is asked after every step, `episode_over` called after each episode.
    """
    limited = with_time_limit(env_config)
    result = play_episodes(
        policy,
        partial(make_env, limited),
        restore=restore_class(env_config, run_seed),
        episodes=episodes,
        num_envs=num_envs,
        run_seed=run_seed,
        purpose=purpose,
        stop=stop,
        episode_over=episode_over,
    )
    most = limited.max_episode_steps
    if limited != env_config and (cut := result.lengths.count(most)):
        note(
            f"{cut} of {episodes} episodes were cut off after {most:,} env steps "
            f"(env.eval_episode_steps): {env_config.id} has no time limit"
        )
    return result


def play_episodes(
    policy: Policy,
    make: Callable[[], Env],
    *,
    restore: RestoreClass,
    episodes: int,
    num_envs: int,
    run_seed: int,
    purpose: str,
    stop: Callable[[], bool] = never,
    episode_over: Callable[[], None] = _ignore,
) -> Evaluation:
    """`evaluate` for envs that `make` makes."""
    returns, lengths, seeds = [0.0] * episodes, [0] * episodes, [0] * episodes
    count = min(num_envs, episodes)
    with episode_envs(make, count, run_seed=run_seed, purpose=purpose, restore=restore) as envs:
        for episode in play(policy, envs, range(episodes)):
            if episode.over:
                k = episode.index
                returns[k], lengths[k], seeds[k] = (
                    episode.return_,
                    episode.length,
                    episode.env.seed,
                )
                episode_over()
            elif stop():
                raise Stopped
    return Evaluation(tuple(returns), tuple(lengths), tuple(seeds))


def frames_of(
    policy: Policy,
    env_config: EnvConfig,
    episode_index: int,
    *,
    run_seed: int,
    purpose: str,
    render_mode: str = "rgb_array",
) -> Generator[Playing, None, None]:
    """Play one greedy episode in an env that draws itself (or shows itself, "human")."""
    prepare_headless_drawing()
    make = partial(make_env, with_time_limit(env_config), render_mode=render_mode)
    restore = restore_class(env_config, run_seed)
    with episode_envs(make, 1, run_seed=run_seed, purpose=purpose, restore=restore) as envs:
        yield from play(policy, envs, [episode_index])


def film_episode(
    policy: Policy,
    env_config: EnvConfig,
    *,
    run_seed: int,
    purpose: str,
    episode_index: int = 0,
    picture: Callable[[Playing], np.ndarray] | None = None,
    stop: Callable[[], bool] = never,
) -> tuple[np.ndarray, float, float]:
    """Film one greedy episode: (frames_THWC uint8, frames per second, return).

    The frames are the env's, or what `picture` makes of the episode at each step. An episode of
    more than `MAX_FRAMES` is filmed only so far, and played to its end. Raises Stopped, EnvError,
    and UsageError for an env that cannot draw itself.
    """
    frames: list[np.ndarray] = []
    return_, fps = 0.0, 30.0
    with closing(
        frames_of(policy, env_config, episode_index, run_seed=run_seed, purpose=purpose)
    ) as playing:
        for episode in playing:
            if stop():
                raise Stopped
            if len(frames) < MAX_FRAMES:
                frames.append(picture(episode) if picture else _frame(episode.env.env))
            return_, fps = episode.return_, frames_per_second(episode.env.env)
    return np.stack(frames), fps, return_


def frames_per_second(env: Env) -> float:
    return float(env.metadata.get("render_fps", 30))


def _frame(env: Env) -> np.ndarray:
    with faults_as(UsageError, "env cannot draw itself: "):
        frame_HWC = env.render()
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
