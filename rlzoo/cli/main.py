"""The command line: verbs, exit codes, errors on one screen. torch is imported only when needed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rlzoo.cli.options import taken
from rlzoo.core.messages import cause, note
from rlzoo.core.settings import nearest
from rlzoo.core.types import RlzooError, UsageError
from rlzoo.run import config as configuration
from rlzoo.run import plugins
from rlzoo.run.foreign import as_word, word_hint
from rlzoo.run.stop import StopSignal

if TYPE_CHECKING:
    from argparse import Namespace

    from rlzoo.run.config import RunConfig
    from rlzoo.run.saved import SavedRun

HELP = """\
rlzoo: reinforcement learning in PyTorch. One command trains, resumes exactly, shows the result.

  rlzoo algo=dqn env=cartpole                   train (a tuned preset is used where there is one)
  rlzoo algo=dqn env=cartpole algo.lr=3e-4      override any setting
  rlzoo algo=dqn env=gym env.id=Acrobot-v1      any gymnasium environment
  rlzoo -m algo=dqn seed=0,1,2 algo.lr=1e-3,3e-4    sweep: every combination, a process each
  rlzoo resume=latest total_env_steps=200_000   go on where a run stopped (latest, or a run's path)
  rlzoo from=RUN algo.phases=[vision]           a new run on what another one left (world_models)
  rlzoo list [GROUP]                            algorithms, environments, experiments, ...
  rlzoo evaluate RUN [episodes=100] [checkpoint=best|last] [env.kwargs.KEY=VALUE]
  rlzoo play RUN [episode=0] [checkpoint=best|last] [file=film.gif]    a window, or a film
  rlzoo play RUN beside=true | dream=true [temperature=1]    what world_models expects, dreams
  rlzoo export RUN to=DIR [checkpoint=best|last] [half=true]   record and policy, to hand on
  rlzoo compare RUN... [file=curves.png]        a table and learning curves over seeds
  rlzoo demos record RUN file=demos.npz [episodes=25] [seed=0] [explore=true] [format=baselines]
  rlzoo demos record expert=HopperBulletEnv-v0 file=demos.npz    a policy of the pybullet package
  rlzoo demos show FILE | check FILE env=hopper_bullet | play FILE env=... [episode=0] [file=x.gif]
  rlzoo demos convert FILE file=OUT [format=imitation|flat|baselines|minari]
  tensorboard --logdir outputs                  read it

options of training
  -m, --multirun     sweep; with --jobs N (processes at a time) and --name NAME (its folder; a sweep
                     of the same name skips finished jobs and resumes the others)
  -c, --cfg job      print the resolved configuration and stop
  run_dir=PATH       the run's directory (otherwise a new one below output_dir=outputs)
  -h, --help, --version

exit codes: 0 done, 64 wrong usage, 65 bad data, 70 failed (NaN, environment), 73 cannot create,
            74 input/output, 75 run in use, 130/143 stopped by a signal (resumable)
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. RlzooErrors become one line on stderr."""
    try:
        code = _dispatch(list(sys.argv[1:] if words is None else words))
        sys.stdout.flush()
        return code
    except RlzooError as error:
        note("error: " + " ".join(str(error).split()))  # one line, whatever a library wrote
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except SystemExit as error:  # of foreign code (an env, a plug-in): it may say 0
        note(f"error: ended by {cause(error)}")
        return 70
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # `rlzoo list | head`
            return 128 + signal.SIGPIPE
        note(f"error: {error}")
        return 74
    finally:
        drop_unwritten(sys.stdout)
        drop_unwritten(sys.stderr)


def drop_unwritten(stream: TextIO) -> None:
    """Leave nothing in a stream that the interpreter would fail on again as it exits."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _dispatch(words: list[str]) -> int:
    if not words or words[0] == "help" or {"-h", "--help"} & set(words):
        print(HELP, end="")
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"rlzoo {version('rlzoo-torch')}")
        return 0
    if words[0] in VERBS:
        return VERBS[words[0]](words[1:])
    return train(words)


def _read_options(words: list[str]) -> Namespace:
    """`-m`, `--jobs` and so on; `.words` are the overrides that remain."""
    from argparse import ArgumentParser

    class Parser(ArgumentParser):
        def error(self, message: str) -> None:  # type: ignore[override]
            raise UsageError(f"{message}. See rlzoo --help")

    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--name", default="")
    parser.add_argument("-c", "--cfg", choices=["job"])
    options, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        raise _unknown_option(unknown[0], words)
    for word in options.words:
        if ("=" not in word and not word.startswith("~")) or word == "=":
            hint = " It must come first." if word in VERBS else ""
            hint = hint or word_hint(word, options.words, configuration.groups())
            hint = hint or nearest(word, [*VERBS, "help", "resume=latest"])
            raise UsageError(f"unknown command '{word}'.{hint} See rlzoo --help")
    if options.jobs < 1:
        raise UsageError(f"--jobs: got {options.jobs}, expected a whole number >= 1")
    return options


def _unknown_option(option: str, words: list[str]) -> UsageError:
    name, equals, value = option.partition("=")
    if not equals and (after := words[words.index(option) + 1 :]) and after[0][:1] != "-":
        value = after[0]
    known = {*configuration.groups(), *(f.name for f in fields(configuration.RunConfig)), "resume"}
    write = as_word(name, value, known) or "settings are words key=value, such as seed=1"
    return UsageError(f"unknown option '{option}': {write}. See rlzoo --help")


def train(words: list[str]) -> int:
    """Train a new run, go on with one (resume=latest, resume=PATH), or sweep."""
    options = _read_options(words)
    words, found = taken(options.words, ("resume", "run_dir", "from"))
    places = {"resume": "", "run_dir": "", "from": "", **found}
    if options.multirun:
        if any(places.values()) or options.cfg:
            raise UsageError("-m: a sweep takes no resume=, run_dir=, from= or --cfg; see --name")
        from rlzoo.study.sweep import run_sweep

        return run_sweep(words, jobs=options.jobs, name=options.name)
    if places["resume"] and (places["run_dir"] or places["from"]):
        raise UsageError("resume=: a run is resumed in its own directory, got run_dir= or from=")
    if places["resume"]:
        return _resume(places["resume"], words, show_only=bool(options.cfg))
    if places["from"]:
        config = _branch(places["from"], words)
    else:
        config = configuration.compose(words, note=note)
    if options.cfg:
        print(configuration.to_yaml(config), end="")
        return 0
    with StopSignal().installed() as stop:
        from rlzoo.run import session

        run_dir = Path(places["run_dir"]) if places["run_dir"] else None
        _, status = session.begin(config, words, stop, run_dir=run_dir)
        return _ended(status, stop)


def _branch(which: str, words: list[str]) -> RunConfig:
    """The settings of a run, with overrides, for a new run that builds on what it left."""
    source = _saved(which, words)
    if not any(o.key == "output_dir" for o in configuration.parse(words)):
        words = [*words, "output_dir=outputs"]  # where to write is not for a saved file to say
    return source.config([*words, f"algo.source={configuration.quoted(str(source.path))}"])


def _resume(which: str, words: list[str], *, show_only: bool) -> int:
    saved = _saved(which, words)
    if which == "latest":  # where it was looked for is no change of the run
        words = [o.word for o in configuration.parse(words) if o.key != "output_dir"]
    if show_only:
        config, _ = saved.resumed(words)
        print(configuration.to_yaml(config), end="")
        return 0
    with StopSignal().installed() as stop:
        from rlzoo.run import session

        return _ended(session.resume(saved, words, stop), stop)


def _ended(status: str, stop: StopSignal) -> int:
    """The exit code of a run, whose results are in its directory, whoever reads what it printed."""
    drop_unwritten(sys.stdout)
    return stop.exit_code if status == "stopped" else 0


def _saved(which: str, words: list[str]) -> SavedRun:
    """A run by its path, or the latest one below the output directory that the words name."""
    from rlzoo.run.saved import SavedRun

    roots = [str(o.value) for o in configuration.parse(words) if o.key == "output_dir"]
    return SavedRun(which, outputs=Path(*roots or ["outputs"]))


def list_everything(words: list[str]) -> int:
    """The options of each config group, or of those named, one line each."""
    chosen, options = taken(words, ("plugins",))
    plugins.load_plugins(plugins.listed(options.get("plugins", "")))
    groups = configuration.groups()
    for group in chosen:
        if group not in groups:
            raise UsageError(f"list: unknown group '{group}'. Known: {', '.join(groups)}")
    first = ["algo", "env", "experiment"]
    for group in chosen or [*first, *(g for g in groups if g not in first)]:
        print(f"{group}=")
        width = max(map(len, groups[group])) + 2
        for option in groups[group]:
            print(f"  {option:{width}}{configuration.description(group, option)}".rstrip())
    return 0


def _evaluate(words: list[str]) -> int:
    from rlzoo.cli import show

    return show.evaluate_run(words)


def _play(words: list[str]) -> int:
    from rlzoo.cli import show

    return show.play_run(words)


def _export(words: list[str]) -> int:
    from rlzoo.cli import export

    return export.export_run(words)


def _compare(words: list[str]) -> int:
    from rlzoo.cli import show

    return show.compare_runs(words)


def _demos(words: list[str]) -> int:
    from rlzoo.cli import demos

    return demos.main(words)


VERBS = {
    "list": list_everything,
    "evaluate": _evaluate,
    "play": _play,
    "export": _export,
    "compare": _compare,
    "demos": _demos,
    "train": train,
}

if __name__ == "__main__":
    sys.exit(main())
