"""The run directory: claimed once, found again, and honest about what ran."""

import errno
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlzoo.core.types import CantCreateError, DataError, StorageError, UsageError
from rlzoo.io.provenance import git_state
from rlzoo.io.run_dir import RUNS, RunDir, latest, provenance

NOBODY = 65534


def started_run(root: Path, env: str = "cartpole") -> RunDir:
    run = RunDir.claim(root, "dqn", env, 0)
    run.write_text("config.yaml", "algo: dqn\n")
    return run


def one_line(error: Exception) -> bool:
    return "\n" not in str(error)


# --- claiming --------------------------------------------------------------------------------


def test_a_claim_makes_a_directory_of_its_own(tmp_path):
    first, second = (RunDir.claim(tmp_path / "new" / "root", "dqn", "cartpole", 7) for _ in "ab")
    assert first.path != second.path
    assert first.path.parent == tmp_path / "new" / "root" / "dqn-cartpole"
    assert re.fullmatch(r"\d{8}T\d{6}Z-s7-[0-9a-f]{6}", first.path.name)
    assert first.read_json("status.json")["status"] == "running"
    assert first.checkpoints == first.path / "checkpoints"
    assert first.metrics.name == "metrics.jsonl"


@pytest.mark.parametrize(
    ("env", "folder"),
    [
        ("ALE/Pong-v5", "q-ALE-Pong-v5"),
        ("my_pkg:Env=1,a b", "q-my_pkg-Env-1-a-b"),
        ("../../etc", "q-etc"),
        ("", "q-unnamed"),
    ],
)
def test_names_are_plain(tmp_path, env, folder):
    path = RunDir.claim(tmp_path, "q", env, 0).path
    assert path.parent == tmp_path / folder
    assert not set(":=, ") & set(str(path.relative_to(tmp_path)))


def test_eight_processes_in_one_second_get_eight_directories(tmp_path):
    code = """
sys.stdin.readline()
print(RunDir.claim(Path(sys.argv[1]), "dqn", "cartpole", 0).path)
"""
    go, release = os.pipe()
    head = "import sys\nfrom pathlib import Path\nfrom rlzoo.io.run_dir import RunDir\n"
    command = [sys.executable, "-c", head + code, str(tmp_path)]
    jobs = [
        subprocess.Popen(command, stdin=go, stdout=subprocess.PIPE, text=True) for _ in range(8)
    ]
    os.write(release, b"\n" * 8)
    os.close(release)
    paths = {job.communicate(timeout=300)[0].strip() for job in jobs}
    os.close(go)
    assert len(paths) == 8 and all(Path(path, "status.json").exists() for path in paths)


def test_a_name_that_is_taken_is_not_shared(tmp_path, monkeypatch):
    tokens = iter(["aaaaaa", "11111111", "aaaaaa", "aaaaaa", "bbbbbb", "22222222"])
    monkeypatch.setattr("secrets.token_hex", lambda n: next(tokens))
    monkeypatch.setattr("rlzoo.io.run_dir.datetime", FixedTime)
    first, second = (RunDir.claim(tmp_path, "dqn", "cartpole", 0) for _ in "ab")
    assert first.path.name.endswith("aaaaaa") and second.path.name.endswith("bbbbbb")


class FixedTime:
    @staticmethod
    def now(zone):
        from datetime import datetime

        return datetime(2026, 1, 2, 3, 4, 5, tzinfo=zone)


def test_claims_at_once_by_threads(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        runs = list(pool.map(lambda seed: RunDir.claim(tmp_path, "a", "b", 0), range(64)))
    assert len({run.path for run in runs}) == 64


def test_claim_at_takes_exactly_that_directory_once(tmp_path):
    path = tmp_path / "sweeps" / "lr" / "0"
    assert RunDir.claim_at(path).path == path
    RunDir.claim_at(path).write_text("config.yaml", "seed: 0")  # the first one never began
    with pytest.raises(CantCreateError, match="already holds a run") as caught:
        RunDir.claim_at(path)
    assert caught.value.exit_code == 73 and one_line(caught.value)


def test_a_file_in_the_way_is_73(tmp_path):
    (tmp_path / "file").write_text("mine")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        for claim in (
            lambda root=root: RunDir.claim(root, "dqn", "cartpole", 0),
            lambda root=root: RunDir.claim_at(root),
            lambda root=root: RunDir.check_writable(root),
        ):
            with pytest.raises(CantCreateError, match=re.escape(str(root))) as caught:
                claim()
            assert caught.value.exit_code == 73 and one_line(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "claim",
    [
        lambda root: RunDir.claim(root / "deep" / "er", "dqn", "cartpole", 0),
        lambda root: RunDir.claim_at(root / "0"),
        lambda root: RunDir.claim_at(root),
        lambda root: RunDir.check_writable(root / "deep" / "er"),
        lambda root: RunDir.check_writable(root),
    ],
)
@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_directory_that_cannot_be_written_is_73(tmp_path, mode, claim):
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(mode)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.getuid() == 0:  # to whom nothing is closed
                os.chdir(tmp_path)
                tmp_path.chmod(0o755)
                root = Path("root")
                os.setresuid(NOBODY, NOBODY, NOBODY)
            claim(root)
        except CantCreateError as error:
            code = error.exit_code if one_line(error) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    root.chmod(0o755)
    assert os.waitstatus_to_exitcode(status) == 73
    assert not list(root.iterdir())


def test_check_writable_creates_nothing(tmp_path, monkeypatch):
    RunDir.check_writable(tmp_path / "a" / "b")
    monkeypatch.chdir(tmp_path)
    RunDir.check_writable(Path("outputs"))
    assert not list(tmp_path.iterdir())


def fill_the_disk(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", refuse)


def test_a_disk_full_at_the_claim_leaves_nothing(tmp_path, monkeypatch):
    fill_the_disk(monkeypatch)
    for claim in (
        lambda: RunDir.claim(tmp_path, "dqn", "cartpole", 0),
        lambda: RunDir.claim_at(tmp_path / "sweep" / "0"),
    ):
        with pytest.raises(StorageError, match="No space left") as caught:
            claim()
        assert caught.value.exit_code == 74 and one_line(caught.value)
        assert not list(tmp_path.iterdir())


def test_a_disk_full_while_preparing_takes_the_claim_back(tmp_path, monkeypatch):
    other = started_run(tmp_path)
    run = RunDir.claim(tmp_path, "dqn", "cartpole", 0)
    full = pytest.raises(StorageError, match=r"config\.yaml.*No space left")
    with full, run.lock(), run.preparing():
        run.write_text("overrides.yaml", "[]")
        fill_the_disk(monkeypatch)
        run.write_text("config.yaml", "algo: dqn\n")
    assert [path.name for path in other.path.parent.iterdir()] == [other.path.name]


def test_preparing_keeps_what_was_there_before(tmp_path):
    path = tmp_path / "0"
    path.mkdir()
    (path / "job.log").write_text("from the launcher")
    run = RunDir.claim_at(path)
    with pytest.raises(KeyboardInterrupt), run.preparing():
        (run.path / "tb").mkdir()
        (run.path / "tb" / "events").write_text("")
        raise KeyboardInterrupt
    assert [p.name for p in path.iterdir()] == ["job.log"]


def test_preparing_that_succeeds_keeps_all_and_cannot_undo_an_opened_run(tmp_path):
    run = RunDir.claim(tmp_path, "dqn", "cartpole", 0)
    with run.preparing():
        run.write_text("config.yaml", "algo: dqn\n")
    opened = RunDir.open(run.path)
    with pytest.raises(AssertionError), opened.preparing():
        raise RuntimeError
    assert (run.path / "config.yaml").read_text() == "algo: dqn\n"


# --- finding ---------------------------------------------------------------------------------


def test_open_names_the_nearest_run(tmp_path):
    run = started_run(tmp_path)
    assert RunDir.open(run.path).path == run.path
    near = run.path.parent / (run.path.name[:-1] + "x")
    with pytest.raises(UsageError, match=f"Did you mean '{run.path.name}'") as caught:
        RunDir.open(near)
    assert caught.value.exit_code == 64 and one_line(caught.value)
    for nothing in (tmp_path, tmp_path / "absent" / "er", run.path / "config.yaml"):
        with pytest.raises(UsageError, match="not a run directory"):
            RunDir.open(nothing)


def test_open_and_latest_pass_over_a_claim_whose_run_never_began(tmp_path):
    run = started_run(tmp_path / RUNS)
    empty = RunDir.claim(tmp_path / RUNS, "dqn", "cartpole", 0)
    assert latest(tmp_path) == run.path
    with pytest.raises(UsageError, match=r"no config\.yaml"):
        RunDir.open(empty.path)


def test_latest_goes_by_the_start_not_by_names_or_file_times(tmp_path):
    with pytest.raises(UsageError, match="no run directories"):
        latest(tmp_path / "absent")
    first = started_run(tmp_path / RUNS, "zzz")
    job = RunDir.claim_at(tmp_path / "sweeps" / "lr" / "0")
    job.write_text("config.yaml", "")
    assert latest(tmp_path) == job.path
    last = started_run(tmp_path / RUNS, "aaa")
    first.set_status("finished", env_steps=3)
    os.utime(first.path / "status.json", (2**31, 2**31))
    assert latest(tmp_path) == last.path


@pytest.mark.parametrize("text", ["{", "[]", '{"started": 3}'])
def test_latest_passes_over_a_broken_status_and_says_so(tmp_path, text, capsys):
    sound = started_run(tmp_path / RUNS)
    broken = started_run(tmp_path / RUNS)
    (broken.path / "status.json").write_text(text)
    assert latest(tmp_path) == sound.path
    assert f"{broken.path.name}/status.json" in capsys.readouterr().err


def test_latest_is_never_a_shipped_agent(tmp_path):
    own = started_run(tmp_path / RUNS)
    for folder in ("pretrained", "demos"):
        job = RunDir.claim_at(tmp_path / folder / "a" / "b")
        job.write_text("config.yaml", "")
    assert latest(tmp_path) == own.path


# --- files -----------------------------------------------------------------------------------


def test_files_are_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    run = started_run(tmp_path)
    run.write_json("result.json", {"mean": 1.5})

    def refuse(_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StorageError, match=r"result\.json: cannot be written: Input/output"):
            run.write_json("result.json", {"mean": 2.5})
    assert run.read_json("result.json") == {"mean": 1.5}
    assert sorted(p.name for p in run.path.iterdir()) == [
        "config.yaml",
        "result.json",
        "status.json",
    ]
    with pytest.raises(DataError, match=r"absent\.json: missing"):
        run.read_json("absent.json")


def test_status_keeps_the_start(tmp_path):
    run = started_run(tmp_path)
    before = run.read_json("status.json")
    time.sleep(0.001)
    run.set_status("stopped", env_steps=12)
    after = run.read_json("status.json")
    assert after["status"] == "stopped" and after["env_steps"] == 12
    assert after["started"] == before["started"] == run.started()
    assert after["updated"] > before["updated"]


# --- provenance ------------------------------------------------------------------------------


def test_provenance_says_what_ran_and_keeps_secrets(monkeypatch):
    monkeypatch.setenv("RLZOO_TEST_TOKEN", "hunter2")
    monkeypatch.setattr(sys, "argv", ["rlzoo", "algo=dqn", "name=two words"])
    record = provenance()
    assert record["command"] == "rlzoo algo=dqn 'name=two words'"
    assert {"python", "rlzoo", "torch", "numpy", "gymnasium", "hydra-core"} == set(
        record["versions"]
    )
    assert record["versions"]["numpy"] and record["hardware"]["cores"] >= 1
    assert record["hardware"]["memory_bytes"] > 1 << 20
    assert "hunter2" not in json.dumps(record)


def test_run_directories_do_not_import_torch():
    code = """
import sys
from rlzoo.io import checkpoint, run_dir
run_dir.provenance()
print(any(module in sys.modules for module in ("torch", "gymnasium", "hydra")))
"""
    job = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert job.stdout.strip() == "False"


def test_git_state_is_that_of_the_repository_that_tracks_the_code(tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    code = tmp_path / "code.py"
    code.write_text("1")
    assert git_state(code) is None  # no repository
    git("init")
    (tmp_path / "other.py").write_text("")
    git("add", "other.py")
    git("commit", "-m", "somebody else's")
    assert git_state(code) is None  # a repository that does not track it
    git("add", "code.py")
    git("commit", "-m", "ours")
    assert git_state(code) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    code.write_text("2")
    state = git_state(code)
    assert state is not None and state["dirty"]
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert git_state(code) is None
