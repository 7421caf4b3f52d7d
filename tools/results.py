"""Write the pages of docs/results, and the tables of results in other documents.

    .venv/bin/python tools/results.py                            write them all
    .venv/bin/python tools/results.py --check                    exit 1 if one is out of date
    .venv/bin/python tools/results.py NAME outputs/sweeps/NAME   first take in the runs of a sweep

A page is made from two files: docs/results/pages.yaml, written by hand (what was run, what is
published, what differs), and docs/results/measured.yaml, which the third command fills from the
run directories of a sweep, or of one run. It also draws the learning curves, NAME.png.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rlzoo.io.logger import read_curve
from rlzoo.run.statistics import bootstrap_interval, iqm
from rlzoo.study.compare import compare

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
PAGES, MEASURED = RESULTS / "pages.yaml", RESULTS / "measured.yaml"
# Files with tables of results, each in `<!-- begin results WORD -->` ... `<!-- end results -->`.
# The word is all, main (the pages with `main: true`) or the beginning of the pages' names.
WITH_TABLES = (ROOT / "README.md", RESULTS / "README.md", ROOT / "docs" / "algorithms.md")
BLOCK = re.compile(r"(<!-- begin results (\w+) -->\n).*?(<!-- end results -->)", re.DOTALL)
ROWS = {  # of a page's table: name in measured.yaml -> words
    "last": "last",
    "best": "best",
    "training": "training, last 100 episodes",
    "dream": "in the dream",
}
BOTH = ("last", "best")
HEAD = ["command", "env steps", "seeds", "last", "best", "published"]
MARKS = "¹²³⁴⁵⁶⁷⁸⁹"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


# --- from runs to measured.yaml -----------------------------------------------------------------


def runs_of(path: Path) -> tuple[list[list[str]], list[Path]]:
    """The words of each job, and its directory: of a sweep, or of a single run."""
    if (path / "sweep.json").exists():
        jobs = read(path / "sweep.json")
        return jobs, [path / str(number) for number in range(len(jobs))]
    return [read(path / "overrides.json")], [path]


def measure(path: Path) -> dict[str, Any]:
    """What measured.yaml keeps of a sweep or a run; runs that differ in their seed are a group."""
    jobs, runs = runs_of(path)
    unfinished = [str(run) for run in runs if not (run / "result.json").exists()]
    if unfinished:
        raise SystemExit(f"no result.json, so not finished: {', '.join(unfinished)}")
    groups: dict[str, list[tuple[int, Path]]] = {}
    for job, run in zip(jobs, runs, strict=True):
        differing = [word for word in job if not all(word in other for other in jobs)]
        setting = " ".join(word for word in differing if not word.startswith("seed="))
        [seed] = [int(word[5:]) for word in job if word.startswith("seed=")] or [0]
        groups.setdefault(setting, []).append((seed, run))
    provenance = read(runs[0] / "provenance.json")
    dirty = " with local changes" if provenance["git"]["dirty"] else ""
    return {
        "commit": provenance["git"]["commit"][:10] + dirty,
        "machine": machine(provenance),
        "groups": [group(setting, members) for setting, members in groups.items()],
    }


def group(setting: str, members: Sequence[tuple[int, Path]]) -> dict[str, Any]:
    results = [read(run / "result.json") for _, run in members]
    returns = {}
    for which in BOTH:
        tests = [result["test"][which]["return"] for result in results if which in result["test"]]
        if len(tests) == len(results):
            returns[which] = over_seeds([test["mean"] for test in tests], tests[0]["ci95"])
            returns[which]["stds"] = [four(test["std"]) for test in tests]
    curves = [read_curve(run / "metrics.jsonl", "rollout/return_mean") for _, run in members]
    played = [float(curve[1][-1]) for curve in curves if curve is not None]
    if len(played) == len(members):  # behavioural cloning plays no episodes in training
        returns["training"] = over_seeds(played, None)
    return {
        "setting": setting,
        "seeds": [seed for seed, _ in members],
        "episodes": results[0]["test"]["last"]["return"]["n"],
        "seconds": [round(result["elapsed_seconds"]) for result in results],
        "returns": returns,
    }


def over_seeds(means: Sequence[float], ci95: Sequence[float] | None) -> dict[str, Any]:
    """IQM and interval over seeds; of a single run its mean and `ci95`, over its episodes."""
    interval = bootstrap_interval(means, iqm) if len(means) > 1 else ci95
    return {
        "value": four(iqm(means)),
        "interval": interval and [four(bound) for bound in interval],
        "runs": [four(value) for value in means],
    }


def four(value: float) -> float:
    """Rounded to four digits, as the pages print it."""
    return float(f"{value:.4g}")


def machine(provenance: Mapping[str, Any]) -> str:
    hardware, versions = provenance["hardware"], provenance["versions"]
    return (
        f"{hardware['cpu']}, {hardware['cores']} cores, one thread a run; Python "
        f"{versions['python']}, torch {versions['torch']}, gymnasium {versions['gymnasium']}"
    )


# --- from the two files to pages ----------------------------------------------------------------


def rendered() -> dict[Path, str]:
    """Every file that this tool writes, as it should be."""
    pages, measured = (yaml.safe_load(file.read_text()) for file in (PAGES, MEASURED))
    files = {RESULTS / f"{name}.md": page(name, pages[name], measured[name]) for name in pages}
    return files | {file: with_tables(file, pages, measured) for file in WITH_TABLES}


def page(name: str, about: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    lines = [f"# {name}", "", f"{about['title']} [How to read this page](README.md).", ""]
    if "extra" in about:  # a test of commands looks at blocks of sh, without extras
        lines += [f"After `tools/setup.sh {about['extra']}`:", ""]
    shell = "text" if "extra" in about else "sh"
    lines += [f"```{shell}", f"tools/rlzoo {about['command']}", "```", ""]
    lines += [*table(measured["groups"]), ""]
    lines += [f"{comparison(entry)}\n" for entry in about["published"]]
    if "settings" in about:
        lines += [f"Settings: {about['settings'].strip()}", ""]
    if about.get("picture", True):
        lines += [f"![{about.get('picture', 'Learning curves')}]({name}.png)", ""]
    if "note" in about:
        lines += [about["note"].strip(), ""]
    return "\n".join([*lines, " ".join(how_it_was_measured(measured)), ""])


def comparison(entry: Mapping[str, Any]) -> str:
    """A published number, or what an expert gets or the best policy can get."""
    where = f", {entry['where']}" if "where" in entry else ""
    if "what" in entry:
        return f"Published: {entry['value']}, {entry['what']} ({entry['source']}{where})."
    return f"{entry['source'].capitalize()}: {entry['value']}{where}."


def table(groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A row for each policy of each group: with every run, or of one run its test episodes."""
    seeds = max(len(group["seeds"]) for group in groups)
    interval = "range" if seeds in (2, 3) else "95 % interval"
    head = ["policy", "IQM", interval, "each run"]
    if seeds == 1:
        head = ["policy", "mean", f"{interval} over episodes", "standard deviation", "episodes"]
    yield row(head)
    yield row(["---"] * len(head))
    for group in groups:
        setting = f"{group['setting']}: " if group["setting"] else ""
        for which, of in group["returns"].items():
            value = exact(of["value"]) if of["value"] is not None else "-"
            bounds = " to ".join(map(exact, of["interval"])) if of["interval"] else "-"
            rest = [", ".join(map(exact, of["runs"]))]
            if seeds == 1:
                rest = [exact(*of["stds"]) if "stds" in of else "-", str(group["episodes"])]
            yield row([setting + ROWS[which], value, bounds, *rest])


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def how_it_was_measured(measured: Mapping[str, Any]) -> Iterator[str]:
    """Test episodes, time, commit and machine, as far as they are known."""
    groups = measured["groups"]
    episodes = sorted({group["episodes"] for group in groups})
    yield f"{between(episodes[0], episodes[-1])} test episodes a run."
    seconds = [number for group in groups for number in group.get("seconds", [])]
    if seconds:
        shortest, longest, unit = min(seconds), max(seconds), "seconds"
        if shortest >= 600:
            shortest, longest, unit = round(shortest / 60), round(longest / 60), "minutes"
        yield f"{between(shortest, longest)} {unit} a run."
    yield f"Commit {measured['commit']}."
    if "machine" in measured:
        yield f"{measured['machine']}."


def between(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def exact(value: float) -> str:
    return f"{value:,.4g}"


# --- tables of results in other documents ---------------------------------------------------------


def with_tables(file: Path, pages: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    folder = RESULTS.relative_to(file.parent)

    def filled(block: re.Match[str]) -> str:
        chosen = {name: about for name, about in pages.items() if is_in(block[2], name, about)}
        return "\n".join([block[1] + row(HEAD), *summary(chosen, measured, folder), block[3]])

    return BLOCK.sub(filled, file.read_text())


def is_in(word: str, name: str, about: Mapping[str, Any]) -> bool:
    return about.get("main", False) if word == "main" else word == "all" or name.startswith(word)


def summary(pages: Mapping[str, Any], measured: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """A row a page, and below the table what the ± of each published number means."""
    meanings: list[str] = []
    yield row(["---"] * len(HEAD))
    for name, about in pages.items():
        groups = measured[name]["groups"]
        shown = [g for g in groups if about.get("setting", g["setting"]) == g["setting"]]
        first = about["published"][0]
        published = f"{first['source']}: {first['value']}"
        if "what" in first:
            meaning = f"{first['what'][0].upper()}{first['what'][1:]} ({first['source']})."
            meanings += [meaning] if meaning not in meanings else []
            published = f"{first['value']} {MARKS[meanings.index(meaning)]}"
        seeds = sum(len(group["seeds"]) for group in shown)
        tests = [", ".join(filter(None, (cell(g, which) for g in shown))) or "-" for which in BOTH]
        link = f"[{about['short']}]({(folder / name).as_posix()}.md)"
        yield row([link, about["env_steps"], str(seeds), *tests, published])
    if meanings:
        yield ""
        yield from (f"{mark} {meaning}" for mark, meaning in zip(MARKS, meanings, strict=False))


def cell(group: Mapping[str, Any], which: str) -> str:
    of = group["returns"].get(which)
    if of is None:
        return ""
    low, high = of["interval"]
    return short(of["value"]) + (f" ({short(low)} to {short(high)})" if low != high else "")


def short(value: float) -> str:
    digits = 0 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", nargs="?", help="of the page")
    parser.add_argument("runs", nargs="?", type=Path, help="directory of a sweep or of a run")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.name is not None:
        if arguments.name not in yaml.safe_load(PAGES.read_text()):
            parser.error(f"{arguments.name}: describe this page in {PAGES} first")
        if arguments.runs is None:
            parser.error(f"{arguments.name}: expected the directory of its runs, too")
        measured = yaml.safe_load(MEASURED.read_text())
        measured[arguments.name] = measure(arguments.runs)
        MEASURED.write_text(dumped(dict(sorted(measured.items()))))
        compare(runs_of(arguments.runs)[1]).save_picture(RESULTS / f"{arguments.name}.png")
    outdated = {file: text for file, text in rendered().items() if not is_current(file, text)}
    for file, text in outdated.items():
        if arguments.check:
            print(f"{file}: out of date; run tools/results.py", file=sys.stderr)
        else:
            file.write_text(text)
    return 1 if arguments.check and outdated else 0


def is_current(file: Path, text: str) -> bool:
    return file.exists() and file.read_text() == text


def dumped(measured: Mapping[str, Any]) -> str:
    return yaml.safe_dump(measured, default_flow_style=None, sort_keys=False, width=120)


if __name__ == "__main__":
    sys.exit(main())
