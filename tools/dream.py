"""Draw a sweep over the temperature of the dream, and print its table.

python tools/dream.py SWEEP FILE.png

*Dream*: the mean of the search in dreams on other seeds, when it was last played there. *Game*: the
same policy at the end, on test seeds, with a 95 % bootstrap interval over episodes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from results import read, runs_of

from rlzoo.run.config import load_yaml

# Of Ha & Schmidhuber 2018, table 2: temperature -> mean return in the dream, and in the env.
PUBLISHED = {
    0.1: (2086, 193),
    0.5: (2060, 196),
    1.0: (1145, 868),
    1.15: (918, 1092),
    1.3: (732, 753),
}


class Row(NamedTuple):
    temperature: float
    dreamed: float  # return of the search's mean in dreams that it did not learn from
    real: dict[str, Any]  # returns of the test episodes in the env


def main(sweep: str, file: str) -> None:
    rows = sorted(map(row_of, runs_of(Path(sweep))[1]))
    print("| temperature | dream | game | the paper: dream, game |\n| --- | --- | --- | --- |")
    for row in rows:
        low, high = row.real["ci95"]
        published = ", ".join(map(str, PUBLISHED.get(row.temperature, ["-"])))
        game = f"{row.real['mean']:.0f} ({low:.0f} to {high:.0f})"
        print(f"| {row.temperature:g} | {row.dreamed:.0f} | {game} | {published} |")
    draw(rows).savefig(file)


def row_of(run: Path) -> Row:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    name = "eval/heldout_return_mean"
    [*_, dreamed] = [line[name] for line in lines if name in line]
    settings = load_yaml((run / "config.yaml").read_text(), str(run))
    temperature = settings["algo"]["controller"]["temperature"]
    real = read(run / "result.json")["test"]["last"]["return"]
    return Row(temperature, dreamed, real)


def draw(rows: list[Row]) -> Figure:
    figure = Figure(figsize=(7, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    temperatures = [row.temperature for row in rows]
    axes.plot(temperatures, [row.dreamed for row in rows], "s--", color="#56B4E9", label="dream")
    real = [row.real["mean"] for row in rows]
    reach = [
        [mean - row.real["ci95"][0] for row, mean in zip(rows, real, strict=True)],
        [row.real["ci95"][1] - mean for row, mean in zip(rows, real, strict=True)],
    ]
    axes.errorbar(temperatures, real, reach, fmt="o-", color="#D55E00", label="env", capsize=3)
    axes.set(xlabel="temperature of the dream", ylabel="return (tics survived)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main(*sys.argv[1:])
