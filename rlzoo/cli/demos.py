"""`rlzoo demos`: record demonstrations, look at them, check them against an env, play them."""

from __future__ import annotations

import math
import os
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlzoo.cli.options import Option, env_words, film, flag, one_of, parse, text, whole
from rlzoo.cli.show import CHECKPOINT
from rlzoo.core.algorithm import Policy, Reactive
from rlzoo.core.messages import note
from rlzoo.core.settings import nearest
from rlzoo.core.types import CantCreateError, StorageError, UsageError
from rlzoo.demonstrations import minari_format
from rlzoo.demonstrations.experts import load_expert
from rlzoo.demonstrations.files import encode, load
from rlzoo.demonstrations.fit import FitReport, fit_report
from rlzoo.demonstrations.recording import record, replay
from rlzoo.demonstrations.trajectories import Demonstrations, check_fits
from rlzoo.envs.make import EnvConfig, make_env, restore_class
from rlzoo.io import files
from rlzoo.io.run_dir import RunDir
from rlzoo.io.video import write_video
from rlzoo.run import config as configuration
from rlzoo.run import statistics
from rlzoo.run.build import close
from rlzoo.run.evaluate import (
    MAX_EPISODES,
    MAX_FRAMES,
    frames_per_second,
    has_display,
    prepare_headless_drawing,
    text_table,
)
from rlzoo.run.progress import EpisodesPlayed
from rlzoo.run.saved import SavedRun, acting_policy

FORMATS = ("imitation", "flat", "baselines", "minari")
MAX_FEATURES_SHOWN = 64


NEW_FILE = {
    "file": Option("", text),
    "format": Option("imitation", one_of(*FORMATS)),
    "force": Option(False, flag),
}
OPTIONS: dict[str, dict[str, Option]] = {
    "record": {
        "expert": Option("", text),
        "episodes": Option(25, whole(1, MAX_EPISODES)),
        "seed": Option(0, whole(0)),
        "explore": Option(False, flag),
        "checkpoint": CHECKPOINT,
        **NEW_FILE,
    },
    "show": {},
    "check": {},
    "play": {"episode": Option(0, whole(0)), "file": Option("", film)},
    "convert": NEW_FILE,
}
Options = dict[str, Any]


def main(words: list[str]) -> int:
    verb, *words = words or [""]
    if verb not in VERBS:
        known = ", ".join(VERBS)
        raise UsageError(f"demos: got '{verb}', expected one of {known}.{nearest(verb, VERBS)}")
    words, changes = (words, []) if verb == "show" else env_words(words)
    paths, given = parse(
        f"demos {verb}",
        words,
        OPTIONS[verb],
        paths=(0, 1) if verb == "record" else (1,),
        what="a file of demonstrations",
    )
    return VERBS[verb](paths, changes, given)


def record_file(paths: list[str], changes: list[str], options: Options) -> int:
    """Play whole episodes of a run's policy, or of a bundled expert, and write them to a file.

    All or nothing: interrupted, it leaves no file behind.
    """
    target = _free_target(options)
    episodes = options["episodes"]
    policy, config = _policy(paths, changes, options)

    def over(return_: float) -> None:
        played.bar.set_postfix({"return": f"{return_:.4g}"}, refresh=False)
        played.one_more()

    try:
        with closing(EpisodesPlayed(episodes)) as played:
            demonstrations = record(
                policy,
                config,
                episodes=episodes,
                seed=options["seed"],
                source=str(target),
                explore=options["explore"],
                played=over,
            )
    except KeyboardInterrupt:
        note(f"stopped after {played.over} of {episodes} episodes: nothing was written")
        raise
    _write(demonstrations, target, options, config)
    print(describe(demonstrations))
    return 0


def _policy(paths: list[str], changes: list[str], options: Options) -> tuple[Policy, EnvConfig]:
    if len(paths) + bool(options["expert"]) != 1:
        raise UsageError("demos record: expected one run directory, or expert=HopperBulletEnv-v0")
    if options["expert"]:
        return _expert(options["expert"], changes)
    if changes:
        raise UsageError(f"demos record: '{changes[0]}': a run is played in its own env")
    run = SavedRun(paths[0], checkpoint=options["checkpoint"])
    algorithm = run.algorithm()
    policy = acting_policy(algorithm, run.path)
    close(algorithm)
    return policy, run.config().env


def _expert(env_id: str, changes: list[str]) -> tuple[Policy, EnvConfig]:
    """A bundled expert, and the env it was trained for (or the one that is named)."""
    expert = load_expert(env_id)
    own_env = ["env=gym", f"env.id=rlzoo.envs.zoo.bullet:{env_id}", "env.restore=settle"]
    config = env_config(changes or own_env)
    with closing(make_env(config)) as env:
        shapes = (env.observation_space.shape, env.action_space.shape)
    if shapes != ((expert.num_obs,), (expert.num_actions,)):
        raise UsageError(
            f"expert: {env_id} takes {expert.num_obs} observations to {expert.num_actions} "
            f"actions, got an env with the shapes {shapes[0]} and {shapes[1]}"
        )
    return Reactive(expert.act), config


def show_file(paths: list[str], _changes: list[str], _options: Options) -> int:
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


def check_file(paths: list[str], changes: list[str], _options: Options) -> int:
    """Print whether demonstrations belong to an env; 65 where something tells them apart."""
    demonstrations, config = load(*paths), _env("check", changes)
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


def play_file(paths: list[str], changes: list[str], options: Options) -> int:
    """Take a trajectory's recorded actions in an env: in a window, or on a film."""
    demonstrations, config = load(*paths), _env("play", changes)
    trajectory = options["episode"]
    if trajectory >= demonstrations.num_trajectories:
        most = demonstrations.num_trajectories - 1
        raise UsageError(f"episode: got {trajectory}, expected 0 to {most}")
    in_window = has_display() and not options["file"]
    prepare_headless_drawing()
    mode = "human" if in_window else "rgb_array"
    frames: list[Any] = []
    steps, return_, fps = 0, 0.0, 30.0
    for episode in replay(
        demonstrations,
        trajectory,
        partial(make_env, config, render_mode=mode),
        restore=restore_class(config, seed=0),
    ):
        env = episode.env.env
        steps, return_, fps = episode.length, episode.return_, frames_per_second(env)
        if not in_window and len(frames) < MAX_FRAMES:
            frames.append(np.array(env.render(), dtype=np.uint8))
    if not in_window:
        beside = Path(paths[0]).with_suffix("").as_posix() + f"_episode_{trajectory}"
        print(write_video(Path(options["file"] or beside), np.stack(frames), fps))
    recorded = demonstrations.subset([trajectory])
    print(
        f"return {return_:g} in {steps} steps; "
        f"recorded: {recorded.returns[0]:g} in {recorded.num_steps}"
    )
    return 0


def convert_file(paths: list[str], changes: list[str], options: Options) -> int:
    """Write demonstrations to another file, in another format."""
    target = _free_target(options)
    config = env_config(changes) if changes else None
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


def _free_target(options: Options) -> Path:
    """The file to write, if it may be written; found out before any episode is played."""
    if not options["file"]:
        raise UsageError("file: got nothing, expected the file to write, such as file=demos.npz")
    target = Path(options["file"])
    if os.path.lexists(target) and not options["force"]:
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
