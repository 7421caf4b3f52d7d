"""However a run ends: status and exit code say it, and the first fault is the one named."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import pytest
from gymnasium.envs.toy_text import CliffWalkingEnv

import rlzoo
from rlzoo.algos.tabular import QLearning
from rlzoo.cli.main import main
from rlzoo.core.types import EnvError, NonFiniteError, RlzooError, StorageError
from rlzoo.io import checkpoint, files
from rlzoo.io.run_dir import RunDir
from rlzoo.run.run import Run
from rlzoo.study.compare import read_run


class Meddling(CliffWalkingEnv):
    """Does something in its `at`-th step in this process."""

    taken: ClassVar[int] = 0
    at: ClassVar[int] = 0
    do: ClassVar[Callable[[], object]] = print

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        Meddling.taken += 1
        if Meddling.taken == Meddling.at:
            Meddling.do()
        return super().step(action)


gymnasium.register("Meddling-v0", Meddling, max_episode_steps=50)
TRAINING, TEST = 200, 600  # steps of the process in which it trains, and tests
RUN = [
    *["algo=q_learning", "env=gym", f"env.id={__name__}:Meddling-v0", "env.restore=replay"],
    *["logger=jsonl", "log_every=64", "save_every=128", "eval.every=9999", "total_env_steps=512"],
    *["eval.test_episodes=2", "run_dir=run"],
]
Meddle = Callable[[int, Callable[[], object]], None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def meddle(monkeypatch: pytest.MonkeyPatch) -> Meddle:
    def plan(at: int, do: Callable[[], object]) -> None:
        monkeypatch.setattr(Meddling, "taken", 0)
        monkeypatch.setattr(Meddling, "at", at)
        monkeypatch.setattr(Meddling, "do", staticmethod(do))

    return plan


def status() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("run/status.json").read_text())
    return found


def fails(text: str = "not my day") -> Callable[[], object]:
    def fail() -> None:
        raise ZeroDivisionError(text)

    return fail


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.splitlines()
    [line] = [line for line in lines if line.startswith("rlzoo: error: ")]
    assert line == lines[-1]
    assert not [line for line in lines if "Traceback" in line]
    return line


def test_a_run_whose_final_test_fails_has_failed(folder, meddle, capsys) -> None:
    meddle(TEST, fails())
    assert main(RUN) == 70
    assert "ZeroDivisionError: not my day" in error_line(capsys)
    assert status()["status"] == "failed"
    assert "not my day" in status()["error"]
    assert not Path("run/result.json").exists()
    assert read_run(Path("run")).failure

    meddle(0, print)
    assert main(["resume=run"]) == 0
    assert status()["status"] == "finished"
    assert Path("run/result.json").exists()
    assert not read_run(Path("run")).failure


def test_a_result_that_cannot_be_written_is_no_finished_run(folder, capsys, monkeypatch) -> None:
    write = files.write

    def full(path: Path, data: Any) -> None:
        if "result.json" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(files, "write", full)
    assert main(RUN) == 74
    assert "run/result.json: cannot be written: No space left" in error_line(capsys)
    assert status()["status"] == "failed"


EXITS = [lambda: sys.exit(0), lambda: sys.exit(), lambda: sys.exit("goodbye")]


@pytest.mark.parametrize("do", EXITS, ids=["0", "none", "text"])
@pytest.mark.parametrize("at", [TRAINING, TEST])
def test_an_env_that_exits_has_failed(folder, meddle, capsys, do, at: int) -> None:
    meddle(at, do)
    assert main(RUN) == 70
    assert "SystemExit" in error_line(capsys)
    assert status()["status"] == "failed"


def test_an_algorithm_that_exits_has_failed(folder, capsys, monkeypatch) -> None:
    monkeypatch.setattr(QLearning, "step", lambda self: sys.exit(0))
    assert main(RUN) == 70
    assert "training was ended by SystemExit: 0" in error_line(capsys)
    assert status()["status"] == "failed"
    with pytest.raises(RlzooError, match="SystemExit: 0"):
        rlzoo.train(*RUN[:-1], run_dir="another")


def test_an_algorithm_with_a_mistake_has_failed(folder, monkeypatch) -> None:
    """Its author needs the traceback."""
    monkeypatch.setattr(QLearning, "step", lambda self: fails("a bug")())
    with pytest.raises(ZeroDivisionError):
        main(RUN)
    assert (status()["status"], status()["error"]) == ("failed", "ZeroDivisionError: a bug")


@pytest.mark.parametrize("text", ["import sys\nsys.exit(0)", "1 / 0", "import nothing_of_the_kind"])
def test_a_module_of_an_env_that_fails_is_one_line(folder, capsys, monkeypatch, text: str) -> None:
    Path("module_that_fails.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    assert main([*RUN, "env.id=module_that_fails:Env-v0"]) == 64
    assert "plugins: cannot import 'module_that_fails': " in error_line(capsys)
    assert not Path("run").exists()


def test_any_other_code_that_exits_is_an_error(folder, capsys, monkeypatch) -> None:
    monkeypatch.setattr("rlzoo.cli.main.configuration.groups", lambda: sys.exit(0))
    assert main(["list"]) == 70
    assert error_line(capsys) == "rlzoo: error: ended by SystemExit: 0"


def close_fails(self: object) -> None:
    raise EnvError("env 0: close: the arm is stuck")


@pytest.mark.parametrize("broken", ["rlzoo.envs.sync.SyncVectorEnv.close", "algorithm"])
def test_what_cannot_be_closed_is_a_warning_at_the_end(folder, capsys, monkeypatch, broken) -> None:
    if broken == "algorithm":
        monkeypatch.setattr(QLearning, "close", lambda self: fails("stuck")())
    else:
        monkeypatch.setattr(broken, close_fails)
    assert main(RUN) == 0
    assert status()["status"] == "finished"
    assert "rlzoo: warning: " in (errors := capsys.readouterr().err)
    assert "close: " in errors and "stuck" in errors


def test_what_cannot_be_closed_hides_no_fault(folder, capsys, meddle, monkeypatch) -> None:
    closed = []
    monkeypatch.setattr("rlzoo.envs.sync.SyncVectorEnv.close", close_fails)
    monkeypatch.setattr(QLearning, "close", lambda self: closed.append(self))
    meddle(TRAINING, fails())
    assert main(RUN) == 70
    assert "not my day" in error_line(capsys)
    assert status()["status"] == "failed" and "not my day" in status()["error"]
    assert closed, "the algorithm, although its env could not be"


def test_an_env_that_hangs_as_it_is_closed_has_its_status_written(folder, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(Run, "release", lambda self: seen.append(status()["status"]))
    assert main(RUN) == 0
    assert seen == ["finished"]


def test_diagnostics_that_cannot_be_written_hide_no_fault(folder, capsys, monkeypatch) -> None:
    def nan(self: object) -> None:
        raise NonFiniteError("loss is nan")

    def full(self: object, name: str, content: object) -> None:
        if name == "diagnostics.json":
            raise StorageError(f"{name}: cannot be written: No space left on device")
        write_json(self, name, content)

    monkeypatch.setattr(QLearning, "step", nan)
    assert main([*RUN[:-1], "run_dir=control"]) == 70
    assert Path("control/diagnostics.json").exists()
    capsys.readouterr()
    write_json = RunDir.write_json
    monkeypatch.setattr(RunDir, "write_json", full)
    assert main(RUN) == 70
    assert error_line(capsys) == "rlzoo: error: loss is nan"


# --- the run directory ---------------------------------------------------------------------------


def rename() -> None:
    Path("run").rename("elsewhere")


def delete() -> None:
    shutil.rmtree("run")


def replace() -> None:
    rename()
    shutil.copytree("elsewhere", "run")


@pytest.mark.parametrize("do", [rename, delete, replace])
@pytest.mark.parametrize("at", [5, TRAINING, TEST])
def test_a_run_directory_that_is_gone_ends_the_run(folder, meddle, capsys, do, at: int) -> None:
    meddle(at, do)
    assert main(RUN) == 74
    line = error_line(capsys)
    assert line.startswith("rlzoo: error: run") and "status.json" not in line
    if at != TEST:
        assert line == (
            "rlzoo: error: run: is gone: it was renamed or deleted while the run went on"
        )
        assert Meddling.taken == 128 * (1 + at // 128), "the first save finds out"
    assert Path("run").exists() == (do is replace), "nothing is made in its place"
    if do is replace:  # of somebody else, and left alone
        saved = [[*Path(name).glob("checkpoints/*/*")] for name in ("run", "elsewhere")]
        assert len(saved[0]) == len(saved[1])
        assert status()["status"] == "running"


def test_the_status_is_right_on_a_full_disk(folder, meddle, monkeypatch, capsys) -> None:
    def full(path: Path, data: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    meddle(TRAINING, lambda: monkeypatch.setattr(files, "write", full))
    assert main(RUN) == 74
    assert "step_000000256: the checkpoint cannot be written: No space left" in error_line(capsys)
    assert status()["status"] == "failed"
    assert "No space left" in status()["error"]
    assert checkpoint.reached_step(Path("run/checkpoints")) == 128
    assert not [path for path in Path("run").rglob("*") if files.TEMPORARY in path.name]
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert main(["resume=run"]) == 0
    assert status()["status"] == "finished"
