"""Sweeps of real processes: a failing job, a second start, Ctrl-C, orphans."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import metrics

from rlzoo.cli.main import main
from rlzoo.io.run_dir import RunDir
from rlzoo.study import sweep

BASE = ["algo=q_learning", "experiment=none", "debug=tiny", "logger=jsonl"]
# Its job number 3 fails, as long as no file `mended` is there; with `hours`, it takes that long.
MOODY_ENV = """
import time
from pathlib import Path
import gymnasium
from gymnasium.envs.toy_text import CliffWalkingEnv

class Moody(CliffWalkingEnv):
    def __init__(self, number=0, **kwargs):
        super().__init__(**kwargs)
        self.number = number
    def step(self, action):
        if self.number == 3 and not Path("mended").exists():
            raise RuntimeError("number three is in a bad mood")
        time.sleep(0.01 * Path("hours").exists())
        return super().step(action)

gymnasium.register("Moody-v0", Moody, max_episode_steps=50)
"""
MOODY = ["env=gym", "env.id=moody_env:Moody-v0", "env.restore=replay", "env.name=moody"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moody_env.py").write_text(MOODY_ENV)
    return tmp_path


def run_pids(folder: Path) -> list[int]:
    """The processes (of ours) that work in a folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and os.readlink(process / "cwd") == str(folder):
                found.append(int(process.name))
        except OSError:
            continue  # it has ended, or is not ours
    return [pid for pid in found if pid != os.getpid()]


def test_eight_jobs_one_fails_and_is_mended(folder, capfd):
    words = [*BASE, *MOODY, "env.kwargs.number=range(0,8)"]
    options = ["-m", "--jobs", "8", "--name", "moods"]
    assert main([*options, *words]) == 70
    root = folder / "outputs" / "sweeps" / "moods"
    errors = capfd.readouterr().err
    named = errors.index("job 3 FAILED with exit 70")
    assert "number three is in a bad mood" in errors[named:].splitlines()[0]
    assert named < errors.index("7 of 8 jobs finished")
    assert sorted(p.name for p in root.iterdir() if p.is_dir()) == [str(n) for n in range(8)]
    results = {file.parent.name: file.stat().st_mtime_ns for file in root.glob("*/result.json")}
    assert sorted(results) == ["0", "1", "2", "4", "5", "6", "7"]

    (folder / "mended").touch()
    assert main([*options, *words]) == 0
    errors = capfd.readouterr().err
    assert "7 of them had finished before" in errors
    assert re.findall(r"job (\d) finished", errors) == ["3"]
    assert (root / "3" / "result.json").exists()
    for number, written in results.items():
        assert (root / number / "result.json").stat().st_mtime_ns == written, "not run again"

    assert main([*options, *words, "seed=5"]) == 64
    assert "holds a sweep of other settings" in capfd.readouterr().err


@pytest.mark.parametrize("hasty", [False, True], ids=["once", "twice"])
def test_ctrl_c_ends_the_jobs_and_leaves_them_resumable(folder, hasty):
    (folder / "hours").touch()
    words = [*BASE, *MOODY, "seed=0,1,2", "save_every=128", "eval.every=9999"]
    command = [sys.executable, "-m", "rlzoo", "-m", "--jobs", "2", "--name", "long", *words]
    process = subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    root = folder / "outputs" / "sweeps" / "long"
    end = time.monotonic() + 300
    while sum(bool(metrics(root / name)) for name in "01") < 2:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    assert len(run_pids(folder)) == 3
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does it
    if hasty:
        time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in errors
    while run_pids(folder):  # a hasty sweep does not wait for its jobs, which stop by themselves
        assert hasty and time.monotonic() < end
        time.sleep(0.02)
    assert not (root / "2").exists(), "no further job was started"
    assert not list(root.glob("*/result.json"))
    if not hasty:
        assert "--name long" in errors
        for name in "01":
            assert json.loads((root / name / "status.json").read_text())["status"] == "stopped"

    (folder / "hours").unlink()
    assert subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0
    for name in "012":
        steps = [row["step"] for row in metrics(root / name) if "train/epsilon" in row]
        assert steps == sorted(set(steps)) and steps[-1] >= 512
        assert (root / name / "result.json").exists()


def test_jobs_stop_with_their_sweep_and_its_next_start_waits_for_them(folder):
    (folder / "hours").touch()
    words = [*BASE, *MOODY, "seed=0,1", "save_every=99999", "eval.every=99999"]
    command = [sys.executable, "-m", "rlzoo", "-m", "--jobs", "2", "--name", "long", *words]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    root = folder / "outputs" / "sweeps" / "long"
    end = time.monotonic() + 300
    while sum(bool(metrics(root / name)) for name in "01") < 2:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    process.kill()
    process.wait()
    (folder / "hours").unlink()
    again = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "FAILED" not in again.stderr, again.stderr
    for name in "01":
        log = (root / f"{name}.log").read_text()
        assert log.count("stopped; go on with") == log.count("rlzoo: resumed step_") == 1
        assert (root / name / "result.json").exists()
    assert run_pids(folder) == []


def test_a_job_that_still_runs_is_waited_for_and_has_not_failed(folder, capsys, monkeypatch):
    monkeypatch.setattr(sweep.Job, "start", no_job_may_start)
    root = folder / "outputs" / "sweeps" / "mine"
    for name in "01":
        (root / name).mkdir(parents=True)
    (root / "1" / "result.json").touch()
    other = RunDir(root / "0").lock()

    def sleep(seconds: float) -> None:
        (root / "0" / "result.json").touch()
        other.unlock()

    monkeypatch.setattr(sweep.time, "sleep", sleep)
    assert main(["-m", "--name", "mine", "seed=0,1", *BASE, "env=cliffwalking"]) == 0
    lines = capsys.readouterr().err.splitlines()
    [line] = [line for line in lines if "still running" in line]
    assert f"job 0 is still running, and is waited for: {root.relative_to(folder)}/0" in line
    assert f"in use by process {os.getpid()}" in line
    assert "2 of 2 jobs finished" in lines[-1] and "FAILED" not in "".join(lines)


def no_job_may_start(self: sweep.Job) -> None:
    raise AssertionError(f"job {self.number} was started")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["seed=0,1", "algo.alpha=0.1,2"], 64, "algo.alpha: got 2"),
        (["seed=0,1,0"], 64, "two jobs have the same settings"),
        (["seed=0,x"], 64, "seed: got 'x'"),
        (["algo=q_learning,sarsaa"], 64, "Did you mean 'sarsa'?"),
        (["seed=interval(0,1)"], 64, "seed=interval(0,1)"),
        (["seed=0,1", "--name=../elsewhere"], 64, "--name"),
        (["seed=0,1", "--name=.hidden"], 64, "--name"),
        (["seed=0,1", "--jobs=0"], 64, "--jobs"),
        (["seed=0,1", "resume=latest"], 64, "-m"),
        (["seed=0,1", "output_dir=file/below"], 73, "file"),
    ],
)
def test_nothing_starts_where_one_job_is_wrong(folder, capsys, monkeypatch, words, code, message):
    monkeypatch.setattr(sweep.Job, "start", no_job_may_start)
    (folder / "file").touch()
    assert main(["-m", "algo=q_learning", "env=cliffwalking", *words]) == code
    captured = capsys.readouterr().err
    assert message in captured
    assert len(captured.splitlines()) == 1
    assert not (folder / "outputs").exists()


def test_two_sweeps_cannot_have_one_folder(folder, capsys, monkeypatch):
    monkeypatch.setattr(sweep.Job, "start", no_job_may_start)
    root = folder / "outputs" / "sweeps" / "mine"
    root.mkdir(parents=True)
    with RunDir(root).lock():
        assert main(["-m", "--name", "mine", "seed=0,1", *BASE, "env=cliffwalking"]) == 75
    assert f"process {os.getpid()}" in capsys.readouterr().err


def test_damaged_list_of_jobs(folder, capsys, monkeypatch):
    monkeypatch.setattr(sweep.Job, "start", no_job_may_start)
    root = folder / "outputs" / "sweeps" / "mine"
    root.mkdir(parents=True)
    (root / "sweep.json").write_text("[[")
    assert main(["-m", "--name", "mine", "seed=0,1", *BASE, "env=cliffwalking"]) == 65
    assert "sweep.json" in capsys.readouterr().err


def test_a_job_imports_nothing_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("difflib.py").write_text("from pathlib import Path\nPath('canary').touch()\n")
    process = sweep.Job(0, ("list", "algo"), tmp_path / "0").start()
    process.communicate(timeout=300)
    assert not Path("canary").exists(), (tmp_path / "0.log").read_text()
