"""`rlzoo demos` from the command line."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import numpy as np
import pytest

from rlzoo.cli import demos
from rlzoo.cli.demos import OPTIONS
from rlzoo.cli.main import HELP, main
from rlzoo.core.algorithm import Reactive
from rlzoo.demonstrations.files import encode, load
from rlzoo.demonstrations.recording import record
from rlzoo.envs.make import EnvConfig

CARTPOLE = EnvConfig(id="CartPole-v1", restore="replay", max_episode_steps=60)


def balance(obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
    return (obs_B[:, 2] + 0.3 * obs_B[:, 3] > 0).astype(np.int64)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def file(folder) -> str:
    demonstrations = record(Reactive(balance), CARTPOLE, episodes=3, seed=0, source="")
    (folder / "d.npz").write_bytes(encode(demonstrations, "imitation"))
    return "d.npz"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("run") / "run"
    words = ["algo=dqn", "env=cartpole", "debug=tiny", "env.max_episode_steps=20", "seed=3"]
    assert main([*words, f"run_dir={path}", "logger=jsonl"]) == 0
    return str(path)


def failure(capsys, *words: str) -> tuple[int, str]:
    code = main(["demos", *words])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    return code, error.removeprefix("rlzoo: error: ")


def test_help_names_every_verb_and_every_verb_has_its_options():
    assert OPTIONS.keys() == demos.VERBS.keys()
    for verb in OPTIONS:
        assert f"demos {verb}" in HELP or f"| {verb} FILE" in HELP


def test_record_from_a_run(folder, trained, capsys):
    assert main(["demos", "record", trained, "episodes=4", "file=a/b/d.npz"]) == 0
    assert capsys.readouterr().out.startswith("a/b/d.npz: 4 trajectories, ")
    greedy = load("a/b/d.npz")
    assert greedy.num_trajectories == 4 and greedy.env_id == "CartPole-v1"
    assert [path.name for path in Path("a/b").iterdir()] == ["d.npz"]
    assert main(["demos", "record", trained, "episodes=4", "file=e.npz", "explore=true"]) == 0
    explored = load("e.npz")
    assert np.array_equal(explored.seed, greedy.seed)
    assert not np.array_equal(explored.action, greedy.action)
    assert main(["demos", "record", trained, "episodes=4", "file=s.npz", "seed=1"]) == 0
    assert not np.array_equal(load("s.npz").seed, greedy.seed)


def test_a_file_is_not_overwritten_unless_asked_to(file, trained, capsys, monkeypatch):
    before = Path(file).read_bytes()
    played = []
    with monkeypatch.context() as patch:  # undone alone: the folder stays
        patch.setattr(demos, "record", lambda *_, **__: played.append(1))
        code, error = failure(capsys, "record", trained, f"file={file}")
    assert (code, error) == (73, "d.npz: exists already (force=true replaces it)")
    assert Path(file).read_bytes() == before and not played
    assert main(["demos", "record", trained, "episodes=1", "file=d.npz", "force=true"]) == 0
    assert load(file).num_trajectories == 1


def test_an_interrupted_recording_leaves_nothing(folder, trained, capsys, monkeypatch):
    real = demos.record

    def interrupted(*arguments, played, **options):
        def second(return_: float) -> None:
            played(return_)
            if len(returns) == 1:
                raise KeyboardInterrupt
            returns.append(return_)

        returns: list[float] = []
        return real(*arguments, played=second, **options)

    monkeypatch.setattr(demos, "record", interrupted)
    code, error = failure(capsys, "record", trained, "file=d.npz", "episodes=5")
    assert code == 130 and "stopped after" in error and "nothing was written" in error
    assert os.listdir() == []
    monkeypatch.setattr(demos, "record", real)  # control
    assert main(["demos", "record", trained, "file=d.npz", "episodes=2"]) == 0
    assert os.listdir() == ["d.npz"]


def test_show(file, capsys):
    assert main(["demos", "show", file]) == 0
    lines = capsys.readouterr().out.splitlines()
    demonstrations = load(file)
    steps = demonstrations.num_steps
    assert lines[0] == f"d.npz: 3 trajectories, {steps} steps of CartPole-v1"
    assert lines[1] == "0 terminated, 3 ended by a time limit or cut off"
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert [float(x) for x in rows["return"]] == [60, 0, 60, 60, 60]
    low, high = demonstrations.obs[:, 2].min(), demonstrations.obs[:, 2].max()
    assert [float(x) for x in rows["obs[2]"][1:]] == pytest.approx([low, high], rel=1e-3)
    assert rows["action"][1:] == ["0", "1"]


def test_check(file, capsys, monkeypatch):
    words = ["demos", "check", file, "env=cartpole", "env.max_episode_steps=60"]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[-1] == "d.npz fits CartPole-v1"
    rows = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line}
    assert rows["same"] == ["obs", "60", "60", "60"] and rows["replayed"] == ["60", "60", "60"]
    members = dict(np.load(file))
    members["obs"] = members["obs"] + np.array([0, 0, 1.25, 0], np.float32)
    np.savez(file, **members)
    assert main(words) == 65
    output, error = capsys.readouterr()
    assert "rlzoo: WARNING: obs[2] alone tells the demonstrations from the env" in error
    assert output.splitlines()[-1] == "d.npz does not fit CartPole-v1"
    code, error = failure(capsys, "check", file, "env=acrobot")
    assert code == 65 and error == "d.npz: env_id: got CartPole-v1, expected Acrobot-v1"


def test_play_films_the_recorded_episode(file, capsys):
    from PIL import Image

    words = ["demos", "play", file, "env=cartpole", "episode=1"]
    assert main([*words, "file=film.gif"]) == 0
    assert capsys.readouterr().out == "film.gif\nreturn 60 in 60 steps; recorded: 60 in 60\n"
    assert Image.open("film.gif").n_frames > 10
    code, error = failure(capsys, "play", file, "env=cartpole", "episode=3")
    assert (code, error) == (64, "episode: got 3, expected 0 to 2")


def test_convert_there_and_back(file):
    before = load(file)
    for target, format in (("b.npz", "baselines"), ("f.npz", "flat"), ("i.npz", "imitation")):
        assert main(["demos", "convert", file, f"file={target}", f"format={format}"]) == 0
        after = load(target)
        for name in ("obs", "action", "reward", "start", "terminated", "seed"):
            assert np.array_equal(getattr(before, name), getattr(after, name))
    assert Path("i.npz").read_bytes() == Path(file).read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["rcord"], 64, "demos: got 'rcord', expected one of record, show, .* mean 'record'"),
        ([], 64, "demos: got '', expected one of"),
        (["show"], 64, "demos show: got 0 paths, expected a file of demonstrations"),
        (["show", "a", "b"], 64, "demos show: got 2 paths"),
        (["show", "no.npz"], 65, "no.npz: no such file"),
        (["show", "d.npz", "episode=1"], 64, "demos show: unknown option 'episode=1'"),
        (["record", "file=x.npz"], 64, "demos record: expected one run directory, or expert="),
        (["record", ".", "expert=X", "file=x.npz"], 64, "demos record: expected one run directory"),
        (["record", ".", "file=x.npz", "episodes=0"], 64, "episodes: got '0', expected a whole"),
        (["record", ".", "file=x.npz", "seed=-1"], 64, "seed: got '-1', expected a whole number"),
        (["record", ".", "file=x.npz", "format=csv"], 64, "format: got 'csv', expected one of im"),
        (["record", "."], 64, "file: got nothing, expected the file to write"),
        (["record", ".", "file=."], 73, r"\.: exists already"),
        (["record", ".", "file=.", "force=true"], 73, r"\.: is a folder, remove it first"),
        (["record", ".", "file=x.npz", "force=yes"], 0, ""),
        (["check", "d.npz"], 64, "demos check: expected an env, such as env=hopper_bullet"),
        (["check", "d.npz", "env=cartpol"], 64, "unknown env 'cartpol'. Did you mean 'cartpole'?"),
        (["play", "d.npz", "env=cartpole", "episode=x"], 64, "episode: got 'x', expected a whole"),
        (["convert", "d.npz"], 64, "file: got nothing, expected the file to write"),
        (["convert", "d.npz", "file=m-v0", "format=minari"], 64, "format=minari: expected an env"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words(file, capsys, words, code, error):
    if "format=minari" in words:
        pytest.importorskip("minari")
    if "force=yes" in words:
        Path("x.npz").touch()
        code, error = 64, "force: got 'yes', expected true or false"
    got, line = failure(capsys, *words)
    assert got == code
    assert re.match(error, line), line


@pytest.mark.skipif(importlib.util.find_spec("pybullet_envs") is None, reason="needs pybullet")
def test_record_from_an_expert(folder, capsys):
    words = ["demos", "record", "expert=HopperBulletEnv-v0", "episodes=1", "file=h.npz"]
    assert main(words) == 0
    assert load("h.npz").env_id == "HopperBulletEnv-v0"
    code, error = failure(capsys, *words[1:], "env=walker2d_bullet", "force=true")
    assert code == 64
    assert error.startswith("expert: HopperBulletEnv-v0 takes 15 observations to 3 actions, got")
    code, error = failure(capsys, *words[1:2], "expert=HoperBulletEnv-v0", "file=x.npz")
    assert code == 64 and "Did you mean 'HopperBulletEnv-v0'?" in error
