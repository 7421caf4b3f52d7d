"""The documents say what the code does: tables, commands, links, what one has to read."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from experts import with_demonstrations
from gymnasium import spaces
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_layers import FLOORS, PACKAGE, cost, lines
from world_models_parts import pictures_store

from rlzoo.cli import main as cli
from rlzoo.core import registry
from rlzoo.core.types import UsageError
from rlzoo.envs.packages import EXTRAS
from rlzoo.io.run_dir import RunDir
from rlzoo.run import config as configuration
from rlzoo.run.run import Run
from rlzoo.run.statistics import iqm

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
# Each in an env where it logs all that it can.
ALGORITHMS = {
    "bc": "lunarlander_continuous",
    "airl": "lunarlander_continuous",
    "dqn": "cartpole",
    "gail": "lunarlander_continuous",
    "gail_as_printed": "lunarlander_continuous",
    "ppo": "lunarlander_continuous",
    "q_learning": "frozenlake",
    "sarsa": "frozenlake",
    "trpo": "lunarlander_continuous",
    "world_models": "car_racing_fast",
}

# --- tables of settings -------------------------------------------------------------------------


def tool(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_settings_are_up_to_date() -> None:
    page = (DOCS / "configuration.md").read_text()
    docs = tool("docs")
    assert docs.updated(page) == page, "run tools/docs.py"
    assert {name for _, name, _ in docs.BLOCK.findall(page)} == set(docs.generated())


@pytest.mark.parametrize("old", ["| `algo.lr` | `0.0001` |", "number >= 0 and <= 1", "discount"])
def test_a_table_that_is_out_of_date_is_found(old: str) -> None:
    page = (DOCS / "configuration.md").read_text()
    planted = page.replace(old, "something else", 1)
    assert planted != page
    assert tool("docs").updated(planted) == page


# --- results ------------------------------------------------------------------------------------

results = tool("results")
RESULTS = {
    kind: yaml.safe_load((DOCS / "results" / f"{kind}.yaml").read_text())
    for kind in ("pages", "measured")
}
WRITTEN_BY_HAND = {"README", "gpu", "speed", "world_models_notes"}
KEYS = {"title", "command", "extra", "short", "env_steps", "main", "setting"}
KEYS |= {"published", "settings", "picture", "note"}


def test_pages_and_tables_of_results_are_those_of_the_data() -> None:
    outdated = [file.name for file, text in results.rendered().items() if file.read_text() != text]
    assert outdated == [], "run tools/results.py"
    there = {file.stem for file in (DOCS / "results").glob("*.md")}
    assert there - WRITTEN_BY_HAND == set(RESULTS["pages"]) == set(RESULTS["measured"])


def test_what_is_said_of_a_page_is_used() -> None:
    for about in RESULTS["pages"].values():
        assert set(about) <= KEYS
        assert all(set(of) <= {"value", "what", "source", "where"} for of in about["published"])


def test_a_page_of_results_fits_on_a_screen() -> None:
    pages = [file for file in results.rendered() if file.stem in RESULTS["pages"]]
    assert [page.name for page in pages if len(page.read_text().splitlines()) > 35] == []


def test_values_over_seeds_are_the_iqm_of_the_runs() -> None:
    """Both are rounded to four digits, so they may differ in the last one."""
    for name, measured in RESULTS["measured"].items():
        for group in measured["groups"]:
            assert [len(of["runs"]) for of in group["returns"].values()] == [
                len(group["seeds"])
            ] * len(group["returns"]), name
            for of in group["returns"].values():
                if of["value"] is not None:
                    assert of["value"] == pytest.approx(iqm(of["runs"]), rel=2e-3), name
                    assert of["interval"][0] <= of["value"] <= of["interval"][1], name


def test_a_table_that_differs_from_the_data_is_put_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "README.md"
    before = (ROOT / "README.md").read_text()
    file.write_text(before.replace("| 364 (52 to 500) |", "| 464 (52 to 500) |"))
    assert file.read_text() != before
    # Links are relative to the file.
    monkeypatch.setattr(results, "RESULTS", tmp_path / "docs" / "results")
    assert results.with_tables(file, *RESULTS.values()) == before


def made_up_sweep(root: Path, last: dict[str, list[float]]) -> Path:
    """The record of a sweep: each word a setting, each number the return of a seed."""
    jobs = [["algo=bc", word, f"seed={seed}"] for word in last for seed in range(len(last[word]))]
    for number, (mean, job) in enumerate(
        zip((mean for means in last.values() for mean in means), jobs, strict=True)
    ):
        run = root / str(number)
        run.mkdir(parents=True)
        test = {"mean": mean, "std": 1.23456, "n": 50, "ci95": [mean - 1, mean + 1]}
        result = {"test": {"last": {"return": test}}, "elapsed_seconds": 7.4}
        (run / "result.json").write_text(json.dumps(result))
        (run / "overrides.json").write_text(json.dumps(job))
        (run / "metrics.jsonl").write_text('{"step": 1, "rollout/return_mean": 5.0}\n')
        hardware = {"cpu": "CPU", "cores": 2}
        versions = {"python": "3", "torch": "2", "gymnasium": "1"}
        git = {"commit": "0123456789abcdef", "dirty": False}
        provenance = {"hardware": hardware, "versions": versions, "git": git}
        (run / "provenance.json").write_text(json.dumps(provenance))
    (root / "sweep.json").write_text(json.dumps(jobs))
    return root


def test_a_sweep_is_measured_by_setting(tmp_path: Path) -> None:
    sweep = made_up_sweep(tmp_path, {"algo.lr=1": [1.0, 2.0, 30.0, 4.0], "algo.lr=2": [5.55555]})
    measured = results.measure(sweep)
    assert measured["commit"] == "0123456789"
    first, second = measured["groups"]
    assert (first["setting"], first["seeds"], first["seconds"]) == (
        "algo.lr=1",
        [0, 1, 2, 3],
        [7] * 4,
    )
    assert first["returns"]["last"]["value"] == 3.0  # without the lowest and the highest
    assert first["returns"]["last"]["runs"] == [1.0, 2.0, 30.0, 4.0]
    assert first["returns"]["training"]["runs"] == [5.0] * 4
    assert "best" not in first["returns"]
    assert second["returns"]["last"]["interval"] == [4.556, 6.556]  # over episodes
    assert second["returns"]["last"]["stds"] == [1.235]
    [single] = results.measure(tmp_path / "4")["groups"]
    assert single["returns"] == second["returns"]
    *_, last, training = results.table([single])
    assert last == "| last | 5.556 | 4.556 to 6.556 | 1.235 | 50 |"
    assert training == "| training, last 100 episodes | 5 | - | - | 50 |"


def test_a_sweep_with_an_unfinished_run_is_not_measured(tmp_path: Path) -> None:
    sweep = made_up_sweep(tmp_path, {"algo.lr=1": [1.0, 2.0]})
    (sweep / "1" / "result.json").unlink()
    with pytest.raises(SystemExit, match=f"not finished: {sweep}/1$"):
        results.measure(sweep)


# --- what each algorithm takes ------------------------------------------------------------------

ACTIONS = {
    "discrete": (spaces.Discrete(3),),
    "several at once": (spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)),
    "continuous": (spaces.Box(-1, 1, (3,)),),
}
OBSERVED = {"world_models": spaces.Box(0, 255, (64, 64, 3), np.uint8)}
DISCRETE = ("q_learning", "sarsa")  # observe a table's rows; the others vectors


def accepts(algo: str, actions: Any) -> bool:
    algorithm, settings = registry.get("algo", algo)
    vector = spaces.Discrete(5) if algo in DISCRETE else spaces.Box(-1, 1, (4,))
    try:
        algorithm.check_spaces(settings(), OBSERVED.get(algo, vector), actions)
    except UsageError:
        return False
    return True


@pytest.mark.parametrize("algo", [name for name in ALGORITHMS if name != "gail_as_printed"])
def test_the_table_of_algorithms_says_which_actions_they_take(algo: str) -> None:
    page = (DOCS / "algorithms.md").read_text()
    [row] = re.findall(rf"^\| \[`{algo}`\]\(#{algo}\) \| [^|]* \| ([^|]*) \|", page, re.MULTILINE)
    for kind, some in ACTIONS.items():
        assert [accepts(algo, one) for one in some] == [kind in row.split(", ")] * len(some), kind


def test_the_table_of_extras_is_complete() -> None:
    extras = {row[0] for row in table((DOCS / "configuration.md").read_text(), "Extras")}
    assert extras == EXTRAS.keys()


def test_the_errors_that_the_page_shows_are_the_ones_that_are_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    section = (DOCS / "configuration.md").read_text().split("\n## What is refused\n")[1]
    shown = re.findall(r"^\$ rlzoo (.*)\n(rlzoo: .*)$", section.split("\n## ")[0], re.MULTILINE)
    assert len(shown) >= 8
    for typed, said in shown:
        assert cli.main(typed.split()) == 64
        assert capsys.readouterr().err.splitlines()[-1].startswith(said.removesuffix("..."))


# --- metrics ------------------------------------------------------------------------------------

UNITS = {"env steps": "_env_steps", "s": "_seconds", "env steps/s": "_env_steps_per_second"}


def table(page: str, section: str) -> list[list[str]]:
    """The cells of the first table of a section, without its header."""
    text = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip(" `") for cell in row] for row in rows[2:]]


def documented(section: str, algorithm: str) -> set[str]:
    """The names that a table says an algorithm logs."""
    rows = table((DOCS / "tensorboard.md").read_text(), section)
    return {name for name, _, who, _ in rows if who == "all" or algorithm in who.split(", ")}


# Without these an algorithm does not log everything that it can.
MORE = {"world_models": ["algo.memory.reward_head=true", "algo.memory.done_head=true"]}


def run_of(algorithm: str, directory: Path) -> RunDir:
    words = [f"algo={algorithm}", f"env={ALGORITHMS[algorithm]}", "experiment=none", "debug=tiny"]
    config = with_demonstrations(configuration.compose(words + MORE.get(algorithm, [])))
    claimed = RunDir.claim_at(directory)
    claimed.write_text("config.yaml", configuration.to_yaml(config))
    assert Run(config, claimed, lambda: False).train() == "finished"
    return claimed


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDir]:
    root = tmp_path_factory.mktemp("runs")
    return {algorithm: run_of(algorithm, root / algorithm) for algorithm in ALGORITHMS}


def test_every_shipped_algorithm_is_looked_at() -> None:
    targets = {name: registry.get("algo", name)[0].__module__ for name in registry.names("algo")}
    assert {name for name, module in targets.items() if module.startswith("rlzoo.")} == set(
        ALGORITHMS
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_logged_is_what_the_table_lists(runs: dict[str, RunDir], algorithm: str) -> None:
    lines = runs[algorithm].metrics.read_text().splitlines()
    logged = {name for line in lines for name in json.loads(line)} - {"step"}
    assert logged == documented("Metrics", algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_shown_is_what_the_table_lists(runs: dict[str, RunDir], algorithm: str) -> None:
    events = EventAccumulator(str(runs[algorithm].tb))
    events.Reload()
    kinds = events.Tags()
    shown = {*kinds["images"], *kinds["histograms"], *kinds["tensors"]}
    shown = {tag.removesuffix("/text_summary") for tag in shown if not tag.startswith("_hparams_")}
    patterns = documented("Pictures, histograms, text", algorithm)
    assert [t for t in shown if not any(fnmatchcase(t, p) for p in patterns)] == []
    assert [p for p in patterns if not any(fnmatchcase(t, p) for t in shown)] == []


def faults_of(name: str, unit: str) -> list[str]:
    """What is wrong with a metric's name: `group/metric_unit`, the unit as the table says."""
    found = []
    if not re.fullmatch(
        r"(train|discriminator|rollout|eval|test|time)/[a-z][a-z0-9]*(_[a-z0-9]+)*", name
    ):
        found.append("form")
    matching = [
        u for u, suffix in UNITS.items() if name.endswith((suffix, suffix.replace("_", "/", 1)))
    ]
    if matching != ([unit] if unit in UNITS else []):
        found.append("unit")
    return found


def test_metric_names_have_a_group_and_the_unit_of_the_table() -> None:
    rows = table((DOCS / "tensorboard.md").read_text(), "Metrics")
    assert [(name, faults_of(name, unit)) for name, unit, *_ in rows if faults_of(name, unit)] == []


@pytest.mark.parametrize(
    ("name", "unit", "fault"),
    [
        ("loss", "reward", "form"),
        ("train/Loss", "reward", "form"),
        ("train/td-error", "reward", "form"),
        ("other/loss", "reward", "form"),
        ("eval/length_mean", "env steps", "unit"),
        ("time/act_seconds", "ms", "unit"),
        ("time/env_steps_per_second", "env steps", "unit"),
    ],
)
def test_a_wrong_metric_name_is_found(name: str, unit: str, fault: str) -> None:
    assert faults_of(name, unit) == [fault]


# --- commands -----------------------------------------------------------------------------------


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `tools/rlzoo` in the shell blocks of a page."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.splitlines():
            name, *words = shlex.split(line, comments=True) or [""]
            if name == "tools/rlzoo":
                yield words


def check_command(words: list[str]) -> None:
    """UsageError for a command that would be refused before it looks at a run."""
    if words[0] in (*cli.VERBS, "--help") or words[0].startswith(("from=", "resume=")):
        return
    if "=" not in words[0] and words[0] != "-m":
        raise UsageError(f"no such command: {words[0]}")
    places = "run_dir="
    overrides = [w for w in words if "=" in w and not w.startswith(places)]
    seen: set[str] = set()
    for job in configuration.sweep_jobs(overrides) if words[0] == "-m" else [overrides]:
        new = {word for word in job if not word.startswith("seed=")} - seen
        if new or not seen:  # each word of a sweep once; seeds make no difference
            configuration.compose(job)
        seen |= new


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_are_accepted(page: Path) -> None:
    for words in commands(page):
        if not any(word.startswith("plugins=") for word in words):
            check_command(words)


@pytest.mark.parametrize("planted", ["algo=dqn 'algo.lrr=1'", "-m algo=dqn,dqnn", "evaluat latest"])
def test_a_command_that_is_refused_is_found(planted: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```sh\ntools/rlzoo {planted}  # no\n# tools/rlzoo x\n```\n")
    [words] = commands(page)
    with pytest.raises(UsageError):
        check_command(words)


# --- form ---------------------------------------------------------------------------------------

MAX_ROW, MAX_PROSE = 320, 600  # characters of a table's row, of a line of prose
WRITTEN = [ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]


def long_lines(page: Path) -> list[int]:
    """Numbers of lines that hold too much; blocks of code do not count."""
    found, in_code = [], False
    for number_of_line, line in enumerate(page.read_text().splitlines(), 1):
        in_code ^= line.startswith("```")
        if not in_code and len(line) > (MAX_ROW if line.startswith("|") else MAX_PROSE):
            found.append(number_of_line)
    return found


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_line_of_a_page_is_too_long(page: Path) -> None:
    assert long_lines(page) == []


def test_a_line_that_is_too_long_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    row, prose = "|" + "x" * MAX_ROW, "x" * (MAX_PROSE + 1)
    page.write_text(f"{row}\n{prose}\n```text\n{prose}\n```\n{row[:-1]}\n")
    assert long_lines(page) == [1, 2]


# --- links and names ----------------------------------------------------------------------------


def dead_links(page: Path) -> list[str]:
    """Relative links of a page to files or headings that are not there."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        if "://" in target:
            continue
        file = (page.parent / path) if path else page
        if not file.exists() or (heading and heading not in headings(file)):
            found.append(target)
    return found


def headings(page: Path) -> set[str]:
    lines = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line).strip().lower().replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def unshown_pictures() -> list[str]:
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", page.read_text())
    }
    return [str(file.name) for file in DOCS.rglob("*.png") if file.resolve() not in shown]


def test_every_picture_is_shown_on_a_page() -> None:
    assert unshown_pictures() == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A (b)\n[x](y.md) [a](#a-b) [c](#c) [p](page.md#a-b) [w](https://x.org)\n")
    assert dead_links(page) == ["y.md", "#c"]


NAMED = re.compile(r"(?<![\w/.-])(?:rlzoo|tests|tools|conf|docs)/[\w./-]*\w(?![\w<*])")


def missing_paths(page: Path) -> list[str]:
    """Files and folders of this repository that a page names and that are not there."""
    return [name for name in NAMED.findall(page.read_text()) if not (ROOT / name).exists()]


# A page of results speaks of the commit that it was measured with, and of others' repositories.
OF_NOW = [page for page in WRITTEN if page.parent.name != "results"]


@pytest.mark.parametrize("page", OF_NOW, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_paths_that_a_page_names_are_there(page: Path) -> None:
    assert missing_paths(page) == []


def test_a_missing_path_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`rlzoo/core/settings.py`, rlzoo/algos/. `conf/env/<name>.yaml`, rlzoo/nope.py.\n"
    )
    assert missing_paths(page) == ["rlzoo/nope.py"]


def test_nobody_is_sent_to_the_other_project_of_that_name() -> None:
    said = re.compile(r"pip install\s+(\"|')?rlzoo(?!-torch)")
    assert [page.name for page in PAGES if said.search(page.read_text())] == []
    assert said.search("pip install rlzoo") and not said.search("pip install rlzoo-torch")


def test_the_program_with_v_m_and_c_alone_runs(tmp_path: Path) -> None:
    [program] = re.findall(r"```python\n(.*?)```", (DOCS / "algorithms.md").read_text(), re.DOTALL)
    pictures_store(tmp_path / "outputs" / "collect" / "frames", (60, 60), action_size=3)
    (tmp_path / "program.py").write_text(program)
    ran = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stderr
    assert [line.split()[0] for line in ran.stdout.splitlines()[2:]] == ["0", "1", "2"]
    assert all(np.isfinite(float(line.split()[-1])) for line in ran.stdout.splitlines())


# --- what one has to read -----------------------------------------------------------------------

# algorithm, as the page calls it: the modules that its full cost begins with
READING = {
    "Q-learning and SARSA": ("algos/tabular.py",),
    "DQN": ("algos/dqn.py", "data/replay.py"),
    "PPO": ("algos/ppo.py",),
    "TRPO": ("algos/trpo.py",),
    "behavioural cloning": ("algos/bc.py",),
    "GAIL": ("algos/gail/gail.py",),
    "World Models": ("algos/world_models/agent.py",),
}
COSTS = re.compile(r"(\d+) files?, ([\d,]+) lines\. Full cost: (\d+) files?, ([\d,]+) lines\.")


def number(text: str) -> int:
    return int(text.replace(",", ""))


def is_near(said: str, true: int) -> bool:
    """Numbers of lines are rounded, and may be out of date by a little."""
    return abs(number(said) - true) <= max(10, 0.05 * true)


def reading_faults(page: str, what: str, first: tuple[str, ...]) -> list[str]:
    """The numbers of a reading list that differ from the code."""
    page = page.replace("\n### ", "\n## ")
    section = f"To understand {what}"
    [said] = COSTS.findall(page.split(f"\n## {section}\n")[1].split("\n## ")[0])
    rows = table(page, section)
    true = {row[0]: lines(PACKAGE / row[0].split("`")[1]) for row in rows}
    faults = [row[0] for row in rows if not is_near(row[1], true[row[0]])]
    full_lines, full_files = cost(PACKAGE, first)
    if int(said[0]) != len(rows) or not is_near(said[1], sum(true.values())):
        faults.append("sum of the list")
    if int(said[2]) != full_files or not is_near(said[3], full_lines):
        faults.append(f"full cost: {full_files} files, {full_lines} lines")
    return faults


@pytest.mark.parametrize("what", READING)
def test_the_page_says_what_reading_costs(what: str) -> None:
    page = (DOCS / "architecture.md").read_text()
    assert reading_faults(page, what, READING[what]) == []


def test_every_reading_list_is_looked_at() -> None:
    page = (DOCS / "architecture.md").read_text()
    assert re.findall(r"^### To understand (.*)$", page, re.MULTILINE) == list(READING)


def test_core_costs_what_the_page_says() -> None:
    page = (DOCS / "architecture.md").read_text()
    [total] = re.findall(r"`core/` has ([\d,]+) lines", page)
    assert is_near(total, sum(map(lines, (PACKAGE / "core").glob("*.py"))))
    for name, said in re.findall(r"`(core/\w+\.py)` \((\d+)\)", page):
        assert is_near(said, lines(PACKAGE / name))


@pytest.mark.parametrize(
    ("number_of", "fault"),
    [
        (r"(?<=dqn\.py\) \| )\d+", "algos/dqn.py"),
        (r"(?<=files, )[\d,]+(?= lines\. Full)", "sum of the list"),
        (r"(?<=Full cost: )\d+", "full cost"),
        (r"[\d,]+(?= lines\.\n)", "full cost"),
    ],
)
def test_a_wrong_cost_of_reading_is_found(number_of: str, fault: str) -> None:
    page = (DOCS / "architecture.md").read_text()
    planted = re.sub(number_of, "999999", page)
    assert planted != page
    [found] = reading_faults(planted, "DQN", READING["DQN"])
    assert fault in found


def test_the_diagram_shows_the_floors_that_the_imports_keep() -> None:
    block = (DOCS / "architecture.md").read_text().split("```text\n")[1].split("```")[0]
    drawn = [re.split(r"  +", line)[0] for line in block.splitlines() if line[0] != " "]
    floors = [{room for room in floor if not room.startswith("__")} for floor in FLOORS]
    assert [set(line.split(", ")) for line in reversed(drawn)] == [f for f in floors if f]
