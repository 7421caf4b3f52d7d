"""Draw several searches of World Models in one picture: population, and mean on held-out tracks.

python tools/searches.py FILE.png LABEL=RUN...
"""

from __future__ import annotations

import json
import sys
from itertools import cycle
from pathlib import Path

from matplotlib.figure import Figure
from world_models import by_generation

COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"]


def main(file: str, *searches: str) -> None:
    figure = Figure(figsize=(7, 3.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    for colour, search in zip(cycle(COLOURS), searches, strict=False):
        label, run = search.split("=", 1)
        rows = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
        left.plot(*by_generation(rows, "rollout/return_mean"), color=colour, linewidth=1)
        x, y = by_generation(rows, "eval/heldout_return_mean")
        right.plot(x, y, "o-", color=colour, label=label, linewidth=1.2, markersize=4)
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
