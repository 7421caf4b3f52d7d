"""Begin a run in a directory of its own, or go on with one: from checked settings to its status."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from rlzoo.core.messages import Unfailing, note, warn
from rlzoo.core.types import UsageError
from rlzoo.envs.make import with_time_limit
from rlzoo.io import checkpoint
from rlzoo.io.hints import command
from rlzoo.io.run_dir import RUNS, RunDir, provenance
from rlzoo.run import config as configuration
from rlzoo.run.build import Builder
from rlzoo.run.config import RunConfig
from rlzoo.run.run import Run, with_restore_class
from rlzoo.run.saved import SavedRun, check_agent


@contextmanager
def _printing_cannot_fail() -> Iterator[None]:
    """Neither what a run prints nor what an env prints can end it: its results are in files."""
    with redirect_stdout(Unfailing(sys.stdout)), redirect_stderr(Unfailing(sys.stderr)):
        yield


@_printing_cannot_fail()
def begin(
    config: RunConfig,
    words: Sequence[str],
    stop: Callable[[], bool],
    *,
    run_dir: Path | None = None,
) -> tuple[Path, str]:
    """Train a new run: its directory, and 'finished' or 'stopped'.

    All that can be refused is refused before the directory exists. `words` are recorded in it.
    """
    output = run_dir.parent if run_dir else Path(config.output_dir)
    RunDir.check_writable(output)
    builder = Builder(config)
    if "latest" in (builder.sources.run, builder.sources.agent):
        raise UsageError("algo: got the run 'latest', expected a directory (or from=latest)")
    builder.check_spaces()
    if with_time_limit(config.env) != config.env:
        warn(
            f"{config.env.id} has no time limit: evaluations cut off an episode after "
            f"{config.env.eval_episode_steps:,} env steps (env.eval_episode_steps), training does "
            "not. env.max_episode_steps=N is a limit for both"
        )
    config = builder.config = with_restore_class(config)
    builder.check_demonstrations()
    check_agent(config)
    if stop():
        return output, "stopped"
    if run_dir:
        directory = RunDir.claim_at(run_dir)
    else:
        directory = RunDir.claim(output / RUNS, config.algo.name, config.env.name, config.seed)
    with directory.lock():
        with directory.preparing():
            directory.write_text("config.yaml", configuration.to_yaml(config))
            directory.write_json("overrides.json", list(words))
            directory.write_json("provenance.json", provenance())
            run = Run(config, directory, stop, builder)
        return directory.path, _train(run)


@_printing_cannot_fail()
def resume(saved: SavedRun, words: Sequence[str], stop: Callable[[], bool]) -> str:
    """Go on with a run under other settings, if any are given: 'finished' or 'stopped'."""
    directory, path = saved.directory, saved.path
    config, differences = saved.resumed(words)
    result = path / "result.json"
    with directory.lock():
        reached = checkpoint.reached_step(directory.checkpoints)
        if "total_env_steps" in differences and config.total_env_steps < reached:
            raise UsageError(
                f"total_env_steps: got {config.total_env_steps}, expected at least {reached}, "
                "which the run has made already"
            )
        config = with_restore_class(config)  # an older run's config.yaml may say `auto`
        run = Run(config, directory, stop)
        if result.exists() and (how := run.why_finished()):
            note(f"{path} is finished; {how}")
            run.release()
            return "finished"
        if late := differences.keys() & {f"algo.{name}" for name in run.algorithm.spent()}:
            phase = run.algorithm.progress().phase
            run.release()
            raise UsageError(
                f"resume: {', '.join(sorted(late))} would change nothing any more: that part of "
                f"the run is over (it is at '{phase}'); start a new run instead, perhaps with "
                f"from={path}"
            )
        for key, (before, after) in differences.items():
            note(f"changed {key}: {before} -> {after}")
        if differences:
            directory.write_text("config.yaml", configuration.to_yaml(config))
        result.unlink(missing_ok=True)
        directory.set_status("running")
        return _train(run)


def _train(run: Run) -> str:
    note(f"run directory {run.directory.path}")
    status = run.train()
    if status == "stopped":
        note(f"stopped; go on with: {command(f'resume={run.directory.path}')}")
    return status
