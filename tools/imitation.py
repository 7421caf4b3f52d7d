"""Draw docs/results/imitation.png: the return of BC and GAIL by the number of trajectories.

python tools/imitation.py [FILE.png]

It reads the runs of bc_hopper_bullet and gail_hopper_bullet from docs/results/measured.yaml.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from matplotlib.figure import Figure
from results import MEASURED, PAGES, RESULTS

# What a run hands over: a clone is chosen by its held-out loss, GAIL's agent by selection seeds.
CHOSEN = {"BC": ("bc_hopper_bullet", "last"), "GAIL": ("gail_hopper_bullet", "best")}
COLOURS = {"BC": "#D55E00", "GAIL": "#0072B2"}


def main(file: Path) -> None:
    pages, measured = (yaml.safe_load(path.read_text()) for path in (PAGES, MEASURED))
    expert = float(pages["bc_hopper_bullet"]["published"][0]["value"].replace(",", ""))
    figure = Figure(figsize=(7, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    axes.axhline(expert, color="#000000", linewidth=1, label="expert (mean)")
    axes.axhline(0.9 * expert, color="#000000", linewidth=1, linestyle=":", label="90 %")
    for name, (page, which) in CHOSEN.items():
        groups = measured[page]["groups"]
        sizes = [int(group["setting"].split("=")[1]) for group in groups]
        returns = [group["returns"][which] for group in groups]
        for size, of in zip(sizes, returns, strict=True):
            axes.scatter(
                [size] * len(of["runs"]), of["runs"], color=COLOURS[name], alpha=0.35, s=16
            )
        values = [of["value"] for of in returns]
        axes.plot(sizes, values, "o-", color=COLOURS[name], label=f"{name} (IQM)")
    axes.set(xlabel="trajectories of the expert", ylabel="mean return of 50 test episodes")
    axes.set_xticks(sizes)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc=(0.13, 0.42))
    figure.savefig(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS / "imitation.png")
