"""Write docs/results/NAME.md and NAME.png from a sweep over the temperature of the dream.

python tools/dream.py NAME SWEEP --target "what is expected" [--note TEXT]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from results import RESULTS, hardware, page_arguments, read, sweep_words

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
    generations: int


def main() -> None:
    arguments = page_arguments(__doc__, "sweep")
    jobs = read(arguments.sweep / "sweep.json")
    runs = [arguments.sweep / str(number) for number in range(len(jobs))]
    rows = sorted(map(row_of, runs))
    provenance = read(runs[0] / "provenance.json")
    lines = [
        f"# {arguments.name}",
        "",
        f"Expected: {arguments.target}",
        "",
        f"Command: `tools/rlzoo -m {sweep_words(jobs)} --name {arguments.name}`, "
        f"commit `{provenance['git']['commit'][:10]}`.",
        "",
        hardware(provenance),
        "",
        "C never played in the env before its test. *Dream*: the mean of the search in dreams on "
        "other seeds, when it was last played there. *Env*: the same policy at the end, on test "
        "seeds, with a 95 % bootstrap interval over episodes.",
        "",
        "| temperature | dream | env | standard deviation | episodes | generations | published |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        low, high = row.real["ci95"]
        published = PUBLISHED.get(row.temperature)
        shown = f"{published[0]}, {published[1]}" if published else "-"
        lines.append(
            f"| {row.temperature:g} | {row.dreamed:.0f} | {row.real['mean']:.0f} ({low:.0f} to "
            f"{high:.0f}) | {row.real['std']:.0f} | {row.real['n']} | {row.generations} | {shown} |"
        )
    if arguments.note:
        lines += ["", arguments.note]
    lines += ["", f"![Return by temperature]({arguments.name}.png)", ""]
    (RESULTS / f"{arguments.name}.md").write_text("\n".join(lines))
    draw(rows).savefig(RESULTS / f"{arguments.name}.png")


def row_of(run: Path) -> Row:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    name = "eval/heldout_return_mean"
    [*_, dreamed] = [line[name] for line in lines if name in line]
    [*_, generations] = [line["train/generations"] for line in lines if "train/generations" in line]
    settings = load_yaml((run / "config.yaml").read_text(), str(run))
    temperature = settings["algo"]["controller"]["temperature"]
    real = read(run / "result.json")["test"]["last"]["return"]
    return Row(temperature, dreamed, real, int(generations))


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
    main()
