"""Write docs/results/NAME.md and NAME.png from the runs of a sweep, every run counted.

python tools/results.py NAME outputs/sweeps/NAME --target "what is expected" [--note TEXT]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rlzoo.io.logger import read_curve
from rlzoo.run.statistics import bootstrap_interval, iqm
from rlzoo.study.compare import compare

RESULTS = Path(__file__).parent.parent / "docs" / "results"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def page_arguments(doc: str, directory: str) -> argparse.Namespace:
    """What each tool that writes a page is told; `directory` is its name of what it reads."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument(directory, type=Path)
    parser.add_argument("--target", required=True, help="what is expected, and from where")
    parser.add_argument("--note", default="", help="a paragraph below the table")
    return parser.parse_args()


def main() -> None:
    arguments = page_arguments(__doc__, "sweep")
    jobs = read(arguments.sweep / "sweep.json")
    runs = [arguments.sweep / str(number) for number in range(len(jobs))]
    comparison = compare(runs)
    RESULTS.mkdir(exist_ok=True)
    comparison.save_picture(RESULTS / f"{arguments.name}.png")
    results = [read(run / "result.json") for run in runs]
    provenance = read(runs[0] / "provenance.json")
    lines = [
        f"# {arguments.name}",
        "",
        f"Expected: {arguments.target}",
        "",
        f"Command: `tools/rlzoo -m {sweep_words(jobs)} --name {arguments.name}`, "
        f"commit `{provenance['git']['commit'][:10]}`"
        + (" with local changes" if provenance["git"]["dirty"] else "")
        + ".",
        "",
        hardware(provenance),
        "",
        "Greedy episodes on test seeds that neither training nor the choice of the best checkpoint "
        "saw. *Best* is the checkpoint with the highest mean return on the selection seeds, *last* "
        "the one at the end of training.",
        "",
        "*Exploring* is the mean return of the last 100 training episodes.",
        "",
        "| run | best | last | exploring | test episodes | training seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    groups: dict[str, list[dict[str, float]]] = {}
    for job, run, result in zip(jobs, runs, results, strict=True):
        best, last = (result["test"][which]["return"] for which in ("best", "last"))
        curve = read_curve(run / "metrics.jsonl", "rollout/return_mean")
        differing = [word for word in job if not all(word in other for other in jobs)]
        setting = " ".join(word for word in differing if not word.startswith("seed="))
        values = {"best": best["mean"], "last": last["mean"]}
        if curve is not None:  # behavioural cloning plays no episodes in training
            values["exploring"] = float(curve[1][-1])
        exploring = f"{values['exploring']:.4g}" if curve is not None else "-"
        groups.setdefault(setting, []).append(values)
        lines.append(
            f"| {' '.join(differing)} | {best['mean']:.4g} ± {best['std']:.3g} | "
            f"{last['mean']:.4g} ± {last['std']:.3g} | {exploring} | "
            f"{best['n']} | "
            f"{result['elapsed_seconds']:.0f} |"
        )
    lines += ["", "| over seeds | IQM | 95 % bootstrap interval |", "| --- | --- | --- |"]
    for setting, members in groups.items():
        for which in members[0]:
            values_N = [member[which] for member in members]
            low, high = bootstrap_interval(values_N, iqm)
            label = f"{setting} {which}".strip()
            lines.append(f"| {label} | {iqm(values_N):.4g} | {low:.4g} to {high:.4g} |")
    if arguments.note:
        lines += ["", arguments.note]
    lines += ["", f"![Learning curves]({arguments.name}.png)", ""]
    (RESULTS / f"{arguments.name}.md").write_text("\n".join(lines))


def sweep_words(jobs: list[list[str]]) -> str:
    columns = zip(*jobs, strict=True)
    words = []
    for column in columns:
        values = list(dict.fromkeys(word.split("=", 1)[1] for word in column))
        words.append(f"{column[0].split('=', 1)[0]}={','.join(values)}")
    return " ".join(words)


def hardware(provenance: dict[str, Any]) -> str:
    hardware, versions = provenance["hardware"], provenance["versions"]
    return (
        f"{hardware['cpu']}, {hardware['cores']} cores, one thread a run; Python "
        f"{versions['python']}, torch {versions['torch']}, gymnasium {versions['gymnasium']}."
    )


if __name__ == "__main__":
    main()
