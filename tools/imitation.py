"""Write docs/results/imitation.md and .png: behavioural cloning and GAIL by the size of the data.

python tools/imitation.py outputs/sweeps/bc_hopper_bullet outputs/sweeps/gail_hopper_bullet \\
    outputs/demos/hopper_bullet.npz

Or imitation_classic.md: both from one trajectory, by the sweeps bc_ENV_1 and gail_ENV and the
demonstrations ENV.npz below a directory of outputs.

python tools/imitation.py outputs cartpole acrobot mountaincar
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from results import read, sweep_words

from rlzoo.demonstrations.files import load
from rlzoo.run.statistics import bootstrap_interval, iqm

RESULTS = Path(__file__).parent.parent / "docs" / "results"
SETTING = "algo.demonstrations.trajectories="
# What a run hands over: a clone is chosen by its held-out loss, GAIL's agent by selection seeds.
CHOSEN = {"BC": "last", "GAIL": "best"}


# Returns of Ho & Ermon 2016 from 1 trajectory, of their result files: BC and GAIL (7 seeds).
# Their CartPole ends at 200.
PUBLISHED = {"cartpole": (72, 200), "acrobot": (-131, -77), "mountaincar": (-137, -102)}


def returns(sweep: Path, which: str) -> dict[int, list[float]]:
    """Mean test returns by number of trajectories (1 where not set), one of each finished run."""
    found: dict[int, list[float]] = {}
    for number, words in enumerate(json.loads((sweep / "sweep.json").read_text())):
        file = sweep / str(number) / "result.json"
        settings = [w.removeprefix(SETTING) for w in words if w.startswith(SETTING)]
        if file.exists():
            result = json.loads(file.read_text())["test"][which]["return"]["mean"]
            found.setdefault(int(*settings or ["1"]), []).append(result)
    return dict(sorted(found.items()))


def interval(values: list[float]) -> str:
    low, high = bootstrap_interval(values, iqm)
    return f"{iqm(values):.0f} ({low:.0f} to {high:.0f})"


def listed(values: list[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values) or "-"


def main() -> None:
    first, *others = sys.argv[1:]
    if (Path(first) / "sweep.json").exists():
        by_size(Path(first), *map(Path, others))
    else:
        classic(Path(first), others)


def sweeps_of(env: str) -> tuple[str, str]:
    return f"bc_{env}_1", f"gail_{env}"


def command(sweep: Path) -> str:
    jobs = json.loads((sweep / "sweep.json").read_text())
    commit = read(sweep / "0" / "provenance.json")["git"]["commit"]
    return f"tools/rlzoo -m {sweep_words(jobs)} --name {sweep.name}  # {commit[:10]}"


def classic(outputs: Path, envs: list[str]) -> None:
    lines = [
        "# Imitation from one trajectory",
        "",
        "Every 5th step of one trajectory (CartPole: every 10th), as in Ho & Ermon (2016). Mean "
        "returns of test episodes on seeds that nothing else saw (50 for GAIL, 100 for BC); IQM "
        "over runs with a 95 % bootstrap interval, every run counted. GAIL: the checkpoint chosen "
        "on selection seeds; BC: the lowest held-out loss.",
        "",
        "Published: Ho & Ermon's, whose CartPole ends at 200 and whose trajectory is another "
        "expert's.",
        "",
        "Commands:",
        "",
        "```sh",
        *(command(outputs / "sweeps" / name) for env in envs for name in sweeps_of(env)),
        "```",
        "",
        "| env | expert | BC | GAIL | published BC, GAIL | runs of each |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for env in envs:
        expert = load(outputs / "demos" / f"{env}.npz").returns
        bc_sweep, gail_sweep = (outputs / "sweeps" / name for name in sweeps_of(env))
        [bc] = returns(bc_sweep, CHOSEN["BC"]).values()
        [gail] = returns(gail_sweep, CHOSEN["GAIL"]).values()
        published = ", ".join(map(str, PUBLISHED[env]))
        lines.append(
            f"| {env} | {expert.mean():.0f} | {interval(bc)} | {interval(gail)} | {published} | "
            f"BC {listed(bc)}; GAIL {listed(gail)} |"
        )
    (RESULTS / "imitation_classic.md").write_text("\n".join(lines) + "\n")


def by_size(bc: Path, gail: Path, demonstrations: Path) -> None:
    expert = load(demonstrations).returns
    columns = {name: returns(path, CHOSEN[name]) for name, path in (("BC", bc), ("GAIL", gail))}
    lines = [
        "# Imitation by the size of the data",
        "",
        "HopperBulletEnv-v0; of each trajectory every 20th step is kept (Ho & Ermon 2016). Mean "
        "returns of 50 test episodes on seeds that nothing else saw; IQM over runs with a 95 % "
        "bootstrap interval (that of two or three runs is their range), every run counted.",
        "",
        f"The expert (the `pybullet` package's) over {len(expert)} episodes: mean "
        f"{expert.mean():.0f}, standard deviation {expert.std():.0f}, median "
        f"{np.median(expert):.0f}; it falls in some. 90 % of its mean: {0.9 * expert.mean():.0f}.",
        "",
        "| trajectories | BC | GAIL | runs of each |",
        "| --- | --- | --- | --- |",
    ]
    for trajectories in sorted(set(columns["BC"]) | set(columns["GAIL"])):
        cells, runs = [], []
        for column in columns.values():
            values = column.get(trajectories, [])
            runs.append(listed(values))
            cells.append(interval(values) if values else "not run")
        lines.append(f"| {trajectories} | {' | '.join(cells)} | BC {runs[0]}; GAIL {runs[1]} |")
    lines += ["", "![Return by number of trajectories](imitation.png)"]
    (RESULTS / "imitation.md").write_text("\n".join(lines) + "\n")
    draw(columns, expert).savefig(RESULTS / "imitation.png")


def draw(columns: dict[str, dict[int, list[float]]], expert: np.ndarray) -> Figure:
    figure = Figure(figsize=(7, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    axes.axhline(expert.mean(), color="#000000", linewidth=1, label="expert (mean)")
    axes.axhline(0.9 * expert.mean(), color="#000000", linewidth=1, linestyle=":", label="90 %")
    colours = {"BC": "#D55E00", "GAIL": "#0072B2"}
    for name, column in columns.items():
        points = [(n, value) for n, values in column.items() for value in values]
        axes.scatter(*zip(*points, strict=True), color=colours[name], alpha=0.35, s=16)
        centre = [iqm(values) for values in column.values()]
        axes.plot(list(column), centre, "o-", color=colours[name], label=f"{name} (IQM)")
    axes.set(xlabel="trajectories of the expert", ylabel="mean return of 50 test episodes")
    axes.set_xticks(sorted(columns["BC"]))
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc=(0.13, 0.42))
    return figure


if __name__ == "__main__":
    main()
