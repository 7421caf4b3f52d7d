"""What the command line prints, and how quickly: the words of --help are true."""

from __future__ import annotations

import re
import resource
import shlex
import subprocess
import sys
from importlib.metadata import version

import pytest
import yaml

from rlzoo.cli.main import HELP, VERBS, main
from rlzoo.io.hints import command
from rlzoo.run import config as configuration

SLOW_MODULES = ("torch", "tensorboard", "matplotlib", "gymnasium")
PROBE = """
import sys
from rlzoo.cli.main import main
code = main(sys.argv[1:])
print(code, [name for name in {names} if name in sys.modules], file=sys.stderr)
"""
QUICK = [["--help"], ["list"], ["--version"], ["algo=dqnn"], ["env=cartpol"], ["--nonsense"]]


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_quick_commands_import_nothing_slow(words):
    probe = PROBE.format(names=SLOW_MODULES)
    command = [sys.executable, "-c", probe, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code = 64 if "=" in words[0] or words == ["--nonsense"] else 0
    assert done.stderr.splitlines()[-1] == f"{code} []"


def test_the_probe_sees_slow_modules():
    """The control: a command that needs torch shows up in the test above."""
    command = [sys.executable, "-c", PROBE.format(names=SLOW_MODULES), "--cfg", "job"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "'torch'" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("words", [["--help"], ["list"], ["algo=dqnn"]], ids=" ".join)
def test_quick_commands_take_less_than_half_a_second(words):
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "rlzoo", *words], capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Processor time: on a busy machine the wall clock shows what others do.
    assert min(seconds() for _ in range(3)) < 1  # twice that with torch, on an idle machine


def test_list_shows_every_option_with_its_line(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "algo=", "what a newcomer looks for comes first"
    for group, options in configuration.groups().items():
        assert f"{group}=" in lines
        for option in options:
            description = configuration.description(group, option)
            assert any(re.fullmatch(rf"  {option}  +{re.escape(description)}", x) for x in lines)


def test_list_of_a_group(capsys):
    assert main(["list", "env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(configuration.groups()["env"])


def test_cfg_output_is_the_same_configuration_again(capsys):
    words = ["algo=dqn", "env=lunarlander", "algo.double=true", "env.num_envs=4", "seed=3"]
    assert main([*words, "--cfg", "job"]) == 0
    captured = capsys.readouterr()
    expected = configuration.compose(words)
    assert configuration.from_mapping(yaml.safe_load(captured.out)) == expected
    assert captured.err == (
        "rlzoo: using experiment=dqn_lunarlander (experiment=none turns it off)\n"
    )


@pytest.mark.parametrize("option", [["-c", "job"], ["--cfg=job"], ["--cfg", "job"]])
def test_options_may_stand_anywhere(capsys, option):
    for words in ([*option, "seed=4"], ["seed=4", *option], ["train", "seed=4", *option]):
        assert main(words) == 0
        assert "seed: 4\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "on_path", "name"),
    [
        ("tools/rlzoo", None, "tools/rlzoo"),
        ("/my clone/tools/rlzoo", None, "'/my clone/tools/rlzoo'"),
        ("", "/usr/bin/rlzoo", "rlzoo"),
        ("", None, f"{shlex.quote(sys.executable)} -m rlzoo"),
    ],
)
def test_a_hint_is_a_command_that_can_be_pasted(monkeypatch, typed, on_path, name):
    monkeypatch.setenv("RLZOO_COMMAND", typed)
    monkeypatch.setattr("shutil.which", lambda _: on_path)
    pasted = command("resume=it's here", "algo.phases=[vision]")
    words = [*shlex.split(name), "resume=it's here", "algo.phases=[vision]"]
    assert shlex.split(pasted) == words


@pytest.mark.parametrize("verb", [["play", "nowhere"], ["demos", "play", "nowhere"]])
@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("x.mp4", "file=x.mp4 needs the extra video: tools/setup.sh video installs it"),
        ("x.avi", "file: got 'x.avi', expected a name that ends in .gif or .mp4"),
    ],
)
def test_a_film_that_cannot_be_made_is_refused_first(monkeypatch, capsys, verb, file, said):
    monkeypatch.setattr("rlzoo.cli.options.find_spec", lambda _: None)
    assert main([*verb, f"file={file}"]) == 64
    [line] = capsys.readouterr().err.splitlines()
    assert said in line


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rlzoo {version('rlzoo-torch')}\n"


def test_no_words_show_the_help(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out == HELP
    assert len(HELP.splitlines()) <= 30, "one screen"
    assert max(map(len, HELP.splitlines())) <= 100


def test_commands_in_the_help_are_commands(capsys):
    for line in HELP.splitlines():
        words = re.split(r"  +|\[", line.strip())[0].split()
        if words[:1] != ["rlzoo"]:
            continue
        verb = words[1].rstrip(":") if len(words) > 1 else ""
        if "=" in verb and not verb.startswith(("resume", "from")):
            assert main([*words[1:], "--cfg", "job"]) == 0, words
            capsys.readouterr()
        else:
            assert verb in VERBS or verb in ("reinforcement", "-m", "resume=latest", "from=RUN"), (
                words
            )
