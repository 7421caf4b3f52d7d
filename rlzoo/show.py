"""Looking at a run: evaluate it, play it, compare several."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from rlzoo import config as configuration
from rlzoo import registry
from rlzoo.config import RunConfig
from rlzoo.envs.episodes import EpisodeEnv
from rlzoo.envs.make import make_env, restore_class
from rlzoo.evaluate import Greedy, evaluate, has_display, record_episode
from rlzoo.io import checkpoint
from rlzoo.io.run_dir import RunDir
from rlzoo.io.video import write_video
from rlzoo.run import build
from rlzoo.seeding import TEST
from rlzoo.terminal import note
from rlzoo.types import Algorithm, UsageError


def open_run(path: str) -> tuple[RunDir, RunConfig]:
    """A run directory and its configuration; `latest` is the newest one under outputs/."""
    from rlzoo.io.run_dir import latest

    directory = RunDir.open(latest(Path("outputs")) if path == "latest" else Path(path))
    name = directory.path / "config.yaml"
    saved = configuration.load_yaml(name.read_text(), str(name))
    registry.load_plugins(saved.get("plugins") or ())
    return directory, configuration.from_mapping(saved)


def load_policy(directory: RunDir, config: RunConfig, which: str) -> Algorithm:
    """The algorithm with the policy of the best or the last checkpoint, ready to `act`."""
    if which not in ("best", "last"):
        raise UsageError(f"checkpoint: got '{which}', expected best or last")
    best = checkpoint.best(directory.checkpoints) if which == "best" else None
    if best is not None:
        path, state = best, checkpoint.load(best)
    else:
        found = checkpoint.newest(directory.checkpoints, note)
        if found is None:
            raise UsageError(f"{directory.path}: has no checkpoint yet")
        path, state = found
    # Episodes are shown in the env itself; what it was trained in may not be installed here.
    algorithm = build(replace(config, env=replace(config.env, backend="sync")))
    algorithm.load_policy(state["algorithm"])
    note(f"{path.name} ({'best on the selection seeds' if best else 'last'})")
    return algorithm


def _whole_number(name: str, text: str, low: int) -> int:
    if not text.isdigit() or int(text) < low:
        raise UsageError(f"{name}: got '{text}', expected a whole number >= {low}")
    return int(text)


def evaluate_run(path: str, *, episodes: str, checkpoint: str) -> int:
    """Greedy episodes on the test seeds: a table, and evaluation.json in the run directory."""
    count = _whole_number("episodes", episodes, 1)
    directory, config = open_run(path)
    algorithm = load_policy(directory, config, checkpoint)
    result = evaluate(
        algorithm,
        config.env,
        episodes=count,
        num_envs=config.eval.num_envs,
        run_seed=config.seed,
        purpose=TEST,
    )
    algorithm.env.close()
    print(result.table())
    directory.write_json(f"evaluation_{checkpoint}.json", result.to_json())
    return 0


def play_run(path: str, *, episode: str, checkpoint: str, file: str) -> int:
    """Show a greedy episode in a window; without a display, or with `file`, write a film."""
    index = _whole_number("episode", episode, 0)
    directory, config = open_run(path)
    algorithm = load_policy(directory, config, checkpoint)
    if has_display() and not file:
        return_ = _play_in_window(algorithm, config, index)
    else:
        frames, fps, return_ = record_episode(
            algorithm, config.env, run_seed=config.seed, purpose=TEST, episode_index=index
        )
        target = Path(file) if file else directory.videos / f"test_episode_{index}_{checkpoint}"
        print(write_video(target, frames, fps))
    algorithm.env.close()
    print(f"return {return_:g}")
    return 0


def _play_in_window(algorithm: Algorithm, config: RunConfig, index: int) -> float:
    env = EpisodeEnv(
        partial(make_env, config.env, render_mode="human"),
        run_seed=config.seed,
        purpose=TEST,
        env_index=0,
        restore=restore_class(config.env, config.seed),
        auto_reset=False,
    )
    greedy = Greedy(algorithm)
    env.begin(index)
    return_ = 0.0
    while not env.over:
        [action] = greedy([index], np.stack([env.obs]))
        return_ += env.step(action)[1]
    env.close()
    return return_


def compare_runs(paths: list[str], *, file: str) -> int:
    """A table and learning curves of runs, grouped by everything but the seed."""
    from rlzoo.compare import compare

    comparison = compare([Path(path) for path in paths])
    print(comparison.table())
    target = Path(file or "compare.png")
    comparison.save_picture(target)
    note(f"learning curves: {target}")
    return 0
