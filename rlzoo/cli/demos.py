"""`rlzoo demos`: record demonstrations, look at them, check them against an env, play them."""

from __future__ import annotations

import math
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rlzoo.core import statistics
from rlzoo.core.messages import note
from rlzoo.core.types import CantCreateError, StorageError, UsageError
from rlzoo.demonstrations import minari_format
from rlzoo.demonstrations.experts import load_expert
from rlzoo.demonstrations.files import encode, load
from rlzoo.demonstrations.fit import FitReport, fit_report
from rlzoo.demonstrations.recording import Act, record, replay
from rlzoo.demonstrations.trajectories import Demonstrations, check_fits
from rlzoo.envs.make import EnvConfig, make_env, restore_class
from rlzoo.io import files
from rlzoo.io.run_dir import RunDir
from rlzoo.io.video import write_video
from rlzoo.run import config as configuration
from rlzoo.run.build import find_checkpoint, load_policy, open_run
from rlzoo.run.evaluate import has_display, prepare_headless_drawing, text_table

FORMATS = ("imitation", "flat", "baselines", "minari")
MAX_FEATURES_SHOWN = 64
MAX_FRAMES = 3000


Options = dict[str, str]


def record_file(paths: list[str], env_words: list[str], options: Options) -> int:
    """Play whole episodes of a run's policy, or of a bundled expert, and write them to a file.

    All or nothing: interrupted, it leaves no file behind.
    """
    target = _free_target(options)
    episodes, seed = _number(options, "episodes", 1), _number(options, "seed", 0)
    act, config = _policy(paths, env_words, options)
    bar = tqdm(total=episodes, unit=" episodes", disable=not sys.stderr.isatty())

    def played(return_: float) -> None:
        bar.set_postfix({"return": f"{return_:.4g}"}, refresh=False)
        bar.update()

    try:
        with bar:
            demonstrations = record(
                act,
                config,
                episodes=episodes,
                seed=seed,
                source=str(target),
                explore=_flag(options, "explore"),
                played=played,
            )
    except KeyboardInterrupt:
        note(f"stopped after {bar.n} of {episodes} episodes: nothing was written")
        raise
    _write(demonstrations, target, options, config)
    print(describe(demonstrations))
    return 0


def _policy(paths: list[str], env_words: list[str], options: Options) -> tuple[Act, EnvConfig]:
    if len(paths) + bool(options["expert"]) != 1:
        raise UsageError("demos record: expected one run directory, or expert=HopperBulletEnv-v0")
    if options["expert"]:
        return _expert(options["expert"], env_words)
    if env_words:
        raise UsageError(f"demos record: '{env_words[0]}': a run is played in its own env")
    directory, run_config = open_run(paths[0])
    algorithm = load_policy(run_config, find_checkpoint(directory, options["checkpoint"])[1])
    algorithm.env.close()
    return algorithm.act, run_config.env


def _expert(env_id: str, env_words: list[str]) -> tuple[Act, EnvConfig]:
    """A bundled expert, and the env it was trained for (or the one of `env_words`)."""
    expert = load_expert(env_id)
    own_env = ["env=gym", f"env.id=rlzoo.envs.zoo.bullet:{env_id}", "env.restore=settle"]
    config = env_config(env_words or own_env)
    env = make_env(config)
    shapes = (env.observation_space.shape, env.action_space.shape)
    env.close()
    if shapes != ((expert.num_obs,), (expert.num_actions,)):
        raise UsageError(
            f"expert: {env_id} takes {expert.num_obs} observations to {expert.num_actions} "
            f"actions, got an env with the shapes {shapes[0]} and {shapes[1]}"
        )
    return expert.act, config


def show_file(paths: list[str], _env_words: list[str], _options: Options) -> int:
    """Print how many trajectories a file has, their returns and lengths, and each feature."""
    print(describe(load(*paths)))
    return 0


def describe(demonstrations: Demonstrations) -> str:
    """Statistics of demonstrations as plain text."""
    d = demonstrations
    rows = [["", "mean", "std", "median", "min", "max"]]
    for name, values in (("return", d.returns), ("length", d.lengths)):
        summary = statistics.summary(values.tolist())
        rows.append([name, *(f"{summary[key]:.6g}" for key in rows[0][1:])])
    columns = [["", "mean", "min", "max"]]
    for name, array in (("obs", d.obs), ("action", d.action)):
        shape = array.shape[1:]
        if math.prod(shape) > MAX_FEATURES_SHOWN:
            columns.append([f"{name} {array.dtype} {shape}", *_extent(array, None)[0]])
            continue
        for index, numbers in zip(np.ndindex(shape), _extent(array, 0), strict=True):
            columns.append([name + "".join(f"[{i}]" for i in index), *numbers])
    terminated = int(d.terminated.sum())
    return "\n".join(
        [
            f"{d.source}: {d.num_trajectories} trajectories, {d.num_steps} steps"
            + (f" of {d.env_id}" if d.env_id else ""),
            f"{terminated} terminated, {d.num_trajectories - terminated} ended by a time limit or "
            "cut off",
            "",
            text_table(rows),
            "",
            text_table(columns),
        ]
    )


def _extent(array: np.ndarray, axis: int | None) -> list[list[str]]:
    """Mean, least and greatest value, of each feature (axis 0) or of everything (None)."""
    values = [np.ravel(f(array, axis=axis)) for f in (np.mean, np.min, np.max)]
    return [[f"{number:.4g}" for number in row] for row in zip(*values, strict=True)]


def check_file(paths: list[str], env_words: list[str], _options: Options) -> int:
    """Print whether demonstrations belong to an env; 65 where something tells them apart."""
    demonstrations, config = load(*paths), _env("check", env_words)
    env = make_env(config)
    try:
        check_fits(demonstrations, env.observation_space, env.action_space, config.id)
    finally:
        env.close()
    restore = restore_class(config, seed=0)
    report = fit_report(demonstrations, partial(make_env, config), restore=restore)
    print(_table(report))
    for warning in report.warnings:
        note(f"WARNING: {warning}")
    print(f"{paths[0]} {'does not fit' if report.warnings else 'fits'} {config.id}")
    return 65 if report.warnings else 0


def _table(report: FitReport) -> str:
    rows = [["", "first: median", "env's resets", "AUC", "all, random policy: AUC", ""]]
    for feature in report.features:
        medians = [f"{x:.4g}" for x in feature.starts]
        aucs = [f"{feature.starts_auc:.3f}", f"{feature.states_auc:.3f}"]
        rows.append([feature.name, *medians, *aucs, "foreign" if feature.is_foreign else ""])
    lengths = [["env steps", "median", "min", "max"]]
    for name, values in (
        ("recorded", report.recorded_lengths),
        ("replayed", report.replay_lengths),
        ("same obs", report.same_steps or ()),
        ("random", report.random_lengths),
    ):
        if values:
            lengths.append([name, f"{np.median(values):.0f}", str(min(values)), str(max(values))])
    tables = [text_table(rows)] if report.features else ["too many features to compare one by one"]
    return "\n\n".join([*tables, text_table(lengths)])


def play_file(paths: list[str], env_words: list[str], options: Options) -> int:
    """Take a trajectory's recorded actions in an env: in a window, or on a film."""
    demonstrations, config = load(*paths), _env("play", env_words)
    trajectory = _number(options, "episode", 0)
    if trajectory >= demonstrations.num_trajectories:
        most = demonstrations.num_trajectories - 1
        raise UsageError(f"episode: got {trajectory}, expected 0 to {most}")
    in_window = has_display() and not options["file"]
    prepare_headless_drawing()
    mode = "human" if in_window else "rgb_array"
    frames: list[Any] = []
    steps, return_, fps = 0, 0.0, 30.0
    for env, so_far in replay(
        demonstrations,
        trajectory,
        partial(make_env, config, render_mode=mode),
        restore=restore_class(config, seed=0),
    ):
        steps, return_ = env.length, so_far
        fps = float(env.env.metadata.get("render_fps", 30))
        if not in_window and len(frames) < MAX_FRAMES:
            frames.append(np.array(env.env.render(), dtype=np.uint8))
    if not in_window:
        beside = Path(paths[0]).with_suffix("").as_posix() + f"_episode_{trajectory}"
        print(write_video(Path(options["file"] or beside), np.stack(frames), fps))
    recorded = demonstrations.subset([trajectory])
    print(
        f"return {return_:g} in {steps} steps; "
        f"recorded: {recorded.returns[0]:g} in {recorded.num_steps}"
    )
    return 0


def convert_file(paths: list[str], env_words: list[str], options: Options) -> int:
    """Write demonstrations to another file, in another format."""
    target = _free_target(options)
    config = env_config(env_words) if env_words else None
    demonstrations = load(*paths)
    _write(demonstrations, target, options, config)
    print(f"{target}: {demonstrations.num_trajectories} trajectories, {options['format']}")
    return 0


VERBS = {
    "record": record_file,
    "show": show_file,
    "check": check_file,
    "play": play_file,
    "convert": convert_file,
}

# Words and files --------------------------------------------------------------------------------


def env_config(words: list[str]) -> EnvConfig:
    """The env of words such as env=hopper_bullet, or env=gym env.id=Acrobot-v1."""
    config: EnvConfig = configuration.compose([*words, "experiment=none"]).env
    return config


def _env(verb: str, words: list[str]) -> EnvConfig:
    # The file's own env id is not used: it could name a module to import.
    if not words:
        raise UsageError(f"demos {verb}: expected an env, such as env=hopper_bullet")
    return env_config(words)


def _number(options: Options, name: str, low: int) -> int:
    text = options[name]
    if not text.isdecimal() or int(text) < low:
        raise UsageError(f"{name}: got '{text}', expected a whole number >= {low}")
    return int(text)


def _flag(options: Options, name: str) -> bool:
    if options[name] not in ("true", "false"):
        raise UsageError(f"{name}: got '{options[name]}', expected true or false")
    return options[name] == "true"


def _free_target(options: Options) -> Path:
    """The file to write, if it may be written; found out before any episode is played."""
    if options["format"] not in FORMATS:
        known = ", ".join(FORMATS)
        raise UsageError(f"format: got '{options['format']}', expected one of {known}")
    if not options["file"]:
        raise UsageError("file: got nothing, expected the file to write, such as file=demos.npz")
    target = Path(options["file"])
    if os.path.lexists(target) and not _flag(options, "force"):
        raise CantCreateError(f"{target}: exists already (force=true replaces it)")
    if target.is_dir():
        raise CantCreateError(f"{target}: is a folder, remove it first")
    RunDir.check_writable(target.parent)
    return target


def _write(
    demonstrations: Demonstrations, target: Path, options: Options, env: EnvConfig | None
) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{target.parent}: cannot be created: {error.strerror}") from error
    if options["format"] == "minari":
        minari_format.write(demonstrations, target, env)
    else:
        files.write_atomic(target, encode(demonstrations, options["format"]))
