"""One run from its configuration to its result: build, restore, loop, test."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlzoo.core.algorithm import Curves, Film, Histogram, Picture, Report, ValueMap
from rlzoo.core.messages import cause, note, warn
from rlzoo.core.seeding import SELECT, TEST
from rlzoo.core.types import DataError, NonFiniteError, RlzooError, State, UsageError
from rlzoo.envs.make import make_env, restore_class
from rlzoo.io import checkpoint
from rlzoo.io.logger import RECORD, Logger, read_curve
from rlzoo.io.regular import foreign
from rlzoo.io.run_dir import RunDir
from rlzoo.run import config as configuration
from rlzoo.run.build import Builder, close
from rlzoo.run.config import RunConfig
from rlzoo.run.evaluate import Evaluation, Stopped, evaluate, film_episode
from rlzoo.run.loop import Hooks, Loop
from rlzoo.run.progress import EpisodesPlayed, ProgressBar
from rlzoo.run.saved import agent_of, source_of


class Run:
    """A run directory with the algorithm that lives in it, restored if it has a checkpoint."""

    def __init__(
        self,
        config: RunConfig,
        directory: RunDir,
        stop: Callable[[], bool],
        builder: Builder | None = None,
    ) -> None:
        self.config, self.directory, self.stop = config, directory, stop
        self.best_return: float | None = None
        self.best_clock = 0
        self.phase, self.lines_of_phase = "", 0
        self.reported_clock = -1
        self.can_film = config.logger.videos and config.logger.tensorboard
        self.loop = Loop(
            config.log_every,
            config.eval.every,
            config.save_every,
            config.save_every_seconds,
        )
        found = checkpoint.newest(directory.checkpoints, note)
        if found and checkpoint.POLICY_ONLY in found[1]:
            raise UsageError(
                f"{directory.path}: was exported, so its policy is all there is: it can be "
                "evaluated, played and built on (from=), not resumed"
            )
        # A resumed run has taken over what it needs of its source.
        source = None if found else source_of(config)
        builder = builder or Builder(config)
        builder.check_spaces()
        # Needed late: where the run was started, its path may have been a relative one.
        agent = (found and found[1].get("agent")) or builder.sources.agent
        if not isinstance(agent, str):
            raise DataError(f"{directory.checkpoints}: agent: got {agent!r:.60}, expected a path")
        self.agent = str(Path(agent).absolute()) if agent else ""
        self.algorithm = builder.build(
            directory.path, source, partial(agent_of, config, self.agent)
        )
        self._logged: State | None = None
        if found:
            self._restore(*found)
        else:
            checkpoint.check(self.algorithm.state())

    def why_finished(self) -> str:
        """How to go on with a run that has no more to do; empty if it has."""
        return self.algorithm.how_to_continue() if self.algorithm.done() else ""

    def train(self) -> str:
        """Run the loop, then the final test. Returns 'finished' or 'stopped'.

        Whatever else ends it, a fault of foreign code or a signal, is 'failed' in the status.
        """
        self.logger = self._open_logger()
        hooks = Hooks(self.log, self.evaluate, self.save, self.stop, self._advance)
        status, reason = "failed", ""
        try:
            with ProgressBar(self.algorithm.progress()) as self.progress:
                reached = self.loop.run(self.algorithm, hooks)
            status = self._final_test() if reached == "finished" else reached
        except BaseException as error:
            reason = cause(error)
            if isinstance(error, NonFiniteError):
                self._save_diagnostics(error)
            if isinstance(error, SystemExit):  # of foreign code, whatever its exit code is
                raise RlzooError(f"training was ended by {reason}") from error
            raise
        finally:
            self._close(status, reason)
        return status

    def _open_logger(self) -> Logger:
        """Cuts off what was logged after the checkpoint."""
        logger = Logger(self.directory.path, self.config.logger, resume_at=self._logged, warn=note)
        logger.hparams(configuration.flat(self.config))
        logger.text("config", f"```yaml\n{configuration.to_yaml(self.config)}```")
        return logger

    def _advance(self, clock: int) -> None:
        self.progress.update(self.algorithm.progress())

    def _restore(self, path: Path, state: State) -> None:
        with foreign(path):
            self.algorithm.load(state["algorithm"])
            self.loop.load(state["loop"])
            best, self.best_clock = state["best_return"], _whole(state, "best_env_steps", 0)
            self.best_return = None if best is None else float(best)
            logged = state["logger"]
            self._logged = {
                "metrics_bytes": _whole(logged, "metrics_bytes", 0),
                "last_step": _whole(logged, "last_step", -1),
            }
            if "events_end" in logged:  # older checkpoints have neither of these
                name, size = logged["events_end"]
                self._logged["events_end"] = str(name), _whole({"size": size}, "size", 0)
            if "reports" in state:
                phase, lines, clock = state["reports"]
                self.phase, self.reported_clock = str(phase), int(clock)
                self.lines_of_phase = _whole({"lines": lines}, "lines", 0)
        if path.name == checkpoint.step_name(self.best_clock):
            # The run may have died between saving this checkpoint and marking it.
            checkpoint.mark_best(self.directory.checkpoints, path.name)
        note(f"resumed {path.name}, step {self.algorithm.counters.clock:,}")

    def log(self, clock: int, metrics: dict[str, float]) -> None:
        self.logger.scalars(clock, metrics)
        self.progress.show(metrics)
        if self.algorithm.counters.phase != self.phase:
            self.phase, self.lines_of_phase = self.algorithm.counters.phase, 0
        self.lines_of_phase += 1
        # The first line is of the end of the phase before. Then ever more seldom, as a network's
        # view changes: lines 2, 4, 8, 16, ... of the phase.
        if self.lines_of_phase.bit_count() == 1:
            self._report(clock)

    def save(self, clock: int) -> None:
        self.directory.check_held()
        state = {
            "algorithm": self.algorithm.state(),
            "loop": self.loop.state(),
            "logger": self.logger.state(),
            "best_return": self.best_return,
            "best_env_steps": self.best_clock,  # the name that older checkpoints have
            "reports": [self.phase, self.lines_of_phase, self.reported_clock],
            **({"agent": self.agent} if self.agent else {}),
        }
        keep = self.config.keep_checkpoints
        checkpoint.save(self.directory.checkpoints, clock, state, keep_last=keep)

    def evaluate(self, clock: int) -> bool:
        """Greedy episodes on the selection seeds; the best checkpoint so far is marked.

        False if it was interrupted: then nothing has happened.
        """
        if self.algorithm.policy is None:
            return True
        try:
            result = self.play_episodes(self.config.eval.episodes, SELECT)
            improved = self.best_return is None or result.mean > self.best_return
            wants_film = improved or self.config.logger.every_video
            film = self._film() if wants_film and self.can_film else None
        except Stopped:
            return False
        metrics = {
            "eval/return_mean": result.mean,
            "eval/return_std": result.std,
            "eval/length_mean_env_steps": float(np.mean(result.lengths)),
        }
        self.log(clock, metrics)
        self._report(clock)
        if film is not None:
            self._show(clock, film)
        if improved or result.mean == self.best_return:  # of equals the newest
            self.best_return, self.best_clock = result.mean, clock
            self.save(clock)
            checkpoint.mark_best(self.directory.checkpoints, checkpoint.step_name(clock))
        return True

    def play_episodes(
        self, episodes: int, purpose: str, episode_over: Callable[[], None] = lambda: None
    ) -> Evaluation:
        assert self.algorithm.policy is not None
        return evaluate(
            self.algorithm.policy,
            self.config.env,
            episodes=episodes,
            num_envs=self.config.eval.num_envs,
            run_seed=self.config.seed,
            purpose=purpose,
            stop=self.stop,
            episode_over=episode_over,
        )

    # ---------------------------------------------------------------- reports

    def _film(self) -> Film | None:
        """The first selection episode; None for an env that cannot draw itself."""
        assert self.algorithm.policy is not None
        try:
            frames_THWC, fps, _ = film_episode(
                self.algorithm.policy,
                self.config.env,
                run_seed=self.config.seed,
                purpose=SELECT,
                stop=self.stop,
            )
        except RlzooError as error:
            note(f"no films: {error}")
            self.can_film = False
            return None
        return Film("eval/episode", frames_THWC, fps)

    def _report(self, clock: int) -> None:
        """All that the algorithm has to show besides numbers, once for each clock."""
        if clock == self.reported_clock:
            return
        self.reported_clock = clock
        for report in self.algorithm.report():
            self._show(clock, report)

    def _show(self, clock: int, report: Report) -> None:
        match report:
            case Histogram(name, values):
                self.logger.histogram(clock, name, values)
            case Picture(name, image_HWC):
                self.logger.image(clock, name, image_HWC)
            case Film(name, frames_THWC, fps):
                self.logger.video(clock, name, frames_THWC, fps)
            case Curves(name, panels):
                self._draw_curves(clock, name, panels)
            case ValueMap(name, q_SA):
                self._draw_values(clock, name, q_SA)

    def _draw_curves(self, clock: int, name: str, panels: Mapping[str, Sequence[str]]) -> None:
        """Metrics so far, in panels side by side."""
        from rlzoo.run.plots import metric_panels  # matplotlib takes half a second

        record = self.directory.path / RECORD
        curves = {
            title: {metric: read_curve(record, metric) for metric in metrics}
            for title, metrics in panels.items()
        }
        if any(curve is not None for panel in curves.values() for curve in panel.values()):
            self.logger.figure(clock, name, metric_panels(curves))

    def _draw_values(self, clock: int, name: str, q_SA: np.ndarray) -> None:
        if not self.config.logger.tensorboard:
            return
        from rlzoo.run.plots import grid_of, value_map

        with closing(make_env(self.config.env)) as env:
            picture_HWC = value_map(q_SA, grid_of(env), f"{clock:,} env steps")
        self.logger.image(clock, name, picture_HWC)

    # ---------------------------------------------------------------- the end

    def _final_test(self) -> str:
        """Test the last and the best policy on seeds that neither training nor selection saw."""
        results: dict[str, Evaluation] = {}
        try:
            if self.algorithm.policy is not None:
                results["last"] = self._test("last")
            best = checkpoint.best(self.directory.checkpoints)
            newest = checkpoint.step_name(self.algorithm.counters.clock)
            if best is not None and best.name == newest and "last" in results:
                results["best"] = results["last"]  # one policy and the same episodes
            elif best is not None:
                with foreign(best):
                    self.algorithm.load_policy(checkpoint.load(best)["algorithm"])
                results["best"] = self._test("best")
        except Stopped:
            return "stopped"
        tested = {f"test/{which}_return_mean": result.mean for which, result in results.items()}
        if tested:
            self.logger.scalars(self.algorithm.counters.clock, tested)
        self.directory.check_held()
        self.directory.write_json(
            "result.json",
            {
                **self._progress_made(),
                "elapsed_seconds": self.loop.stopwatch.elapsed_seconds,
                "resume_exact": self.algorithm.env.resume_exact,
                "test": {which: result.to_json() for which, result in results.items()},
            },
        )
        for which, result in results.items():
            print(f"{which} policy, {result.describe()}")
        if not results:
            note("no test: its phases have made no policy")
        return "finished"

    def _test(self, which: str) -> Evaluation:
        episodes = self.config.eval.test_episodes
        note(f"testing the {which} policy on {episodes:,} episodes")
        with closing(EpisodesPlayed(episodes)) as played:
            return self.play_episodes(episodes, TEST, played.one_more)

    def _progress_made(self) -> dict[str, int]:
        counters = self.algorithm.counters
        offline = {"offline_units": counters.offline_units} if counters.offline_units else {}
        return {"env_steps": counters.env_steps, **offline}

    def release(self) -> None:
        """Let go of envs and worker processes."""
        close(self.algorithm)

    def _close(self, status: str, reason: str) -> None:
        """The status comes first, as an env may hang when it is closed; no fault hides another."""
        if status != "stopped":
            self.logger.session_end("success" if status == "finished" else "failure")
        self.logger.close()
        details: dict[str, Any] = {
            **self._progress_made(),
            "resume_exact": self.algorithm.env.resume_exact,
        }
        with _warning(unless=reason):
            self.directory.check_held()
            self.directory.set_status(status, **details, **({"error": reason} if reason else {}))
        with _warning(unless=reason):
            self.release()

    def _save_diagnostics(self, error: NonFiniteError) -> None:
        content = {
            "error": str(error),
            "counters": self.algorithm.counters.state(),
            "window": self.loop.window.state(),
            "trace": traceback.format_exc().splitlines(),
        }
        with _warning(unless=""):
            self.directory.write_json("diagnostics.json", content)
            path = self.directory.path / "diagnostics.json"
            note(f"wrote {path}; checkpoints are left as they are")


@contextmanager
def _warning(*, unless: str) -> Iterator[None]:
    """An error in the block becomes a warning, unless that is said already."""
    try:
        yield
    except RlzooError as error:
        if str(error) != unless:
            warn(str(error))


def _whole(state: State, name: str, low: int) -> int:
    value: Any = state[name]
    if type(value) is not int or not low <= value < 2**63:
        raise DataError(f"{name}: got {value!r:.60}, expected a whole number >= {low}")
    return value


def with_restore_class(config: RunConfig) -> RunConfig:
    """The same, with the env's restore class found out by experiment where it says `auto`.

    It goes into config.yaml, so that no later reader finds another one.
    """
    env = replace(config.env, restore=restore_class(config.env, config.seed))
    return replace(config, env=env)
