"""Draw several searches of World Models in one picture: their means on held-out tracks.

python tools/searches.py FILE.png LABEL=RUN...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"]


def main(file: str, *searches: str) -> None:
    figure = Figure(figsize=(7, 3.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    for colour, (label, run) in zip(
        COLOURS, (word.split("=", 1) for word in searches), strict=False
    ):
        rows = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
        population, means, generation = [], [], 0.0
        for row in rows:
            if "eval/heldout_return_mean" in row:  # of the generation before this line's
                means.append((generation, row["eval/heldout_return_mean"]))
            if "train/generations" in row:
                generation = row["train/generations"]
                population.append((generation, row["rollout/return_mean"]))
        left.plot(*zip(*population, strict=True), color=colour, linewidth=1)
        right.plot(
            *zip(*means, strict=True), "o-", color=colour, label=label, linewidth=1.2, markersize=4
        )
    left.set_title("population", fontsize=10)
    right.set_title("mean of the search, held-out tracks", fontsize=10)
    left.set_ylabel("return")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.set_xlabel("generation")
        axes.grid(alpha=0.3)
    figure.savefig(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
