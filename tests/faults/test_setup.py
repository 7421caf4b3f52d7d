"""tools/rlzoo and tools/test in a fresh clone, with stand-ins for venv, pip and what they install.

The stand-ins are modules on PYTHONPATH that note each call, so no test needs a network. The real
thing is what CI runs through: a fresh clone, and .ci/run.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 300.0  # with what hangs

NOTE = """
import os
def note(*words):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(" ".join(words) + "\\n")
"""
STAND_INS = {
    "note.py": NOTE,
    "venv.py": """
import pathlib, sys
from note import note
note("venv")
folder = pathlib.Path(sys.argv[1]) / "bin"
folder.mkdir()
(folder / "python").symlink_to(sys.executable)
""",
    "pip.py": """
import os, signal, sys, time
from note import note
signal.signal(signal.SIGINT, signal.SIG_DFL)
note("pip", *sys.argv[1:], "pids", str(os.getppid()), str(os.getpid()))
print("pip talks on stdout")
mode = os.environ.get("PIP_MODE", "")
time.sleep({"slow": 0.3, "hang": 60}.get(mode, 0))
if mode == "fail":
    sys.exit("ERROR: no network")
""",
    "rlzoo.py": "import os, sys\nprint('rlzoo', os.getcwd(), *sys.argv[1:])\n",
    **{
        f"{tool}.py": f"""
import os, sys
from note import note
note("{tool}", *sys.argv[1:])
print("{tool} was here")
sys.exit(int(os.environ.get("{tool.upper()}_EXIT", 0)))
"""
        for tool in ("ruff", "mypy", "pytest")
    },
}


class Clone:
    """A clone's tools, and the notes of what they called."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a clone"  # paths have spaces
        shutil.copytree(ROOT / "tools", self.root / "tools", ignore=shutil.ignore_patterns("bench"))
        shutil.copytree(ROOT / ".ci", self.root / ".ci")
        (self.root / "pyproject.toml").write_text("[project]\n")
        self.stand_ins = folder / "stand_ins"
        self.stand_ins.mkdir()
        for name, source in STAND_INS.items():
            (self.stand_ins / name).write_text(source)
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(self.stand_ins),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NOTES": str(folder / "notes"),
            "RLZOO_PYTHON": sys.executable,
        }

    def start(self, tool: str, *args: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.root / tool), *args],
            env={**self.env, **env},
            cwd=self.root.parent,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def call(self, tool: str, *args: str, **env: str) -> tuple[int, str, str]:
        process = self.start(tool, *args, **env)
        stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
        return process.returncode, stdout, stderr

    def notes(self, word: str = "") -> list[str]:
        path = Path(self.env["NOTES"])
        return (
            [n for n in path.read_text().splitlines() if n.startswith(word)]
            if path.exists()
            else []
        )

    def wait_for_pip(self) -> tuple[int, int]:
        """The process ids of the installer and of its pip, which hangs."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.notes("pip"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        installer, pip = self.notes("pip")[-1].split()[-2:]
        return int(installer), int(pip)

    def edit(self, file: str, old: str, new: str) -> None:
        text = (self.root / file).read_text()
        assert text.count(old) == 1
        (self.root / file).write_text(text.replace(old, new))


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_the_first_call_installs_and_the_second_starts_at_once(clone: Clone) -> None:
    code, stdout, stderr = clone.call("tools/rlzoo", "algo=dqn", "two words")
    assert (code, stdout) == (0, f"rlzoo {clone.root.parent} algo=dqn two words\n")
    assert stderr.splitlines()[0] == "rlzoo: first start: installing into .venv (about a minute)"
    notes = clone.notes()
    assert [note.split()[0] for note in notes] == ["venv", "pip", "pip"]
    assert "--constraint tools/constraints.txt setuptools" in notes[1]
    assert "--constraint tools/constraints.txt --no-build-isolation --editable . pids" in notes[2]

    assert clone.call("tools/rlzoo") == (0, f"rlzoo {clone.root.parent}\n", "")
    link = clone.root.parent / "link"
    link.symlink_to(clone.root / "tools" / "rlzoo")
    assert clone.call("../link") == (0, f"rlzoo {clone.root.parent}\n", "")
    assert clone.notes() == notes


def test_an_up_to_date_set_up_is_checked_in_milliseconds(clone: Clone) -> None:
    clone.call("tools/setup.sh")
    seconds = []
    for _ in range(10):
        start = children_seconds()
        assert clone.call("tools/setup.sh") == (0, "", "")
        seconds.append(children_seconds() - start)
    assert min(seconds) < 0.03


def children_seconds() -> float:
    """CPU seconds of all processes that this one has waited for."""
    used = os.times()
    return used.children_user + used.children_system


@pytest.mark.parametrize("file", ["pyproject.toml", "tools/constraints.txt"])
def test_a_changed_file_is_noticed(clone: Clone, file: str) -> None:
    clone.call("tools/rlzoo")
    with (clone.root / file).open("a") as changed:
        changed.write("# more\n")
    _, _, stderr = clone.call("tools/rlzoo")
    assert stderr.startswith("rlzoo: updating .venv\n")
    assert len(clone.notes("venv")) == 1
    assert len(clone.notes("pip")) == 4
    assert clone.call("tools/rlzoo")[2] == ""


def test_extras_are_added_and_stay(clone: Clone) -> None:
    clone.call("tools/rlzoo")
    clone.call("tools/setup.sh", "dev")
    assert "--editable .[dev] pids" in clone.notes()[-1]
    clone.call("tools/setup.sh", "video")
    assert "--editable .[dev,video] pids" in clone.notes()[-1]
    before = clone.notes()
    assert clone.call("tools/setup.sh", "dev")[2] == ""
    assert clone.call("tools/rlzoo")[2] == ""
    assert clone.notes() == before
    (clone.root / "pyproject.toml").write_text("[project]\n# changed\n")
    clone.call("tools/rlzoo")
    assert "--editable .[dev,video] pids" in clone.notes()[-1]


def test_a_moved_clone_and_a_vanished_interpreter_get_a_new_venv(clone: Clone) -> None:
    clone.call("tools/rlzoo")
    clone.root = clone.root.rename(clone.root.parent / "elsewhere")
    assert clone.call("tools/rlzoo")[2].startswith("rlzoo: first start")
    assert len(clone.notes("venv")) == 2
    python = clone.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3.11")
    assert clone.call("tools/rlzoo")[0] == 0
    assert len(clone.notes("venv")) == 3


def test_a_venv_of_other_making_is_used_and_not_deleted(clone: Clone) -> None:
    (clone.root / ".venv" / "bin").mkdir(parents=True)
    (clone.root / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (clone.root / ".venv" / "mine").touch()
    assert clone.call("tools/rlzoo")[0] == 0
    assert clone.notes("venv") == []
    assert (clone.root / ".venv" / "mine").exists()


def all_served_by_one_installation(clone: Clone) -> bool:
    processes = [clone.start("tools/rlzoo", str(i), PIP_MODE="slow") for i in range(4)]
    outputs = [process.communicate(timeout=PATIENCE_SECONDS) for process in processes]
    served = sorted(stdout.split()[-1:] for stdout, _ in outputs)
    installed = (len(clone.notes("venv")), len(clone.notes("pip")))
    return served == [["0"], ["1"], ["2"], ["3"]] and installed == (1, 2)


def test_calls_at_the_same_time_install_once(clone: Clone) -> None:
    assert all_served_by_one_installation(clone)


def test_control_without_the_lock_they_clash(clone: Clone) -> None:
    clone.edit("tools/install.py", "        wait_for_turn(lock)\n", "")
    assert not all_served_by_one_installation(clone)


def kill_in_the_middle(clone: Clone, number: int) -> tuple[int, str]:
    process = clone.start("tools/rlzoo", PIP_MODE="hang")
    clone.wait_for_pip()
    (clone.root / ".venv" / "half a file").touch()
    os.killpg(process.pid, number)
    _, stderr = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_installation_starts_over(clone: Clone, number: int) -> None:
    code, stderr = kill_in_the_middle(clone, number)
    assert code != 0
    assert "Traceback" not in stderr
    assert ("the next call starts over" in stderr) == (number == signal.SIGINT)
    assert clone.call("tools/rlzoo")[0] == 0
    assert len(clone.notes("venv")) == 2
    assert not (clone.root / ".venv" / "half a file").exists()


def test_control_a_stamp_written_too_early_hides_the_interruption(clone: Clone) -> None:
    clone.edit("tools/install.py", "wanted._replace(checksum=UNFINISHED).write()", "wanted.write()")
    kill_in_the_middle(clone, signal.SIGKILL)
    clone.call("tools/rlzoo")
    assert len(clone.notes("venv")) == 1
    assert (clone.root / ".venv" / "half a file").exists()


def test_nobody_overtakes_a_pip_whose_caller_was_killed(clone: Clone) -> None:
    first = clone.start("tools/rlzoo", PIP_MODE="hang")
    installer, pip = clone.wait_for_pip()
    os.kill(installer, signal.SIGKILL)
    second = clone.start("tools/rlzoo")
    assert second.stderr is not None
    assert any("waiting" in line for line in second.stderr)  # and it goes on waiting
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(timeout=0.5)
    os.kill(pip, signal.SIGKILL)
    first.communicate(timeout=PATIENCE_SECONDS)
    second.communicate(timeout=PATIENCE_SECONDS)
    assert second.returncode == 0
    assert len(clone.notes("venv")) == 2


def test_a_failed_installation_ends_in_one_line_and_is_taken_up_again(clone: Clone) -> None:
    code, stdout, stderr = clone.call("tools/rlzoo", PIP_MODE="fail")
    assert (code, stdout) == (69, "")
    lines = stderr.splitlines()
    assert "ERROR: no network" in lines
    assert lines[-1].startswith("rlzoo: the installation failed")
    assert "Traceback" not in stderr
    assert clone.call("tools/rlzoo")[:2] == (0, f"rlzoo {clone.root.parent}\n")
    assert len(clone.notes("venv")) == 1


def test_a_venv_that_cannot_be_made(clone: Clone) -> None:
    (clone.root / ".venv").write_text("a file is in the way")
    code, stdout, stderr = clone.call("tools/rlzoo")
    assert (code, stdout) == (73, "")
    assert stderr.splitlines()[-1].startswith("rlzoo: cannot set up")
    assert "Traceback" not in stderr


def interpreter(folder: Path, name: str, before_probe: str) -> None:
    """A stand-in that answers as the real interpreter does after some statements."""
    script = f'#!/bin/sh\n[ "$1" = -c ] || exec {sys.executable} "$@"\n'
    script += f'exec {sys.executable} -c "{before_probe}\n$2"\n'
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)


OLD = "import sys; sys.version_info = (3, 10, 13)"
NEW = "import sys; sys.version_info = (3, 15, 0)"
WITHOUT_VENV = "import importlib.util as util; util.find_spec = lambda name: None"


def only_these(clone: Clone, interpreters: dict[str, str]) -> dict[str, str]:
    folder = clone.root.parent / "bin"
    folder.mkdir()
    for tool in ("sh", "dirname", "readlink", "cat", "cksum"):
        (folder / tool).symlink_to(str(shutil.which(tool)))
    for name, before_probe in interpreters.items():
        interpreter(folder, name, before_probe)
    return {"PATH": str(folder), "RLZOO_PYTHON": ""}


@pytest.mark.parametrize(
    ("interpreters", "expected"),
    [
        ({}, "found no Python 3.11 to 3.14"),
        ({"python3": OLD, "python": "raise SystemExit(127)"}, "found no Python 3.11 to 3.14"),
        ({"python3": NEW}, "found no Python 3.11 to 3.14"),
        ({"python3.12": WITHOUT_VENV}, "python3.12 cannot make a virtual environment"),
    ],
)
def test_no_fitting_interpreter(clone: Clone, interpreters: dict[str, str], expected: str) -> None:
    code, stdout, stderr = clone.call("tools/rlzoo", **only_these(clone, interpreters))
    assert (code, stdout) == (69, "")
    assert stderr.count("\n") == 1
    assert stderr.startswith("rlzoo: ")
    assert expected in stderr
    assert not (clone.root / ".venv").exists()


def test_the_first_fitting_interpreter_is_taken(clone: Clone) -> None:
    env = only_these(clone, {"python3.13": OLD, "python3.12": WITHOUT_VENV, "python3": "pass"})
    assert clone.call("tools/rlzoo", **env)[0] == 0


def test_an_unfit_rlzoo_python_is_named(clone: Clone) -> None:
    code, _, stderr = clone.call("tools/rlzoo", RLZOO_PYTHON="/no/such python")
    assert code == 69
    assert "/no/such python" in stderr


def test_tools_test_runs_all_checks_and_then_pytest(clone: Clone) -> None:
    code, stdout, _ = clone.call("tools/test")
    checks = ["ruff check", "ruff format --check", "mypy"]
    assert code == 0
    assert "--editable .[dev] pids" in clone.notes("pip")[-1]
    assert clone.notes()[-4:] == [*checks, "pytest -n 2"]
    assert stdout.splitlines()[-1] == "pytest was here"

    code, _, stderr = clone.call("tools/test", RUFF_EXIT="1")
    assert code == 1
    assert clone.notes()[-3:] == checks  # all are seen at once, the tests then not run
    assert "'ruff check' 'ruff format --check'" in stderr


@pytest.mark.parametrize("runner", ["tools/test", ".ci/run"])
@pytest.mark.parametrize("status", ["1", "5"])  # 5: no test was run
def test_pytest_decides_the_exit_status(clone: Clone, runner: str, status: str) -> None:
    code, stdout, _ = clone.call(runner, PYTEST_EXIT=status)
    assert code == int(status)
    assert stdout.splitlines()[-1] == "pytest was here"


def test_arguments_go_to_pytest_alone(clone: Clone) -> None:
    clone.call("tools/test", "tests/unit/test_x.py", "-k", "a or b")
    assert clone.notes("ruff") == []
    assert clone.notes()[-1] == "pytest tests/unit/test_x.py -k a or b"
    clone.call("tools/test", "--slow", "-x")
    assert clone.notes("ruff") == []
    assert clone.notes()[-1] == "pytest -m slow -x"
