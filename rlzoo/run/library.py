"""rlzoo in a program or a notebook: train, load, evaluate, compose (docs/python.md)."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from rlzoo.core.seeding import TEST
from rlzoo.run import config as configuration
from rlzoo.run import session
from rlzoo.run.build import close
from rlzoo.run.config import RunConfig
from rlzoo.run.evaluate import Evaluation, never
from rlzoo.run.evaluate import evaluate as evaluate_policy
from rlzoo.run.progress import EpisodesPlayed
from rlzoo.run.saved import SavedRun, acting_policy
from rlzoo.run.stop import StopSignal


def compose(*words: str, **settings: Any) -> RunConfig:
    """The checked settings for the words of a command line; keyword arguments are overrides.

    `compose("algo=dqn", "env=cartpole", seed=1, algo={"lr": 1e-3})`. UsageError as on the command
    line; nothing is built or written.
    """
    return configuration.compose(_overrides(words, settings))


def train(*words: str, run_dir: str | Path | None = None, **settings: Any) -> SavedRun:
    """Train a run as the command line does, and return it. Ctrl-C saves it and stops."""
    overrides = _overrides(words, settings)
    config = configuration.compose(overrides)
    can_hear = threading.current_thread() is threading.main_thread()
    with StopSignal().installed() if can_hear else nullcontext(never) as stop:
        directory = None if run_dir is None else Path(run_dir)
        path, _ = session.begin(config, overrides, stop, run_dir=directory)
    return SavedRun(path)


def resume(run: SavedRun | str | Path, *words: str, **settings: Any) -> SavedRun:
    """Go on with a run that was stopped, or train a finished one for longer."""
    saved = _saved(run)
    can_hear = threading.current_thread() is threading.main_thread()
    with StopSignal().installed() if can_hear else nullcontext(never) as stop:
        session.resume(saved, _overrides(words, settings), stop)
    return SavedRun(saved.path, checkpoint=saved.which)


def load(path: str | Path, *, checkpoint: str = "best") -> SavedRun:
    """A run by its directory, or 'latest'; `checkpoint` is 'best' or 'last'."""
    return SavedRun(path, checkpoint=checkpoint)


def evaluate(run: SavedRun | str | Path, *, episodes: int = 100) -> Evaluation:
    """Greedy episodes on the run's test seeds; episode k is the same one each time."""
    saved = _saved(run)
    config, algorithm = saved.config(), saved.algorithm()
    with closing(EpisodesPlayed(episodes)) as played:
        result = evaluate_policy(
            acting_policy(algorithm, saved.path),
            config.env,
            episodes=episodes,
            num_envs=config.eval.num_envs,
            run_seed=config.seed,
            purpose=TEST,
            episode_over=played.one_more,
        )
    close(algorithm)
    return result


def _saved(run: SavedRun | str | Path) -> SavedRun:
    return run if isinstance(run, SavedRun) else SavedRun(run)


def _overrides(words: tuple[str, ...], settings: Mapping[str, Any]) -> list[str]:
    return [*words, *_words("", settings)]


def _words(prefix: str, settings: Mapping[str, Any]) -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _words(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}={_text(value)}"


def _text(value: Any) -> str:
    """A value as an override says it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, str | Path):
        return configuration.quoted(str(value))
    return str(value)
