"""Read finished runs and put them side by side: one row and one curve for each setting."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlzoo.core.messages import printable
from rlzoo.core.types import RlzooError
from rlzoo.io import files
from rlzoo.io.logger import RECORD, bounded, read_curve
from rlzoo.io.regular import foreign
from rlzoo.run import config as configuration
from rlzoo.run.evaluate import text_table
from rlzoo.run.statistics import bootstrap_interval, iqm

if TYPE_CHECKING:
    from rlzoo.run.plots import Curve

CURVE = "eval/return_mean"  # the metric that is drawn
_NOT_COMPARED = {"seed", "output_dir"}  # runs that differ only here belong together


@dataclass(frozen=True)
class RunRecord:
    """What a run directory tells; `failure` is the reason why its numbers cannot be used."""

    path: Path
    settings: dict[str, Any]  # flat: 'algo.lr' -> 0.001; empty if unreadable
    failure: str = ""
    status: str = ""  # 'running' may also have been killed
    curve: Curve | None = None
    result: Mapping[str, Any] | None = None  # result.json of a finished run

    @property
    def test_return(self) -> float | None:
        """Mean return of the final test, if any: of the best checkpoint, else of the last."""
        test = self.result["test"] if self.result is not None else {}
        if not test:
            return None
        return bounded(test.get("best", test["last"])["return"]["mean"])


def read_run(path: Path) -> RunRecord:
    """Read a run directory; whatever is wrong with it ends up in `failure`."""
    settings: dict[str, Any] = {}
    try:
        with foreign(path):
            settings = flatten(configuration.read_yaml(path / "config.yaml"))
            status = _json(path / "status.json")["status"]
            if status == "failed":
                return RunRecord(path, settings, f"stopped with an error, see {path}")
            result = path / "result.json"
            tested = _json(result) if os.path.lexists(result) else None
            record = RunRecord(path, settings, "", status, read_curve(path / RECORD, CURVE), tested)
            _ = record.test_return
    except RlzooError as error:
        return RunRecord(path, settings, str(error))
    return record


def _json(path: Path) -> Any:
    return files.parse_json(files.read(path, limit=files.MAX_JSON_BYTES), path)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Run directories among and below the given paths; one that is neither stands for itself."""
    found: dict[Path, None] = {}
    for path in paths:
        below = sorted(
            Path(folder)
            for folder, folders, names in os.walk(path)  # which follows no links
            if {"status.json", "config.yaml"} & {*names, *folders}
        )
        found |= dict.fromkeys(below or [path])
    return list(found)


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed."""

    label: str
    runs: tuple[RunRecord, ...]  # those that can be used
    failed: int

    @property
    def unfinished(self) -> tuple[RunRecord, ...]:
        """Runs without a result: still running, stopped or killed."""
        return tuple(run for run in self.runs if run.result is None)


@dataclass(frozen=True)
class Comparison:
    failures: tuple[RunRecord, ...]
    groups: tuple[Group, ...]

    def table(self) -> str:
        """Failed and unfinished runs first, then one row for each group, as plain text."""
        # One line each, whatever a library wrote.
        failures = (f"{run.path}: {' '.join(run.failure.split())}" for run in self.failures)
        lines = [f"FAILED {printable(failure)}" for failure in failures]
        for run in (run for group in self.groups for run in group.unfinished):
            status = "running, or killed" if run.status == "running" else run.status
            lines.append(f"UNFINISHED {run.path}: {status}")
        header = ["settings", "runs", "failed", "unfinished", "tested", "test return (IQM)"]
        header.append("95 % interval")
        rows = [[*header, "last evaluation (IQM)", "steps"]]
        rows += [_row(group) for group in self.groups]
        return "\n".join([*lines, *([""] if lines else []), text_table(rows)])

    def curves(self) -> dict[str, list[Curve]]:
        """The learning curves by group, for `rlzoo.run.plots.learning_curves`."""
        drawn = {g.label: [r.curve for r in g.runs if r.curve is not None] for g in self.groups}
        return {label: curves for label, curves in drawn.items() if curves}

    def save_picture(self, path: Path) -> Path:
        """Write the learning curves as a picture, whole or not at all."""
        from rlzoo.run.plots import encode_png, learning_curves

        figure = learning_curves(self.curves(), ylabel="mean return of greedy evaluation episodes")
        files.write_atomic(path, encode_png(figure))
        return path


def _row(group: Group) -> list[str]:
    tests = [run.test_return for run in group.runs if run.test_return is not None]
    lasts = [run.curve[1][-1] for run in group.runs if run.curve is not None]
    steps = [run.curve[0][-1] for run in group.runs if run.curve is not None]
    interval = " to ".join(f"{x:.4g}" for x in bootstrap_interval(tests, iqm)) if tests else "-"
    return [
        group.label,
        str(len(group.runs) + group.failed),
        str(group.failed),
        str(len(group.unfinished)),
        str(len(tests)),
        f"{iqm(tests):.4g}" if tests else "-",
        interval if len(tests) > 1 else "-",
        f"{iqm(lasts):.4g}" if lasts else "-",
        f"{min(steps):,}" + (f" to {max(steps):,}" if min(steps) < max(steps) else "")
        if steps
        else "-",
    ]


def compare(paths: Iterable[Path]) -> Comparison:
    """Read and group the runs among and below the given paths."""
    runs = [read_run(path) for path in find_runs(paths)]
    by_settings: dict[str, list[RunRecord]] = {}
    for run in runs:
        if run.settings:
            compared = {k: v for k, v in run.settings.items() if k not in _NOT_COMPARED}
            by_settings.setdefault(json.dumps(compared, sort_keys=True, default=str), []).append(
                run
            )
    labels = _labels([json.loads(key) for key in by_settings])
    groups = [
        Group(
            label, tuple(r for r in members if not r.failure), sum(bool(r.failure) for r in members)
        )
        for label, members in zip(labels, by_settings.values(), strict=True)
    ]
    return Comparison(tuple(run for run in runs if run.failure), tuple(groups))


def _labels(settings: list[dict[str, Any]]) -> list[str]:
    """Algorithm and env, and what else tells a group from others of the same pair."""
    pairs = [f"{s.get('algo.name')} {s.get('env.name')}" for s in settings]
    labels = []
    for pair, own in zip(pairs, settings, strict=True):
        rivals = [s for p, s in zip(pairs, settings, strict=True) if p == pair]
        differing = [k for k in own if any(s.get(k) != own[k] for s in rivals)]
        labels.append(printable(" ".join([pair, *(f"{key}={own[key]}" for key in differing)])))
    return labels
