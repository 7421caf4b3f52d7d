"""The command line: verbs, exit codes, errors on one screen. torch is imported only when needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlzoo import config as configuration
from rlzoo import registry
from rlzoo.settings import nearest
from rlzoo.types import RlzooError, UsageError

HELP = """\
rlzoo: reinforcement learning in PyTorch. One command trains, resumes exactly, shows the result.

  rlzoo algo=dqn env=cartpole                   train (a tuned preset is used where there is one)
  rlzoo algo=dqn env=cartpole algo.lr=3e-4      override any setting
  rlzoo algo=dqn env=gym env.id=Acrobot-v1      any gymnasium environment
  rlzoo -m algo=dqn seed=0,1,2 algo.lr=1e-3,3e-4    sweep: every combination, a process each
  rlzoo resume=latest total_env_steps=200_000   go on where a run stopped (latest, or a run's path)
  rlzoo list                                    algorithms, environments, experiments
  rlzoo evaluate RUN [episodes=100] [checkpoint=best|last]
  rlzoo play RUN [episode=0] [checkpoint=best|last] [file=film.gif]    a window, or a film
  rlzoo compare RUN... [file=curves.png]        a table and learning curves over seeds
  tensorboard --logdir outputs                  read it

options before a training command
  -m, --multirun     sweep; with --jobs N (processes at a time) and --name NAME (its folder; a sweep
                     of the same name skips finished jobs and resumes the others)
  --cfg job          print the resolved configuration and stop
  -h, --help, --version

exit codes: 0 done, 64 wrong usage, 65 bad data, 70 failed (NaN, environment), 73 cannot create,
            74 input/output, 75 run in use, 130/143 stopped by a signal (resumable)
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. RlzooErrors become one line on stderr."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        return _dispatch(words)
    except RlzooError as error:
        print(f"rlzoo: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `rlzoo list | head`: point stdout elsewhere so that the interpreter can exit quietly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"rlzoo {version('rlzoo-torch')}")
        return 0
    if words[0] in VERBS:
        return VERBS[words[0]](words[1:])
    options, overrides = _split_options(words)
    if "resume" in overrides:
        raise UsageError("resume: expected resume=latest or resume=RUN")
    for word in overrides:
        if "=" not in word and not word.startswith("~"):
            raise UsageError(f"unknown command '{word}'.{nearest(word, VERBS)} See rlzoo --help")
    if options.get("multirun"):
        from rlzoo.sweep import run_sweep

        return run_sweep(overrides, jobs=int(options["jobs"]), name=options["name"])
    if options.get("cfg"):
        print(configuration.to_yaml(configuration.compose(overrides)), end="")
        return 0
    return train(overrides)


def _split_options(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    options: dict[str, Any] = {"jobs": os.cpu_count() or 1, "name": ""}
    overrides = []
    rest = iter(words)
    for word in rest:
        name, has_value, value = word.partition("=")
        if word in ("-m", "--multirun"):
            options["multirun"] = True
        elif name in ("--cfg", "-c", "--jobs", "--name"):
            value = value if has_value else next(rest, "")
            options["cfg" if name == "-c" else name[2:]] = value
        elif word in ("-h", "--help"):
            return {}, []
        elif word.startswith("-"):
            known = ["--multirun", "--cfg", "--jobs", "--name", "--help", "--version"]
            raise UsageError(f"unknown option '{word}'.{nearest(word, known)} See rlzoo --help")
        else:
            overrides.append(word)
    if not str(options["jobs"]).isdigit() or int(options["jobs"]) < 1:
        raise UsageError(f"--jobs: got '{options['jobs']}', expected a whole number >= 1")
    if options.get("cfg", "job") != "job":
        raise UsageError(f"--cfg: got '{options['cfg']}', expected job")
    return options, overrides


def train(words: list[str]) -> int:
    """Train a new run, or go on with one (resume=latest, resume=PATH)."""
    words, chosen = _take(words, {"resume": "", "run_dir": ""})
    if chosen["resume"]:
        return _resume(chosen["resume"], words)
    config = configuration.compose(words)
    from rlzoo.io.run_dir import RunDir, provenance
    from rlzoo.run import check_spaces

    output = Path(chosen["run_dir"]).parent if chosen["run_dir"] else Path(config.output_dir)
    RunDir.check_writable(output)
    check_spaces(config)
    if chosen["run_dir"]:
        directory = RunDir.claim_at(Path(chosen["run_dir"]))
    else:
        directory = RunDir.claim(output, config.algo.name, config.env.name, config.seed)
    with directory.lock():
        directory.write_text("config.yaml", configuration.to_yaml(config))
        directory.write_json("overrides.json", list(words))
        directory.write_json("provenance.json", provenance())
        return _run(config, directory)


def _resume(which: str, words: list[str]) -> int:
    from rlzoo.io.run_dir import RunDir, latest

    root = _output_dir(words)
    directory = RunDir.open(latest(root) if which == "latest" else Path(which))
    saved = configuration.load_yaml(
        (directory.path / "config.yaml").read_text(), f"{directory.path}/config.yaml"
    )
    registry.load_plugins(saved.get("plugins") or ())
    config, differences = configuration.with_overrides(saved, words)
    with directory.lock():
        print(f"resume {directory.path}", file=sys.stderr)
        for line in differences:
            print(f"  {line}", file=sys.stderr)
        if differences:
            directory.write_text("config.yaml", configuration.to_yaml(config))
        return _run(config, directory)


def _output_dir(words: Sequence[str]) -> Path:
    for word in words:
        if word.startswith("output_dir="):
            return Path(word.partition("=")[2])
    return Path("outputs")


def _run(config: Any, directory: Any) -> int:
    from rlzoo.run import Run, note
    from rlzoo.stop import StopSignal

    note(f"run directory {directory.path}")
    with StopSignal(note).installed() as stop:
        status = Run(config, directory, stop).train()
        if status == "stopped":
            note(f"stopped; go on with: rlzoo resume={directory.path}")
            return stop.exit_code
    return 0


def list_everything(words: list[str]) -> int:
    """Algorithms, envs, experiments and the other groups, one line each."""
    _, chosen = _take(words, {"plugins": ""})
    registry.load_plugins([m for m in chosen["plugins"].strip("[]").split(",") if m])
    groups = configuration.groups()
    order = ["algo", "env", "experiment"]
    for group in order + [g for g in groups if g not in order]:
        print(f"{group}=")
        for option in groups[group]:
            print(f"  {option:24}{configuration.description(group, option)}")
    return 0


def _take(words: list[str], defaults: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Split off the words `name=value` of the given names."""
    chosen, rest = dict(defaults), []
    for word in words:
        name, separator, value = word.partition("=")
        if separator and name in defaults:
            chosen[name] = value
        else:
            rest.append(word)
    return rest, chosen


def _evaluate(words: list[str]) -> int:
    from rlzoo import show

    paths, chosen = _take(words, {"episodes": "100", "checkpoint": "best"})
    return show.evaluate_run(_one_run(paths, "evaluate"), **chosen)


def _play(words: list[str]) -> int:
    from rlzoo import show

    paths, chosen = _take(words, {"episode": "0", "checkpoint": "best", "file": ""})
    return show.play_run(_one_run(paths, "play"), **chosen)


def _compare(words: list[str]) -> int:
    from rlzoo import show

    paths, chosen = _take(words, {"file": ""})
    if not paths:
        raise UsageError("compare: expected run directories, such as outputs/dqn-cartpole/*")
    return show.compare_runs(paths, **chosen)


def _one_run(paths: list[str], verb: str) -> str:
    if len(paths) != 1:
        raise UsageError(f"{verb}: got {len(paths)} run directories {paths}, expected one")
    return paths[0]


VERBS = {
    "list": list_everything,
    "evaluate": _evaluate,
    "play": _play,
    "compare": _compare,
    "train": train,
}

if __name__ == "__main__":
    sys.exit(main())
