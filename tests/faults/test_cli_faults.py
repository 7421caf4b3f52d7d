"""Wrong words: one line with the nearest right one, the right exit code, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlzoo.algos.dqn import DQN
from rlzoo.cli.main import main
from rlzoo.core.types import UsageError
from rlzoo.run import config as configuration
from rlzoo.run import plugins
from rlzoo.run.config import CONF_DIR
from rlzoo.run.run import Run

Q = ["algo=q_learning", "env=cliffwalking", "experiment=none"]
SMALL = [*Q, "debug=tiny", "logger=jsonl"]

WRONG = [
    # names of groups' options (row 16)
    ("algo=dqnn", "unknown algo 'dqnn'. Did you mean 'dqn'?"),
    ("algo=", "unknown algo ''. Known: airl"),
    ("algo=null", "unknown algo"),
    ("algo=[dqn]", "unknown algo"),
    ("algo={name:dqn}", "unknown algo"),
    ("env=cartpol", "Did you mean 'cartpole'?"),
    ("env=CartPole-v1", "Did you mean 'cartpole'? Any gymnasium env: env=gym env.id=CartPole-v1."),
    ("env=LunarLander-v3", "Did you mean 'lunarlander'?"),
    ("experiment=dqn_cartpol", "Did you mean 'dqn_cartpole'?"),
    ("debug=tinny", "Did you mean 'tiny'?"),
    ("network=mpl", "Did you mean 'mlp'?"),
    ("network=mlp", "algo=q_learning has no network"),
    ("env.id=CartPole-v7", "env.id: got 'CartPole-v7'"),
    ("env.id=cARTPOLE-v1", "Did you mean 'CartPole-v1'?"),
    ("env.id=no_such_module:Env-v0", "no_such_module"),
    # names of settings (row 17)
    ("algo.alhpa=0.1", "unknown setting 'algo.alhpa'. Did you mean 'alpha'?"),
    ("+algo.alhpa=0.1", "unknown setting 'algo.alhpa'. Did you mean 'alpha'?"),
    ("++algo.alhpa=0.1", "unknown setting 'algo.alhpa'. Did you mean 'alpha'?"),
    ("~algo.alpha", "settings cannot be removed"),
    ("~algo", "settings cannot be removed"),
    ("~algo.alpha=0.1", "settings cannot be removed"),
    ("alpha=0.1", "unknown setting 'alpha'. Did you mean 'algo.alpha'?"),
    ("total_env_step=9", "Did you mean 'total_env_steps'?"),
    ("SEED=1", "Did you mean 'seed'?"),
    ("ago.alpha=1", "unknown setting 'ago.alpha'. Did you mean 'algo.alpha'?"),
    ("algo.alpha.x=1", "algo.alpha: got {'x': 1}, expected a number"),
    ("seed.x=1", "seed: got {'x': 1}, expected a whole number"),
    ("algo.name=sarsa", "made with algo=sarsa"),
    ("where_known.algo.alpha=3", "unknown setting 'where_known.algo.alpha'"),
    # values
    ("algo.alpha=fast", "algo.alpha: got 'fast', expected a number"),
    ("algo.alpha=", "expected a number"),
    ("algo.alpha=null", "expected a number"),
    ("algo.alpha=true", "expected a number"),
    ("algo.alpha=-0.1", "algo.alpha: got -0.1, expected > 0 and <= 1"),
    ("algo.gamma=2", "algo.gamma: got 2.0, expected >= 0 and <= 1"),
    ("algo.alpha=nan", "expected a finite number"),
    ("algo.alpha=inf", "expected a finite number"),
    ("algo.alpha=-inf", "expected a finite number"),
    ("algo.alpha=1e999", "expected a finite number"),
    ("seed=-1", "seed: got -1"),
    ("seed=1.5", "expected a whole number"),
    ("seed=nan", "expected a whole number"),
    ("total_env_steps=0", "expected >= 1"),
    ("total_env_steps=inf", "expected a whole number"),
    ("total_env_steps=100k", "expected a whole number"),
    ("eval.episodes=0", "eval.episodes: got 0, expected >= 1"),
    ("env.num_envs=[1,2]", "env.num_envs: got [1, 2]"),
    ("device=gpu", "expected one of cpu, cuda"),
    ("env.kwargs.no_such=1", "no_such"),
    ("algo.alpha=0.1,0.2", "put -m before it"),
    ("seed=range(0,3)", "put -m before it"),
    # grammar
    ("=1", "expected key=value"),
    (".=1", "expected key=value"),
    ("algo.alpha =1", "expected key=value"),
    ("algo@x=dqn", "expected key=value"),
    ("algo/x=dqn", "expected key=value"),
    ("algo.alpha=a b=c", "cannot read"),
    ("algo.bins=[1", "cannot read"),
    ("algo.alpha=f(1)", "cannot read"),
    ("seed=1\n2", "cannot read"),
    ("hlep", "unknown command 'hlep'. Did you mean 'help'?"),
    ("list", "unknown command 'list'. It must come first."),
    ("resume", "Did you mean 'resume=latest'?"),
    ("", "unknown command ''"),
    # what a Hydra user would type
    ("hydra.run.dir=/tmp/x", "Hydra's own settings"),
    ("+hydra.run.dir=/tmp/x", "Hydra's own settings"),
    ("hydra/launcher=joblib", "Hydra's own settings"),
    ("--info", "unknown option '--info': settings are words key=value"),
    ("--config-dir=/tmp", "unknown option '--config-dir=/tmp'"),
    ("--config-name=x", "unknown option '--config-name=x'"),
    ("--hydra-help", "unknown option '--hydra-help'"),
    ("--cfg=hydra", "invalid choice: 'hydra' (choose from 'job')"),
    ("--cfg", "expected one argument"),
    ("-x", "unknown option '-x'"),
    # nothing in a value is ever resolved, imported or called (row 15)
    ("output_dir=${oc.env:HOME}", "expected plain text without '${'"),
    ("output_dir=$\\{oc.env:HOME\\}", "expected plain text without '${'"),
    ("env.kwargs={a:'${oc.env:HOME}'}", "without '${'"),
    ("_target_=os.system", "unknown setting '_target_'"),
    ("algo._target_=os.system", "unknown setting 'algo._target_'"),
    ("+env._target_=os.system", "unknown setting 'env._target_'"),
    ("env.kwargs={_target_:os.system,command:'touch canary'}", "_target_"),
    ("env.kwargs={a: !!python/object/apply:os.system [touch canary]}", "cannot read"),
    ("plugins=[no_such_module]", "cannot import 'no_such_module'"),
    ("plugins=[..x]", "plugins: got '..x'"),
    ("plugins=[3]", "plugins: got '3'"),
    # absurd sizes
    ("seed=" + "9" * 5000, "cannot read 'seed=999"),
    ("algo.alpha=" + "9" * 5000, "cannot read 'algo.alpha=999"),
    ("total_env_steps=" + "9" * 400, "total_env_steps: got inf, expected a whole number below"),
    ("total_env_steps=1e30", "total_env_steps: got 1e+30, expected a whole number below 2**63"),
    ("save_every=-1e30", "save_every: got -1e+30, expected a whole number"),
    ("threads=2147483648", "threads: got 2147483648, expected >= 1 and <= 1024"),
    ("eval.episodes=1000000000000", "eval.episodes: got 1000000000000, expected >= 1 and <="),
    ("eval.test_episodes=1000000000000", "eval.test_episodes: got 1000000000000, expected"),
    ("eval.num_envs=1000000000000", "eval.num_envs: got 1000000000000, expected"),
    ("env.num_envs=1000000000000", "env.num_envs: got 1000000000000, expected"),
    # words of an earlier version
    ("eval.every_env_steps=100", "It is called 'eval.every' now"),
    ("log_every_env_steps=100", "It is called 'log_every' now"),
    # places
    ("run_dir=", "run_dir=: got nothing"),
    ("resume=", "resume=: got nothing"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one_error_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith("rlzoo: error: ")
    assert len(line) < 500
    return line


@pytest.mark.parametrize(("word", "message"), WRONG, ids=[word[:60] for word, _ in WRONG])
def test_one_line_and_nothing_left_behind(folder, capsys, word, message):
    assert main([*Q, word]) == 64
    assert message in one_error_line(capsys)
    assert list(folder.iterdir()) == []


def test_a_network_that_is_too_large(folder, capsys, monkeypatch):
    words = ["algo=dqn", "env=cartpole", "experiment=none", "debug=tiny", "logger=jsonl"]
    assert main([*words, "network.hidden=[1000000000]"]) == 64
    assert "network.hidden: got 1000000000, expected" in one_error_line(capsys)

    of_torch = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
    for error in (of_torch, MemoryError("Unable to allocate 14.6 TiB")):

        def too_large(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(DQN, "__init__", too_large)
        assert main(words) == 64
        assert "settings that ask for too much memory: " in one_error_line(capsys)
        assert not [path for path in folder.rglob("*") if path.is_file()]
    monkeypatch.setattr(DQN, "__init__", lambda *_: [].pop())
    with pytest.raises(IndexError):  # the control
        main(words)


def test_the_same_words_without_the_mistake_run(folder):
    """The control: what the tests above refuse is refused for that word alone."""
    assert main([*SMALL, "+algo.alpha=0.2", "++seed=7", "total_env_steps=128"]) == 0
    [config] = folder.glob("outputs/runs/q_learning-cliffwalking/*-s7-*/config.yaml")
    assert configuration.load_yaml(config.read_text(), "")["algo"]["alpha"] == 0.2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate"], "evaluate: got 0 paths"),
        (["evaluate", "a", "b"], "evaluate: got 2 paths"),
        (["evaluate", "a", "epsiodes=3"], "Did you mean 'episodes'?"),
        (["evaluate", "a", "episodes=" + "9" * 5000], "expected a whole number >= 1 and <="),
        (["evaluate", "a", "episodes=1000000000000"], "expected a whole number >= 1 and <="),
        (["evaluate", "a", "episodes=0"], "episodes: got '0', expected a whole number >= 1"),
        (["play", "nowhere"], "nowhere: not a run directory"),
        (["play", "a", "--fast"], "unknown option '--fast'"),
        (["compare"], "compare: got 0 paths"),
        (["list", "algos"], "unknown group 'algos'. Known: algo"),
        (["resume=nowhere"], "nowhere: not a run directory"),
        (["resume=latest"], "outputs: got no run directories"),
        (["resume=latest", "output_dir=elsewhere"], "elsewhere: got no run directories"),
        (["resume=."], "not a run directory"),
        (["resume=a", "run_dir=b"], "resumed in its own directory"),
    ],
)
def test_other_commands(folder, capsys, words, message):
    assert main(words) == 64
    assert message in one_error_line(capsys)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("verb", [[], ["train"], ["evaluate"], ["list"], [*Q]])
def test_help_anywhere_only_helps(folder, capsys, verb):
    assert main([*verb, "--help"]) == 0
    assert "rlzoo resume=latest" in capsys.readouterr().out
    assert list(folder.iterdir()) == []


# --- places that cannot be written (row 20) --------------------------------------------------


def no_env(*args: object, **kwargs: object) -> None:
    raise AssertionError("an env was built")


@pytest.mark.parametrize("place", ["output_dir=file", "output_dir=file/below", "run_dir=file/run"])
def test_output_below_a_file(folder, capsys, monkeypatch, place):
    monkeypatch.setattr("gymnasium.make", no_env)
    (folder / "file").write_text("precious")
    assert main([*SMALL, place]) == 73
    assert "file is a file" in one_error_line(capsys)
    assert (folder / "file").read_text() == "precious"
    assert [path.name for path in folder.iterdir()] == ["file"]


def read_only_folders() -> list[str]:
    mounts = Path("/proc/mounts")
    lines = mounts.read_text().splitlines() if mounts.exists() else []
    fields = [line.split() for line in lines]
    return [f[1] for f in fields if "ro" in f[3].split(",") and Path(f[1]).is_dir()]


@pytest.mark.skipif(not read_only_folders(), reason="no read-only file system here")
def test_output_on_a_read_only_file_system(folder, capsys, monkeypatch):
    monkeypatch.setattr("gymnasium.make", no_env)
    place = read_only_folders()[0]
    assert main([*SMALL, f"output_dir={place}/rlzoo/outputs"]) == 73
    assert f"{place} is not writable" in one_error_line(capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_directory_without_permission(folder, capsys):
    folder.chmod(0o500)
    assert main(SMALL) == 73
    assert "not writable" in one_error_line(capsys)


def test_run_directory_that_holds_a_run(folder, capsys):
    words = [*SMALL, "total_env_steps=128", "run_dir=run"]
    assert main(words) == 0
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main(words) == 73
    assert "already holds a run" in one_error_line(capsys)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")}.keys() == before.keys()


def test_a_run_that_cannot_begin_leaves_nothing(folder, capsys, monkeypatch):
    def fails(*args: object) -> None:
        raise UsageError("cannot be built")

    monkeypatch.setattr("rlzoo.run.build.Builder.build", fails)
    assert main(SMALL) == 64
    assert "cannot be built" in one_error_line(capsys)
    assert not [path for path in (folder / "outputs").rglob("*") if path.is_file()]


# --- hostile YAML (row 15) -------------------------------------------------------------------

HOSTILE = [
    "name: q_learning\ngamma: !!python/object/apply:os.system ['touch canary']\n",
    "name: q_learning\n_target_: os.system\n",
    "name: q_learning\ngamma: {_target_: os.system, command: touch canary}\n",
    "name: ${oc.env:HOME}\n",
    "name: q_learning\ngamma: ${oc.decode:'1'}\n",
    "defaults: [{override /env: '${oc.env:HOME}'}]\nname: q_learning\n",
    "name: [\n",
    "- 1\n",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_option_of_a_plugin(folder, capsys, monkeypatch, text):
    (folder / "algo").mkdir()
    (folder / "algo" / "hostile.yaml").write_text(text)
    monkeypatch.setattr(plugins, "conf_dirs", [folder])
    assert main(["algo=hostile", "env=cliffwalking"]) == 64
    one_error_line(capsys)
    assert not (folder / "canary").exists()
    assert not (folder / "outputs").exists()


def test_harmless_option_of_a_plugin_is_read(folder, monkeypatch):
    """The control: the file of the test above is found and used."""
    (folder / "algo").mkdir()
    (folder / "algo" / "hostile.yaml").write_text("name: q_learning\ngamma: 0.5\n")
    monkeypatch.setattr(plugins, "conf_dirs", [folder])
    assert configuration.compose(["algo=hostile", "env=cliffwalking"]).algo.gamma == 0.5


@pytest.mark.parametrize(
    "line",
    [
        "gamma: !!python/object/apply:os.system ['touch canary']",
        "_target_: os.system",
        "gamma: '${oc.env:HOME}'",
        "gamma: [",
        "gamma: 2",
        "gama: 0.5",
    ],
)
def test_hostile_saved_configuration(folder, capsys, line):
    assert main([*SMALL, "total_env_steps=128", "run_dir=run"]) == 0
    capsys.readouterr()
    config = folder / "run" / "config.yaml"
    config.write_text(config.read_text().replace("gamma: 0.99", line))
    for command in (["resume=run", "total_env_steps=256"], ["evaluate", "run"]):
        assert main(command) == 65
        one_error_line(capsys)
    assert not (folder / "canary").exists()


# --- paths and `latest` ----------------------------------------------------------------------

NASTY = ["it's", "a\\b", "a\\'b", "end\\", "a b,c=d", 'q"q', "{x}[y]", "ümlaut$x", "~x", "", "null"]


@pytest.mark.parametrize("text", NASTY)
def test_any_text_can_be_quoted(text):
    [override] = configuration.parse([f"output_dir={configuration.quoted(text)}"])
    assert override.value == text


WORLD = ["algo=world_models", "env=gym", "env.id=lamp:Lamp-v0", "env.restore=replay", "debug=tiny"]


def world_run(path: Path) -> None:
    path.mkdir(parents=True)
    config = configuration.compose([*WORLD, "total_env_steps=9999"])
    (path / "config.yaml").write_text(configuration.to_yaml(config))
    started = "2026-01-01T00:00:00"
    (path / "status.json").write_text(f'{{"status": "stopped", "started": "{started}"}}')


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("it's a\\b, {mine}/run", ["from=it's a\\b, {mine}/run"]),
        ("o2/runs/a/b", ["from=latest", "output_dir=o2"]),
        ("outputs/runs/a/b", ["from=latest"]),
    ],
)
def test_a_new_run_builds_on_one_at_any_place(folder, capsys, place, words):
    world_run(folder / place)
    world_run(folder / "another/runs/a/b")
    assert main([*words, "algo.phases=[vision]", "--cfg", "job"]) == 0
    shown = configuration.load_yaml(capsys.readouterr().out, "")
    assert shown["algo"]["source"] == place


@pytest.mark.parametrize("name", ["algo.source", "algo.imitate.agent"])
def test_a_setting_names_a_run_by_its_directory(folder, capsys, name):
    """At its start the newest run below outputs would be the new one itself."""
    world_run(folder / "outputs/runs/a/b")
    phases = "[vision]" if name == "algo.source" else "[collect,vision,encode,memory,imitate]"
    assert main([*WORLD, f"{name}=latest", f"algo.phases={phases}"]) == 64
    assert "got the run 'latest', expected a directory (or from=latest)" in capsys.readouterr().err
    assert len(list(folder.glob("outputs/runs/*/*"))) == 1


def test_an_option_of_a_plugin_at_any_place(folder, monkeypatch):
    (folder / "it's" / "algo").mkdir(parents=True)
    (folder / "it's" / "algo" / "mine.yaml").write_text("name: q_learning\ngamma: 0.5\n")
    monkeypatch.setattr(plugins, "conf_dirs", [folder / "it's"])
    assert configuration.compose(["algo=mine", "env=cliffwalking"]).algo.gamma == 0.5


# --- resume ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run in outputs/ of a folder of its own; the tests leave it as it is."""
    folder = tmp_path_factory.mktemp("finished")
    command = [sys.executable, "-m", "rlzoo", *SMALL, "env.kwargs.is_slippery=false"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("algo=sarsa", "'algo=sarsa' chooses a group"),
        ("env=taxi", "'env=taxi' chooses a group"),
        ("experiment=q_learning_taxi", "chooses a group"),
        ("logger=default", "chooses a group"),
        ("seed=1", "resume: seed=1 would change what the run is (it has seed=0)"),
        ("env.num_envs=2", "it has env.num_envs=1"),
        ("env.id=Taxi-v4", "it has env.id=CliffWalking-v1"),
        ("env.kwargs.is_slippery=true", "it has env.kwargs.is_slippery=False"),
        ("env.kwargs=null", "would change what the run is"),
        ("env.kwargs={}", "would change what the run is"),
        ("network.hidden=[3]", "network"),
        ("algo.alhpa=1", "Did you mean 'alpha'?"),
        ("algo.alpha=0.1,0.2", "is a sweep"),
        ("total_env_steps=100", "expected at least 600, which the run has made already"),
        ("total_env_steps=-1", "expected >= 1"),
    ],
)
def test_resume_refuses(finished, monkeypatch, capsys, word, message):
    monkeypatch.chdir(finished)
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert main(["resume=latest", word]) == 64
    assert message in capsys.readouterr().err.splitlines()[-1]
    after = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    changed = {path.name for path in before if before[path] != after.get(path)}
    assert changed <= {"lock"}
    assert after.keys() == before.keys()


def test_resume_of_a_finished_run_says_so(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    assert main(["resume=latest", "eval.episodes=3"]) == 0
    assert "is finished; raise total_env_steps" in capsys.readouterr().err


def test_resume_shows_its_configuration_with_cfg(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    assert main(["resume=latest", "total_env_steps=700", "--cfg", "job"]) == 0
    assert "total_env_steps: 700" in capsys.readouterr().out


def test_resume_of_a_folder_without_a_run(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    [run] = finished.glob("outputs/runs/*/*")
    for path in (run.parent, run / "checkpoints", run / "config.yaml"):
        assert main([f"resume={path}"]) == 64
        assert "not a run directory" in one_error_line(capsys)


def test_a_finished_run_goes_on_when_it_is_made_longer(folder, capsys, monkeypatch):
    assert main([*SMALL, "run_dir=run", "total_env_steps=256"]) == 0
    result = folder / "run" / "result.json"
    train = Run.train

    def checked_train(self: Run) -> str:
        assert not result.exists(), "the old result must not pass for the new one"
        return train(self)

    monkeypatch.setattr(Run, "train", checked_train)
    assert main(["resume=run", "total_env_steps=512", "algo.alpha=0.2"]) == 0
    errors = capsys.readouterr().err
    assert "changed total_env_steps: 256 -> 512" in errors
    assert "changed algo.alpha: 0.1 -> 0.2" in errors
    saved = configuration.load_yaml((folder / "run" / "config.yaml").read_text(), "")
    assert (saved["total_env_steps"], saved["algo"]["alpha"]) == (512, 0.2)
    assert result.exists()
    assert main(["resume=run"]) == 0
    assert "is finished" in capsys.readouterr().err


def test_standard_output_that_is_gone(folder):
    rlzoo = f"{sys.executable} -m rlzoo"
    closed = subprocess.run(
        f"{rlzoo} list | true; test ${{PIPESTATUS[0]}} -eq 141",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        check=False,
    )
    assert (closed.returncode, closed.stderr) == (0, b"")
    full = subprocess.run(f"{rlzoo} list >/dev/full", shell=True, capture_output=True, check=False)
    assert full.returncode == 74
    assert b"Traceback" not in full.stderr


def test_shipped_files_name_no_target():
    assert not [file for file in CONF_DIR.rglob("*.yaml") if "_target_" in file.read_text()]
