"""Checks and speeds on a machine, in groups: each in a process of its own, with a time limit.

A benchmark script calls `main` with its groups. Called again with `--child GROUP THREADS`, it
measures one of them and prints a row after each measurement; both files are written anew with it.
Groups on the GPU and on the CPU go on side by side, one of each.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rlzoo.core.messages import cause
from rlzoo.core.types import RlzooError

MARK = "ROW "  # before each row that a child prints
# What a measurement may raise without ending the ones after it (torch's own are RuntimeErrors).
FAULTS = (
    RlzooError, RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError,
    OSError, ImportError,
)  # fmt: skip
PLACES = {"cpu": 1, "cpu8": 8, "cuda": 1}  # and the processor's threads


@dataclass(frozen=True)
class Row:
    """One cell of the page."""

    group: str
    table: str
    row: str
    column: str
    value: float | str | None
    note: str = ""
    error: str = ""


class Work(NamedTuple):
    """What is to be measured: `measure` gives a value, or a value and a note."""

    table: str
    row: str
    measure: Callable[[], Any]
    column: str = ""  # after the place's


@dataclass(frozen=True)
class Place:
    """Where networks live, and how long to measure."""

    device: str
    threads: int = 1
    quick: bool = False

    @property
    def is_cuda(self) -> bool:
        return self.device == "cuda"

    def __str__(self) -> str:
        if self.is_cuda:
            return "cuda"
        return f"cpu, {self.threads} thread{'s' if self.threads > 1 else ''}"

    def rate(self, step: Callable[[], object], warm_up: int = 3, seconds: float = 1.0) -> float:
        """Calls per second, the GPU's work included."""
        start = time.perf_counter()
        for _ in range(1 if self.quick else warm_up):
            step()
            if not self.is_cuda and time.perf_counter() - start > 0.5:
                break  # a processor has little to warm up
        self.wait()
        calls, limit, start = 0, 0.05 if self.quick else seconds, time.perf_counter()
        while time.perf_counter() - start < limit:
            step()
            calls += 1
        self.wait()
        return calls / (time.perf_counter() - start)

    def wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Group:
    work: Callable[[Place], Iterator[Work]]
    places: Mapping[str, float]  # of PLACES -> most seconds


def attempt(group: str, place: Place, work: Work) -> Row:
    """Measure one cell; a fault becomes its reason."""
    column, heard = f"{place}{work.column}", io.StringIO()
    try:
        with contextlib.redirect_stderr(heard):
            found = work.measure()
        ignored = re.search("compile=true is ignored.*", heard.getvalue())
        if ignored:
            raise RuntimeError(ignored[0])
    except FAULTS as error:
        return Row(group, work.table, work.row, column, None, error=reason(error))
    finally:
        print(heard.getvalue(), end="", file=sys.stderr)
    value, note = found if isinstance(found, tuple) else (found, "")
    return Row(group, work.table, work.row, column, value, note)


def reason(error: BaseException) -> str:
    """One line: what went wrong, without this machine's paths."""
    return clean(cause(error).partition(" Hint: ")[0][:300])


def clean(text: str) -> str:
    return re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+", "", text)


def measure_here(name: str, group: Group, place: Place) -> None:
    """Measure a group and print its rows."""
    torch.set_num_threads(place.threads)
    torch.backends.cudnn.deterministic = place.is_cuda  # as in a run
    for work in group.work(place):
        print(MARK + json.dumps(asdict(attempt(name, place, work))), flush=True)


def machine() -> dict[str, str]:
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    found = {
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "CUDA": str(torch.version.cuda),
        "processor": model[1] if model else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
    }
    for name in ("torch", "triton", "numpy", "gymnasium"):
        if any(importlib.metadata.distributions(name=name)):
            found[name] = importlib.metadata.version(name)
    return found


class Report:
    """All rows so far; both files are written anew with each one."""

    def __init__(self, title: str, page: Path | None, record: Path | None, only: list[str]) -> None:
        self.title, self.page, self.record = title, page, record
        self.machine, self.rows, self.lock = machine(), [], threading.Lock()
        if record and record.exists():  # of another call with other groups
            rows = json.loads(record.read_text())["rows"]
            self.rows = [Row(**row) for row in rows if row["group"] not in only]

    def add(self, row: Row) -> None:
        with self.lock:
            self.rows.append(row)
            if self.record:
                data = {"machine": self.machine, "rows": [asdict(row) for row in self.rows]}
                self.record.write_text(json.dumps(data, indent=1) + "\n")
            if self.page:
                self.page.write_text(self.text())
        value = row.error or shown(row.value)
        print(f"{row.table} | {row.row} | {row.column}: {value}  {row.note}", flush=True)

    def text(self) -> str:
        about = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        lines = [f"# {self.title}", "", f"Made on {about}."]
        for table in dict.fromkeys(row.table for row in self.rows if row.table):
            rows = [row for row in self.rows if row.table == table]
            lines += ["", f"## {table}", "", *page_table(rows)]
        lost = [f"- {row.group}, {row.column}: {row.error}" for row in self.rows if not row.table]
        return "\n".join(lines + (["", "## Not measured", "", *lost] if lost else [])) + "\n"


def page_table(rows: list[Row]) -> list[str]:
    """A table with a line for each kind of work, and its footnotes."""
    rows = sorted(rows, key=lambda row: row.column.partition(":")[0])  # cpu before cuda
    columns = list(dict.fromkeys(row.column for row in rows))
    cells = {(row.row, row.column): row for row in rows}
    heads = [column.partition(": ")[2] or column for column in columns]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(columns)}"]
    notes: list[str] = []
    for name in dict.fromkeys(row.row for row in rows):
        line = []
        for row in (cells.get((name, column)) for column in columns):
            text = shown(row.value) if row else ""
            if row and row.error:
                note = row.error.removeprefix("AssertionError: ")
                notes += [note] * (note not in notes)
                text = f"no [{notes.index(note) + 1}]"
            elif row and row.note:
                text += f" ({row.note})"
            line.append(text)
        lines.append(f"| {name} | {' | '.join(line)} |")
    return lines + [""] * bool(notes) + [f"{i}. {note}" for i, note in enumerate(notes, 1)]


def shown(value: float | str | None) -> str:
    if not isinstance(value, float):
        return str(value or "")
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def measure_group(script: str, name: str, place: Place, report: Report, limit_s: float) -> None:
    """Run a group in a process of its own and take its rows as they come."""
    command = [sys.executable, script, "--child", name, str(place.threads)]
    command += ["--device", place.device, *["--quick"] * place.quick]
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(place.threads))}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=complaints, text=True
        )
        timer = threading.Timer(limit_s, process.kill)
        timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(MARK):
                report.add(Row(**json.loads(line.removeprefix(MARK))))
        status, late = process.wait(), not timer.is_alive()
        timer.cancel()
        complaints.seek(0)
        text = complaints.read()
    print(f"{name}, {place}: {time.perf_counter() - start:.0f} s", flush=True)
    if status:
        print(f"--- {name}, {place}:\n{text[-3000:]}\n---", file=sys.stderr)
        last = ([line for line in text.splitlines() if line.strip()] or ["no output"])[-1]
        why = f"stopped after {limit_s:.0f} s" if late else f"exit status {status}: {last[:300]}"
        report.add(Row(name, "", "", str(place), None, error=clean(why)))


def main(script: str, title: str, groups: Mapping[str, Group]) -> int:
    """Measure the groups that are asked for, wherever they are to be measured."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--page", type=Path, help="write the page to this Markdown file")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="measure briefly, to try the script")
    parser.add_argument("--only", nargs="+", choices=groups, default=list(groups))
    parser.add_argument("--budget", type=float, default=470, help="seconds for everything")
    parser.add_argument("--child", nargs=2, metavar=("GROUP", "THREADS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, threads = arguments.child
        place = Place(arguments.device, int(threads), arguments.quick)
        measure_here(name, groups[name], place)
        return 0
    report = Report(title, arguments.page, arguments.json, arguments.only)
    deadline = time.perf_counter() + arguments.budget

    def lane(keys: list[str], device: str) -> None:
        for name in arguments.only:
            for key in keys:
                limit_s = groups[name].places.get(key)
                place = Place(device, PLACES[key], arguments.quick)
                left = deadline - time.perf_counter()
                if limit_s and left < 10:
                    report.add(Row(name, "", "", str(place), None, error="no time left"))
                elif limit_s:
                    measure_group(script, name, place, report, min(limit_s, left))

    lanes = [threading.Thread(target=lane, args=(["cuda"], arguments.device))]
    if arguments.device == "cuda":
        lanes.append(threading.Thread(target=lane, args=(["cpu", "cpu8"], "cpu")))
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join()
    return 0
