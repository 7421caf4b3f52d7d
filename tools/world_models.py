"""Draw a run of World Models, and print its time by phase.

python tools/world_models.py NAME RUN

Writes docs/results/NAME.png (the search) and NAME_phases.png (what V, M and C learn).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from results import RESULTS

MARKS = {  # phase -> a metric that only it logs
    "controller": "train/generations",
    "memory": "train/rnn_loss",
    "vision": "train/vae_loss",
    "collect": "rollout/return_mean",
}
PANELS = [  # title, metric, what it is drawn by, label of that axis
    ("V: reconstruction error", "train/vae_reconstruction_error", "train/updates", "minibatches"),
    ("M: negative log-likelihood", "train/rnn_nll", "train/updates", "minibatches, V's included"),
    ("C: return of the population", "rollout/return_mean", "train/generations", "generations"),
]


def phase_of(row: dict[str, float]) -> str | None:
    return next((phase for phase, mark in MARKS.items() if mark in row), None)


def seconds_by_phase(rows: list[dict[str, float]]) -> dict[str, float]:
    """Wall seconds from the last line of the phase before to a phase's own last line.

    A phase too short for a line of its own is in the time of the one after it.
    """
    ends: dict[str, float] = {}
    for row in rows:
        phase = phase_of(row)
        if phase == "collect" and len(ends) > 1:
            continue  # a line between two generations
        if phase is not None and "time/elapsed_seconds" in row:
            ends[phase] = row["time/elapsed_seconds"]
    starts = [0.0, *ends.values()]
    return {phase: end - start for (phase, end), start in zip(ends.items(), starts, strict=False)}


def by_generation(rows: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Generations of the search, and a metric of them."""
    generations, values, generation = [], [], 0.0
    for row in rows:
        before, generation = generation, row.get("train/generations", generation)
        if name in row and generation:
            # The held-out tracks are played, and logged, as the next generation begins.
            generations.append(before if name.startswith("eval/") else generation)
            values.append(row[name])
    return generations, values


def main(name: str, run: str) -> None:
    rows = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    searched = [row for row in rows if phase_of(row) == "controller"]
    for phase, seconds in seconds_by_phase(rows).items():
        print(f"{phase}: {seconds / 60:.1f} minutes")
    draw(rows, searched).savefig(RESULTS / f"{name}.png")
    draw_phases(rows).savefig(RESULTS / f"{name}_phases.png")


def draw(rows: list[dict[str, Any]], searched: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(7, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    for name, label, colour in (
        ("rollout/return_max", "best member, with early stops", "#999999"),
        ("rollout/return_mean", "population, with early stops", "#56B4E9"),
        ("eval/heldout_return_mean", "mean of the search, held-out seeds", "#D55E00"),
    ):
        x, y = by_generation(rows, name)
        marker = "o" if name.startswith("eval") else ""
        axes.plot(x, y, color=colour, label=label, marker=marker, linewidth=1.2, markersize=4)
    selection = [row for row in rows if "eval/return_mean" in row]
    if selection and searched:
        generation = [
            min(searched, key=lambda line: abs(line["step"] - row["step"]))["train/generations"]
            for row in selection
        ]
        returns = [row["eval/return_mean"] for row in selection]
        axes.plot(generation, returns, "s", color="#009E73", label="the same, selection seeds")
    axes.set_xlabel("generation")
    axes.set_ylabel("return")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return figure


def draw_phases(rows: list[dict[str, float]]) -> Figure:
    figure = Figure(figsize=(10, 3), dpi=110, layout="constrained")
    for axes, (title, metric, clock, label) in zip(figure.subplots(1, 3), PANELS, strict=True):
        points = [(row[clock], row[metric]) for row in rows if row.get(clock) and metric in row]
        if points:  # a run may have one phase alone
            axes.plot(*zip(*points, strict=True), color="#0072B2", linewidth=1.2)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main(*sys.argv[1:])
