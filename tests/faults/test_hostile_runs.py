"""A foreign run directory, opened with every verb: no code of it runs, nothing outside is touched.

`hostile_runs` makes them. Each verb ends at once: it works, or says in one line why not.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hostile_runs import COMPARED, HOSTILE, Gift

import rlzoo
from rlzoo.cli.main import main
from rlzoo.core.types import RlzooError
from rlzoo.io import checkpoint, regular
from rlzoo.run import config as configuration
from rlzoo.run import session
from rlzoo.run.config import RunConfig
from rlzoo.run.evaluate import never
from rlzoo.study.compare import compare

TABULAR = [
    *("algo=q_learning", "env=cliffwalking", "experiment=none", "debug=tiny"),
    *("env.max_episode_steps=3", "total_env_steps=40", "env.restore=replay"),
    *("eval.episodes=1", "eval.test_episodes=1", "logger.videos=false"),
]
LAMP = ["algo=world_models", "env=gym", "env.id=lamp:Lamp-v0", "env.restore=replay", "debug=tiny"]
CPU_SECONDS, MEGABYTES = 2, 200


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "run"
    assert main([*TABULAR, f"run_dir={path}"]) == 0
    return path


@pytest.fixture
def gift(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gift]:
    """A copy of a sound run below the working directory, beside a module that nobody has named."""
    here, outside = tmp_path / "here", tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("precious\n" * 100)
    shutil.copytree(sound, here / "gifts" / "run")
    gift = Gift(here / "gifts" / "run", "gifts.run", outside)
    (here / "stranger.py").write_text(gift.song)
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(regular, "MAX_ENTRIES", 100)
    monkeypatch.setattr(session, "provenance", dict)  # asks git, three times a run
    yield gift
    for name in [n for n in sys.modules if n.split(".")[0] in ("gifts", "stranger", "this")]:
        del sys.modules[name]


VERBS = {
    "evaluate": ["evaluate", "RUN", "episodes=1"],
    "play": ["play", "RUN", "file=film.gif"],
    "show": ["resume=RUN", "--cfg", "job"],
    "export": ["export", "RUN", "to=exported"],
    "record": ["demos", "record", "RUN", "file=demos.npz", "episodes=1"],
    "compare": ["compare", "RUN", "file=curves.png"],
    "from": ["from=RUN"],
    "resume": ["resume=RUN"],
}
IN_PYTHON = ("load", "source", "imitates")
PICTURES = {"play", "compare"}  # half a second each: once is enough


def opened(verb: str, run: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code of a verb and what it said; checked for all that must always hold."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
    before, start = memory("VmRSS"), time.process_time()
    if verb in IN_PYTHON:
        code, said = 0, ""
        try:
            if verb == "load":
                rlzoo.load(run).policy()
            else:
                session.begin(build_on(run, verb), [], never)
        except RlzooError as error:
            code, said = error.exit_code, f"error: {error}"
    else:
        code = main([word.replace("RUN", str(run)) for word in VERBS[verb]])
        captured = capfd.readouterr()
        said = captured.err + captured.out
    assert time.process_time() - start < CPU_SECONDS, verb
    assert memory("VmHWM") - before < MEGABYTES, verb
    assert "Traceback" not in said
    assert code in (0, 64, 65), (verb, said)
    assert len(re.findall("error: ", said)) == (code != 0), (verb, said)
    assert all(len(line) < 1500 for line in said.splitlines()), verb
    return code, said


@functools.cache
def _lamp_config() -> RunConfig:
    return configuration.compose([*LAMP, "algo.source=x", "algo.phases=[vision]"])


def build_on(run: Path, how: str) -> RunConfig:
    """A run of world_models with `run` as its algo.source, or as the agent that it imitates."""
    config = _lamp_config()
    algo = replace(config.algo, source=str(run))
    return replace(config, algo=replace(algo, phases=("imitate",)) if how == "imitates" else algo)


def memory(name: str) -> float:
    """A line of /proc/self/status, in MB."""
    text = Path("/proc/self/status").read_text()
    return int(re.findall(rf"{name}:\s+(\d+) kB", text)[0]) / 1024


def contents(folder: Path) -> dict[str, object]:
    """All files below a folder, with links and FIFOs unopened."""
    return {
        str(path.relative_to(folder)): (
            path.read_bytes() if path.is_file() and path.stat().st_size < 1 << 20 else None,
            path.lstat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_run_directory(name: str, gift: Gift, capfd: pytest.CaptureFixture[str]) -> None:
    change, says = HOSTILE[name]
    change(gift)
    before = contents(gift.outside)
    verbs = [verb for verb in (*IN_PYTHON, *VERBS) if verb not in PICTURES]
    codes, said = {}, {}
    if name in COMPARED:  # to the others nothing is wrong with it
        verbs = ["evaluate", "export", "resume", "compare"]
    for verb in verbs:
        codes[verb], said[verb] = opened(verb, gift.run, capfd)
        assert contents(gift.outside) == before, f"{verb} has touched what is outside"
    assert not {"stranger", "antigravity", "gifts.run.evil"} & sys.modules.keys()
    if says is None:
        assert codes["evaluate"] == 0, said["evaluate"]
    else:
        assert re.search(says, "\n".join(said.values())), said
    if name in COMPARED:
        assert re.search(rf"FAILED .*({COMPARED[name]})", said["compare"]), said["compare"]


def test_there_are_many() -> None:
    assert len(HOSTILE) >= 60


def test_control_a_sound_run_opens_with_every_verb(
    gift: Gift, capfd: pytest.CaptureFixture[str]
) -> None:
    other = {
        "from": (64, "unknown setting 'algo.source'"),  # only world_models has that
        "source": (65, "not a run of world_models"),
        "imitates": (64, "expected a run of world_models"),
    }
    for verb in (*VERBS, *IN_PYTHON):
        expected, says = other.get(verb, (0, ""))
        code, said = opened(verb, gift.run, capfd)
        assert code == expected and says in said, (verb, said)


def test_control_the_song_is_heard_where_the_user_names_the_module(gift: Gift) -> None:
    change, _ = HOSTILE["plugin_beside"]
    change(gift)
    assert main(["evaluate", str(gift.run), "episodes=1"]) == 64
    assert not (gift.outside / "canary").exists()
    assert main(["evaluate", str(gift.run), "episodes=1", "plugins=[stranger]"]) == 0
    assert (gift.outside / "canary").exists()


@pytest.mark.parametrize("name", ["plugin_inside", "plugin_is_a_package_inside"])
def test_nothing_inside_a_run_directory_is_imported_even_if_it_is_named(
    name: str, gift: Gift, capfd: pytest.CaptureFixture[str]
) -> None:
    change, _ = HOSTILE[name]
    change(gift)
    words = ["evaluate", str(gift.run), "plugins=[gifts.run.evil]"]
    assert main(words) == 64
    assert "is inside the run directory" in capfd.readouterr().err
    assert not (gift.outside / "canary").exists()


def test_within_a_run_directory_its_modules_are_not_found(
    gift: Gift, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (gift.run / "evil.py").write_text(gift.song)
    file = gift.run / "config.yaml"
    file.write_text(file.read_text().replace("plugins: []", "plugins: [evil]"))
    monkeypatch.chdir(gift.run)
    assert main(["evaluate", "."]) == 64
    assert "names evil, and a saved file imports nothing" in capfd.readouterr().err
    assert main(["evaluate", ".", "plugins=[evil]"]) == 64
    assert "cannot import 'evil'" in capfd.readouterr().err
    monkeypatch.syspath_prepend(gift.run)
    assert main(["evaluate", ".", "plugins=[evil]"]) == 64
    assert "is inside the run directory" in capfd.readouterr().err
    assert not (gift.outside / "canary").exists()


def test_the_module_is_not_started_from_the_working_directory(gift: Gift) -> None:
    (gift.run / "difflib.py").write_text(gift.song)  # which rlzoo imports at its start
    words = [sys.executable, "-m", "rlzoo", "--version"]
    subprocess.run(words, cwd=gift.run, check=True, capture_output=True)
    assert not (gift.outside / "canary").exists()


@pytest.mark.parametrize(
    ("artefacts", "says"),
    [
        ({}, "not a run of world_models"),
        ({"about": 5, "left": {}}, "made with 5"),
        ({"left": [1]}, "not as rlzoo writes it"),
        ({"left": {"collect": 5}}, "collect: got 5"),
        ({"left": {"collect": {"path": 5}}}, "collect: got"),
        ({"left": {"collect": {"path": "/nowhere"}}}, r"store\.json: missing"),
        ({"left": {"collect": {"path": "fifo"}}}, r"store\.json: not a regular file but a FIFO"),
        ({"left": {"collect": {"path": "link"}}}, r"store\.json: not a regular file but a symb"),
        ({"left": {"collect": {"path": "deep"}}}, r"store\.json: not the header of a store"),
        ({"left": {"collect": {"path": "large"}}}, r"store\.json: .* bytes, expected at most"),
    ],
)
def test_a_hostile_source_of_world_models(
    artefacts: dict[str, object], says: str, gift: Gift, capfd: pytest.CaptureFixture[str]
) -> None:
    about = {"about": {"env": "Lamp-v0"}} if artefacts else {}
    shutil.rmtree(gift.run / "checkpoints")
    state = {"algorithm": {"artefacts": {**about, **artefacts}}}
    checkpoint.save(gift.run / "checkpoints", 1, state)
    for name in ("fifo", "link", "deep", "large"):
        (gift.outside / name).mkdir()
    left = artefacts.get("left")
    if isinstance(left, dict) and isinstance(path := left.get("collect"), dict):
        place = gift.outside / str(path["path"])
        if place.exists():
            path["path"] = str(place)
            checkpoint.save(gift.run / "checkpoints", 1, state)
    os.mkfifo(gift.outside / "fifo" / "store.json")
    (gift.outside / "link" / "store.json").symlink_to("/etc/passwd")
    (gift.outside / "deep" / "store.json").write_text("[" * 100_000)
    with (gift.outside / "large" / "store.json").open("wb") as file:
        file.truncate(1 << 30)
    before = contents(gift.outside)
    code, said = opened("source", gift.run, capfd)
    assert code == 65 and re.search(says, said), said
    assert contents(gift.outside) == before


def test_one_bad_run_is_named_and_the_others_are_compared(
    gift: Gift, sound: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """All of them side by side; half of them is no more than a folder with a bad config.yaml."""
    gifts = gift.run.parent
    for number, (name, (change, _)) in enumerate(HOSTILE.items()):
        shutil.copytree(sound, gifts / name)
        outside = gift.outside / str(number)
        outside.mkdir()
        (outside / "victim").write_text("precious")
        change(Gift(gifts / name, f"gifts.{name}", outside))
    before = contents(gift.outside)
    comparison = compare([gifts])
    assert contents(gift.outside) == before
    failed = {record.path.name for record in comparison.failures}
    assert failed >= set(COMPARED)
    good = [record.path.name for group in comparison.groups for record in group.runs]
    assert "run" in good and not failed & set(good)
    assert set(good) | failed == {"run", *HOSTILE}
    for record in comparison.failures:
        assert record.failure
    comparison.save_picture(Path("curves.png"))
    assert comparison.table()


def test_a_new_run_from_a_foreign_one_is_written_where_the_user_says(
    gift: Gift, capfd: pytest.CaptureFixture[str]
) -> None:
    config = replace(_lamp_config(), output_dir=str(gift.outside))
    (gift.run / "config.yaml").write_text(configuration.to_yaml(config))
    for words, expected in (([], "outputs"), (["output_dir=mine"], "mine")):
        assert main([f"from={gift.run}", *words, "--cfg", "job"]) == 0
        assert f"\noutput_dir: {expected}\n" in capfd.readouterr().out
