"""World Models from the command line: films of what it sees and dreams; more of a finished run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lamp import small_vision
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlzoo.algos.world_models.memory import MemoryPhase
from rlzoo.algos.world_models.vision import VisionPhase
from rlzoo.cli import show
from rlzoo.cli.main import main

TINY = ["algo=world_models", "env=gym", "env.id=lamp:Lamp-v0", "debug=tiny", "total_env_steps=150"]
TINY += ["env.max_episode_steps=9"]  # the lamp's own limit
SMALL = {"algo.controller.max_dream_steps": 12, "algo.controller.generations": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Iterator[Path]:
    """A folder with runs of world_models and of another algorithm; V stays small in the module."""
    folder = tmp_path_factory.mktemp("runs")
    short = [f"{name}={value}" for name, value in SMALL.items()]
    with small_vision():
        assert main([*TINY, *short, f"run_dir={folder}/wm"]) == 0
        assert main([*TINY, "algo.phases=[collect,vision]", f"run_dir={folder}/no_m"]) == 0
        words = ["algo=q_learning", "env=cliffwalking", "debug=tiny", "experiment=none"]
        assert main([*words, f"run_dir={folder}/tabular"]) == 0
        yield folder


@pytest.fixture(autouse=True)
def without_a_display(monkeypatch) -> None:
    monkeypatch.setattr(show, "has_display", lambda: False)


# Play --------------------------------------------------------------------------------------------


def film(path: Path) -> np.ndarray:
    """Frames of a GIF."""
    with Image.open(path) as image:
        frames = []
        for k in range(image.n_frames):
            image.seek(k)
            frames.append(np.asarray(image.convert("RGB")))
        return np.stack(frames)


def test_a_dream_needs_neither_frames_nor_latents(runs, tmp_path, capsys):
    run = tmp_path / "given"
    shutil.copytree(runs / "wm", run, ignore=shutil.ignore_patterns("frames", "latents"))
    words = [f"{run}", "checkpoint=last", "dream=true"]
    capsys.readouterr()
    assert main(["play", *words, f"file={tmp_path}/a.gif"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{tmp_path}/a.gif", "no return in the dream"]
    assert main(["play", *words, f"file={tmp_path}/same.gif"]) == 0
    assert main(["play", *words, f"file={tmp_path}/warm.gif", "temperature=5"]) == 0
    assert main(["play", *words, f"file={tmp_path}/other.gif", "episode=1"]) == 0
    first = (tmp_path / "a.gif").read_bytes()
    assert (tmp_path / "same.gif").read_bytes() == first
    assert (tmp_path / "warm.gif").read_bytes() != first
    assert (tmp_path / "other.gif").read_bytes() != first
    assert main(["export", str(runs / "wm"), f"to={tmp_path}/out", "checkpoint=last"]) == 0
    assert main(["play", f"{tmp_path}/out", "dream=true", f"file={tmp_path}/same.gif"]) == 0
    assert (tmp_path / "same.gif").read_bytes() == first
    assert film(tmp_path / "a.gif").shape[1:] == (256, 256, 3), "64 x 64 is too small for people"


def test_beside_the_real_frames(runs, tmp_path, capsys):
    """The first third is what the env shows; without a file the film is in the run's directory."""
    words = ["play", f"{runs}/wm", "checkpoint=last", "episode=3"]
    capsys.readouterr()
    assert main([*words, "beside=true", f"file={tmp_path}/beside.gif"]) == 0
    assert main([*words, f"file={tmp_path}/plain.gif"]) == 0
    _, beside_return, _, plain_return = capsys.readouterr().out.splitlines()
    assert beside_return == plain_return, "looking changes nothing"
    beside, plain = film(tmp_path / "beside.gif"), film(tmp_path / "plain.gif")
    assert len(beside) == len(plain) and beside.shape[1:] == (256, 3 * 256, 3)
    wanted = plain.repeat(4, axis=1).repeat(4, axis=2).astype(int)
    assert np.abs(beside[:, :, :256] - wanted).max() < 16, "but for the palette of a GIF"
    assert np.abs(beside[:, :, 256:512] - wanted).mean() > 16, "V has learnt next to nothing"
    expected = beside[:, :, 512:]
    assert (expected[1:] != expected[0]).any(), "M remembers what came before"
    assert main([*words, "beside=true"]) == 0
    path = Path(capsys.readouterr().out.splitlines()[0])
    assert path.parent == runs / "wm" / "videos"
    assert path.stem == "test_episode_3_last_beside"


def test_a_window_where_there_is_a_display(runs, monkeypatch, capsys):
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(show, "has_display", lambda: True)
    shown = []
    monkeypatch.setattr(
        pygame.display, "flip", lambda: shown.append(pygame.display.get_surface().get_size())
    )
    words = ["play", f"{runs}/wm", "checkpoint=last", "dream=true"]
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().out == "no return in the dream\n", "no film"
    assert shown == 13 * [(256, 256)]
    monkeypatch.setattr(show, "find_spec", lambda name: None)  # no pygame
    assert main(words) == 0
    assert "test_episode_0_last_dream" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["tabular", "dream=true"], "dream=true: this algorithm has no such pictures"),
        (["tabular", "beside=true"], "beside=true: this algorithm has no such pictures"),
        (["no_m", "dream=true"], "dream=true: needs what the phase 'encode' leaves"),
        (["wm", "dream=yes"], "dream: got 'yes', expected true or false"),
        (["wm", "dream=true", "beside=true"], "got beside=true and dream=true"),
        (["wm", "temperature=2"], "temperature: only dream=true uses it"),
        (["wm", "dream=true", "temperature=0"], "temperature: got '0', expected a number > 0"),
        (["wm", "dream=true", "temperature=inf"], "temperature: got 'inf', expected a number"),
        (["wm", "dream=true", "temperature=hot"], "temperature: got 'hot', expected a number"),
        (["wm", "draem=true"], "Did you mean 'dream'?"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_shown(runs, capsys, words, error):
    run, *options = words
    capsys.readouterr()
    assert main(["play", f"{runs / run}", *options]) == 64
    captured = capsys.readouterr()
    assert error in captured.err.splitlines()[-1] and not captured.out


# TensorBoard -------------------------------------------------------------------------------------


def events(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run / "tb"), size_guidance={"images": 0}).Reload()


@pytest.mark.parametrize(
    ("phase", "scalar", "images"),
    [
        ("collect", "rollout/return_mean", ["collect/frames"]),
        (
            "vision",
            "train/vae_reconstruction_error",
            ["vision/latent_walk", "vision/reconstructions", "vision/samples"],
        ),
        ("encode", "train/active_latents", ["encode/latents"]),
        ("memory", "train/rnn_nll", ["memory/dream", "memory/predictions"]),
        ("controller", "rollout/return_max", []),
    ],
)
def test_a_phase_alone_leaves_its_record_however_short_it_is(runs, tmp_path, phase, scalar, images):
    words = [f"from={runs}/wm", f"algo.phases=[{phase}]", "log_every=9999"]
    assert main([*words, f"run_dir={tmp_path}/run"]) == 0
    seen = events(tmp_path / "run")
    assert scalar in seen.Tags()["scalars"] and sorted(seen.Tags()["images"]) == images


def test_a_source_is_named_as_it_was_given_and_found_from_elsewhere(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(runs)
    assert main(["from=wm", "algo.phases=[vision]", f"run_dir={tmp_path}/run"]) == 0
    assert "source: wm\n" in (tmp_path / "run" / "config.yaml").read_text()
    monkeypatch.chdir(tmp_path)
    assert main(["resume=run", "algo.vision.epochs=2"]) == 0
    assert "finished" in (tmp_path / "run" / "status.json").read_text()


def test_settings_of_a_phase_that_is_over_are_refused(runs, tmp_path, capsys):
    shutil.copytree(runs / "wm", tmp_path / "run")
    before = (tmp_path / "run" / "config.yaml").read_text()
    words = [f"resume={tmp_path}/run", "algo.controller.generations=9"]
    assert main([*words, "algo.vision.lr=0.1", "algo.collect.episodes=9"]) == 64
    said = capsys.readouterr().err
    assert "resume: algo.collect.episodes, algo.vision.lr would change nothing any more" in said
    assert main([*words, "algo.controller.sigma0=0.2"]) == 64
    assert "algo.controller.sigma0=0.2 would change what the run is" in capsys.readouterr().err
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_an_agent_to_imitate_is_found_from_elsewhere(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(runs)
    words = ["from=wm", "algo.phases=[collect,encode,memory,imitate]", "total_env_steps=1"]
    assert main([*words, f"run_dir={tmp_path}/run"]) == 0, "ends before it comes to imitate"
    monkeypatch.chdir(tmp_path)
    assert main(["resume=run", "total_env_steps=9999"]) == 0
    assert "finished" in (tmp_path / "run" / "status.json").read_text()


def test_a_source_whose_env_had_other_arguments_is_pointed_out(runs, tmp_path, capsys):
    words = [f"from={runs}/wm", "algo.phases=[vision]", "env.kwargs={watts: 40}"]
    assert main([*words, f"run_dir={tmp_path}/run"]) == 0
    said = f"warning: env.kwargs.watts: 40 here, not set in {runs}/wm\n"
    assert said in capsys.readouterr().err
    again = [f"from={tmp_path}/run", "algo.phases=[vision]", f"run_dir={tmp_path}/again"]
    assert main(again) == 0
    assert "warning" not in capsys.readouterr().err


def test_at_a_terminal_each_phase_has_a_bar_that_comes_to_its_end(
    runs, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    words = [*TINY, "algo.controller.generations=2", "total_env_steps=9999"]
    assert main([*words, f"run_dir={tmp_path}/run"]) == 0
    lines = [line.split("\r")[-1] for line in capsys.readouterr().err.split("\n")]
    bars = [line.split("|")[0] for line in lines if "%|" in line]
    phases = ["collect", "vision", "encode", "memory", "controller"]
    assert bars == [f"{name}: 100%" for name in phases]


def test_all_phases_of_a_run_are_shown_at_their_ends(runs, tmp_path):
    words = [*TINY, "log_every=9999", "eval.every=9999"]
    assert main([*words, f"run_dir={tmp_path}/run"]) == 0
    seen = events(tmp_path / "run")
    steps = {name: [event.step for event in seen.Images(name)] for name in seen.Tags()["images"]}
    assert list(steps) == [
        "collect/frames",
        "vision/reconstructions",
        "vision/samples",
        "vision/latent_walk",
        "encode/latents",
        "memory/predictions",
        "memory/dream",
    ]
    assert all(len(at) == 1 for at in steps.values())
    collect, vision, memory = (
        steps[n] for n in ("collect/frames", "vision/samples", "memory/dream")
    )
    assert collect < vision < memory


def test_a_phase_is_shown_ever_more_seldom_and_at_its_end(runs, tmp_path):
    words = [*TINY, "log_every=1", "eval.every=9999"]
    words += ["algo.phases=[collect,vision]", "algo.vision.block_updates=1", "algo.vision.epochs=4"]
    assert main([*words, f"run_dir={tmp_path}/run"]) == 0
    seen = events(tmp_path / "run")
    end = [event.step for event in seen.Images("collect/frames")][-1]
    last = [event.step for event in seen.Scalars("train/vae_loss")][-1]
    shown = [event.step - end for event in seen.Images("vision/samples")]
    assert last - end > 8 and shown == [1, 3, 7, last - end]


# Test --------------------------------------------------------------------------------------------


def test_a_run_without_a_controller_is_not_tested(runs, tmp_path, capsys):
    """Playing episodes with a C that nobody searched would only take time."""
    words = [*TINY, "algo.phases=[collect,vision]", "eval.every=1"]
    assert main([*words, f"run_dir={tmp_path}/run"]) == 0
    captured = capsys.readouterr()
    assert "no test: its phases have made no policy" in captured.err and not captured.out
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test"] == {}
    assert not any(
        name.startswith(("eval/", "test/")) for row in metrics(tmp_path / "run") for name in row
    )
    assert main(["compare", f"{tmp_path}/run", f"file={tmp_path}/curves.png"]) == 0
    assert json.loads((runs / "wm" / "result.json").read_text())["test"]["last"]


def test_collection_over_processes_is_the_same(tmp_path):
    words = [*TINY, "algo.phases=[collect]", "env.num_envs=3"]
    assert main([*words, f"run_dir={tmp_path}/here"]) == 0
    assert main([*words, "env.backend=process", "env.workers=2", f"run_dir={tmp_path}/apart"]) == 0
    here, apart = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "frames").iterdir()}
        for name in ("here", "apart")
    )
    assert here == apart and len(here) > 2


@pytest.mark.parametrize("more", ["algo.controller.workers=2", "algo.controller.executor=ray"])
def test_workers_do_not_have_workers(tmp_path, capsys, more):
    assert main([*TINY, "env.backend=process", more, f"run_dir={tmp_path}/run"]) == 64
    assert "algo.controller.workers=0" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_told_before_hours_of_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    words = [*TINY, "algo.controller.executor=ray", f"run_dir={tmp_path}/run"]
    assert main(words) == 64
    assert "tools/setup.sh ray" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


# Faults ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("phase", "after"), [(VisionPhase, 2), (MemoryPhase, 1)])
def test_a_nan_in_v_or_m_leaves_the_last_good_checkpoint(runs, tmp_path, monkeypatch, phase, after):
    words = [*TINY, "save_every=1", "algo.vision.block_updates=1"]
    words += ["algo.memory.block_updates=1", "algo.vision.epochs=4", "algo.memory.epochs=4"]
    kept: dict[Path, bytes] = {}
    loss, run = phase.loss, tmp_path / "run"

    def fails_later(self, *minibatch):
        nan = float("nan") if self.updates == after else 1.0
        if self.updates == after:
            kept.update((p, p.read_bytes()) for p in run.rglob("step_*/*") if p.is_file())
        total, parts = loss(self, *minibatch)
        return nan * total, parts

    monkeypatch.setattr(phase, "loss", fails_later)
    assert main([*words, f"run_dir={run}"]) == 70
    assert "loss is not finite" in json.loads((run / "diagnostics.json").read_text())["error"]
    after_it = {path: path.read_bytes() for path in run.rglob("step_*/*") if path.is_file()}
    assert after_it == kept and kept
    monkeypatch.setattr(phase, "loss", loss)
    assert main([f"resume={run}"]) == 0


# Resume ------------------------------------------------------------------------------------------


def metrics(run: Path) -> list[dict[str, float]]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def test_a_finished_run_goes_on_with_more_generations_and_says_how(runs, tmp_path, capsys):
    words = [*TINY, "total_env_steps=9999", "logger.tensorboard=false"]
    few, many = "algo.controller.generations=1", "algo.controller.generations=3"
    assert main([*words, many, f"run_dir={tmp_path}/straight"]) == 0
    run = tmp_path / "run"
    assert main([*words, few, f"run_dir={run}"]) == 0

    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for more in ([], ["algo.vision.epochs=2"], ["total_env_steps=19999"]):
        capsys.readouterr()
        assert main([f"resume={run}", *more]) == 0
        captured = capsys.readouterr()
        assert captured.err.splitlines()[-1] == (
            f"rlzoo: {run} is finished; raise algo.controller.generations to go on, or train "
            f"vision or memory or controller further in a new run: rlzoo from={run} "
            "algo.phases=[vision] algo.continued=true"
        )
        assert not captured.out
        after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        assert {path.name for path in before if before[path] != after[path]} <= {"lock"}

    assert main([f"resume={run}", many]) == 0
    assert "changed algo.controller.generations: 1 -> 3" in capsys.readouterr().err
    assert metrics(run) == metrics(tmp_path / "straight")
