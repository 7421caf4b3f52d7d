"""Run directories from somebody who means harm: each is a sound one with one thing changed.

`HOSTILE` maps a name to (change, says): `change(gift)` spoils a copy of a sound run, and `says` is
what the error of at least one verb must match. None: the run opens, and what was added is inert.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LINK = "not a regular file but a symbolic link"


@dataclass(frozen=True)
class Gift:
    """A run directory `run`, whose module name is `module`; `outside` is what it must not touch.

    `song` is Python code that leaves a trace in `outside`.
    """

    run: Path
    module: str
    outside: Path

    @property
    def song(self) -> str:
        return f"open({str(self.outside / 'canary')!r}, 'w').close()\n"

    @property
    def checkpoint(self) -> Path:
        return max((self.run / "checkpoints").glob("step_*"))


Change = Callable[[Gift], None]
HOSTILE: dict[str, tuple[Change, str | None]] = {}


def hostile(says: str | None) -> Callable[[Change], Change]:
    def add(change: Change) -> Change:
        HOSTILE[change.__name__] = change, says
        return change

    return add


def add(name: str, says: str | None, change: Change) -> None:
    assert name not in HOSTILE
    HOSTILE[name] = change, says


# Checkpoints whose hashes fit ---------------------------------------------------------------------


def sign(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest as an attacker can: with the hash made to fit again."""
    manifest = json.loads((path / "manifest.json").read_text())
    edit(manifest)
    manifest.pop("sha256", None)
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


def replace(path: Path, name: str, data: bytes) -> None:
    """Replace a file of a checkpoint, hashes made to fit."""
    (path / name).write_bytes(data)
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    sign(path, lambda manifest: manifest["files"].update({name: entry}))


# Code ---------------------------------------------------------------------------------------------


def config(gift: Gift, old: str, new: str) -> None:
    """Replace lines of config.yaml by a pattern."""
    file = gift.run / "config.yaml"
    text, count = re.subn(old, lambda _: new, file.read_text(), flags=re.MULTILINE)
    assert count == 1, (old, count)
    file.write_text(text)


@hostile(r"names .*\.evil, and a saved file imports nothing")
def plugin_inside(gift: Gift) -> None:
    (gift.run / "evil.py").write_text(gift.song)
    config(gift, r"^plugins: \[\]$", f"plugins: [{gift.module}.evil]")


@hostile(r"names .*\.evil, and a saved file imports nothing")
def plugin_is_a_package_inside(gift: Gift) -> None:
    (gift.run / "evil").mkdir()
    (gift.run / "__init__.py").write_text(gift.song)
    (gift.run / "evil" / "__init__.py").write_text(gift.song)
    config(gift, r"^plugins: \[\]$", f"plugins: [{gift.module}.evil]")


@hostile(r"names .*\.evil, and a saved file imports nothing")
def env_inside(gift: Gift) -> None:
    (gift.run / "evil.py").write_text(gift.song)
    config(gift, r"^  id: .*$", f"  id: {gift.module}.evil:CliffWalking-v1")


@hostile(r"names stranger, .* add plugins=\[stranger\]")
def plugin_beside(gift: Gift) -> None:
    config(gift, r"^plugins: \[\]$", "plugins: [stranger]")


@hostile(r"names stranger, .* add plugins=\[stranger\]")
def env_beside(gift: Gift) -> None:
    config(gift, r"^  id: .*$", "  id: stranger:CliffWalking-v1")


@hostile(r"names this and antigravity, .* add plugins=\[this,antigravity\]")
def plugins_of_the_standard_library(gift: Gift) -> None:
    config(gift, r"^plugins: \[\]$", "plugins: [this]")
    config(gift, r"^  id: .*$", "  id: antigravity:CliffWalking-v1")


@hostile(r"names \.\./evil,")
def plugin_is_a_path(gift: Gift) -> None:
    (gift.run.parent / "evil.py").write_text(gift.song)
    config(gift, r"^plugins: \[\]$", "plugins: [../evil]")


@hostile(r"rlzoo\.envs\.zoo\.evil.* cannot be imported")
def env_among_our_own(gift: Gift) -> None:
    config(gift, r"^  id: .*$", "  id: rlzoo.envs.zoo.evil:CliffWalking-v1")


@hostile(None)
def modules_with_known_names(gift: Gift) -> None:
    for name in ("pygame", "numpy", "torch", "matplotlib", "sitecustomize", "conftest", "rlzoo"):
        (gift.run / f"{name}.py").write_text(gift.song)


@hostile("unknown setting 'algo._target_'")
def hydra_target(gift: Gift) -> None:
    config(gift, r"^  gamma: .*$", "  _target_: os.system")


@hostile("has an alias or a tag")
def python_tag(gift: Gift) -> None:
    config(gift, r"^  gamma: .*$", f"  gamma: !!python/object/apply:os.system ['{gift.song}']")


@hostile(r"expected plain text without '\$\{'")
def interpolation(gift: Gift) -> None:
    config(gift, r"^  name: cliffwalking$", "  name: ${oc.env:HOME}")


@hostile("unknown algo 'os:system'")
def algorithm_is_a_function(gift: Gift) -> None:
    config(gift, r"^  name: q_learning$", "  name: os:system")


@hostile("unknown network 'os:system'")
def network_is_a_function(gift: Gift) -> None:
    config(gift, r"^network: null$", "network: {name: os:system}")


class Song:
    def __init__(self, song: str) -> None:
        self.song = song

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self.song,)


for _name in ("state.json", "tensors.safetensors"):
    add(
        f"pickle_as_{_name.partition('.')[0]}",
        "none of the 1 checkpoints here can be read",
        lambda gift, name=_name: replace(
            gift.checkpoint, name, pickle.dumps({"algorithm": Song(gift.song)})
        ),
    )


@hostile(None)
def output_dir_elsewhere(gift: Gift) -> None:
    config(gift, r"^output_dir: .*$", f"output_dir: {gift.outside}")


# Links, FIFOs, devices ----------------------------------------------------------------------------


def linked(name: str) -> Change:
    """The file or folder `name` as a link to the same outside, or to a victim."""

    def change(gift: Gift) -> None:
        path, target = gift.run / name, gift.outside / "elsewhere"
        if path.exists():
            shutil.move(path, target)
        else:
            target = gift.outside / "victim"
        path.symlink_to(target)

    return change


for _name in (
    *("config.yaml", "status.json", "metrics.jsonl", "overrides.json", "provenance.json"),
    *("result.json", "lock", "checkpoints", "checkpoints/best.json", "tb", "videos", "frames"),
    *("evaluation_best.json", "imitation.png", "notes.txt", ".rlzoo-tmp-x"),
):
    add(f"link_{_name.replace('/', '_')}", LINK, linked(_name))


@hostile(LINK)
def link_checkpoint(gift: Gift) -> None:
    linked(f"checkpoints/{gift.checkpoint.name}")(gift)


@hostile(LINK)
def link_tensors(gift: Gift) -> None:
    linked(f"checkpoints/{gift.checkpoint.name}/tensors.safetensors")(gift)


@hostile(LINK)
def link_to_etc(gift: Gift) -> None:
    (gift.run / "result_of_my_friend.json").symlink_to("/etc/passwd")


@hostile(LINK)
def link_to_itself(gift: Gift) -> None:
    (gift.run / "videos").symlink_to(".")


@hostile(r"metrics\.jsonl: has another name")
def hard_link_of_the_record(gift: Gift) -> None:
    (gift.run / "metrics.jsonl").unlink()
    os.link(gift.outside / "victim", gift.run / "metrics.jsonl")
    (gift.run / "result.json").unlink()  # so that resuming goes on


@hostile("lock: has another name")
def hard_link_of_the_lock(gift: Gift) -> None:
    (gift.run / "lock").unlink()
    os.link(gift.outside / "victim", gift.run / "lock")


def fifo(name: str) -> Change:
    def change(gift: Gift) -> None:
        (gift.run / name).unlink(missing_ok=True)
        os.mkfifo(gift.run / name)

    return change


for _name in ("config.yaml", "status.json"):
    add(f"fifo_{_name}", rf"not a run directory \(no {_name}\)", fifo(_name))
for _name in ("metrics.jsonl", "lock", "result.json", "checkpoints/best.json", "x"):
    add(f"fifo_{_name.replace('/', '_')}", "not a regular file but a FIFO", fifo(_name))


@hostile("not a regular file but a FIFO")
def fifo_state(gift: Gift) -> None:
    fifo(f"checkpoints/{gift.checkpoint.name}/state.json")(gift)


@hostile("not a regular file but a socket")
def socket_inside(gift: Gift) -> None:
    before = os.getcwd()
    os.chdir(gift.run)  # its path may be too long
    try:
        with socket.socket(socket.AF_UNIX) as it:
            it.bind("x")
    finally:
        os.chdir(before)


# Settings -----------------------------------------------------------------------------------------


def settings(content: str | bytes) -> Change:
    def change(gift: Gift) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        (gift.run / "config.yaml").write_bytes(data)

    return change


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
for _name, _says, _content in (
    ("aliases", "an alias or a tag", BOMB),
    ("alias_to_itself", "an alias or a tag", "algo: &a [*a]"),
    ("merge_key", "an alias or a tag", "base: &b {seed: 1}\nalgo:\n  <<: *b"),
    ("nested", "nested deeper than 32 levels", "a: " + "[" * 100 + "]" * 100),
    ("nested_far", "lists and mappings in brackets", "a: " + "[" * 5000 + "]" * 5000),
    ("nested_unclosed", "lists and mappings in brackets", "a: " + "{a: " * 5000),
    ("nested_by_indents", "nested deeper", "".join(" " * n + "a:\n" for n in range(200))),
    ("list", "got list, expected a mapping", "- 1\n- 2\n"),
    ("empty", "got NoneType, expected a mapping", ""),
    ("two_documents", "not readable as YAML", "a: 1\n---\nb: 2\n"),
    ("not_utf8", "not UTF-8 text", b"algo: {name: \xff\xfe}"),
    ("zeros", "not readable as YAML", b"\0" * 1000),
    ("utf16", "not UTF-8 text", "algo: {name: dqn}".encode("utf-16")),
    ("large", "bytes, expected at most 32768", "x: " + "1" * (8 << 20)),
    ("unhashable_key", "not readable as YAML", "? [a, b]\n: 1\n"),
):
    add(f"yaml_{_name}", _says, settings(_content))
for _name, _says, _old, _new in (
    ("date", "not readable as YAML", r"^seed: .*$", "seed: 2001-99-99"),
    ("digits", "not readable as YAML", r"^seed: .*$", "seed: " + "9" * 5000),
    ("infinite", "seed: got inf", r"^seed: .*$", "seed: .inf"),
    ("seed_text", "seed: got 'x'", r"^seed: .*$", "seed: x"),
    ("plugins_number", "plugins: got 5", r"^plugins: .*$", "plugins: 5"),
    ("plugins_mapping", r"plugins\[0\]: got", r"^plugins: .*$", "plugins: [{a: b}]"),
    ("number_key", "unknown setting", r"^seed: .*$", "5: 7"),
    ("algo_text", "algo: got 'x'", r"^network: null$", "algo: x"),
    ("env_text", "env: got 'x'", r"^network: null$", "env: x"),
    ("kwargs_text", r"env\.kwargs: got 'x'", r"^  kwargs: .*$", "  kwargs: x"),
    ("kwargs_unknown", r"env\.kwargs: ", r"^  kwargs: .*$", "  kwargs: {x: 1}"),
    ("unknown_env", "expected a known id", r"^  id: .*$", "  id: Nothing-v0"),
    (
        "escapes",
        r"unknown algo '\\x1b\[2J\\x07\\u202e'",
        r"^  name: q_learning$",
        '  name: "\\e[2J\\a\\u202e"',
    ),
):
    add(
        f"config_{_name}",
        _says,
        lambda gift, old=_old, new=_new: config(gift, old, new),
    )


# Checkpoints --------------------------------------------------------------------------------------


def state(edit: Callable[[dict[str, Any]], Any]) -> Change:
    """Edit the state of the checkpoint; hashes made to fit."""

    def change(gift: Gift) -> None:
        tree = json.loads((gift.checkpoint / "state.json").read_text())
        edit(tree)
        replace(gift.checkpoint, "state.json", json.dumps(tree).encode())
        (gift.run / "result.json").unlink()  # so that resuming goes on

    return change


def counters(**values: Any) -> Change:
    return state(lambda tree: tree["algorithm"]["counters"].update(values))


NAN = float("nan")
for _name, _says, _change in (
    ("no_algorithm", "has no 'algorithm'", state(lambda t: t.pop("algorithm"))),
    ("algorithm_list", "not as rlzoo writes it", state(lambda t: t.update(algorithm=[1]))),
    ("algorithm_text", "not as rlzoo writes it", state(lambda t: t.update(algorithm="x"))),
    ("no_counters", "expected 'counters' in it", state(lambda t: t["algorithm"].pop("counters"))),
    ("steps_text", "env_steps: got 'x'", counters(env_steps="x")),
    ("steps_nan", "env_steps: got nan", counters(env_steps=NAN)),
    ("steps_negative", "env_steps: got -1", counters(env_steps=-1)),
    ("steps_large", "env_steps: got 1000", counters(env_steps=10**30)),
    ("steps_true", "env_steps: got True", counters(env_steps=True)),
    ("updates_none", "updates: got None", counters(updates=None)),
    ("phase_number", "phase: got 5", counters(phase=5)),
    ("extra_counter", "got 'evil', expected one of", counters(evil=5)),
    ("logger_null", "checkpoints/step_", state(lambda t: t.update(logger=None))),
    ("logger_text", "checkpoints/step_", state(lambda t: t.update(logger="x"))),
    (
        "logger_bytes",
        "metrics_bytes: got -1",
        state(lambda t: t["logger"].update(metrics_bytes=-1)),
    ),
    ("logger_step", "last_step: got nan", state(lambda t: t["logger"].update(last_step=NAN))),
    ("no_loop", "has no 'loop'", state(lambda t: t.pop("loop"))),
    (
        "loop_time",
        "elapsed_seconds: got nan",
        state(lambda t: t["loop"].update(elapsed_seconds=NAN)),
    ),
    (
        "window",
        "window: got counts",
        state(lambda t: t["loop"].update(window={"sums": {"x": 1.0}, "counts": {"x": 0}})),
    ),
    ("best_return", "not as rlzoo writes it", state(lambda t: t.update(best_return=[1]))),
    ("best_steps", "best_env_steps: got 'x'", state(lambda t: t.update(best_env_steps="x"))),
    ("agent", "agent: got 5", state(lambda t: t.update(agent=5))),
    ("array_absent", "which is not there", state(lambda t: t.update(x={"$tensor": "/no"}))),
):
    add(f"state_{_name}", _says, _change)


def each_leaf(tree: Any, value: Any) -> Any:
    """The same tree with every leaf but the counters replaced."""
    if isinstance(tree, dict) and not any(key.startswith("$") for key in tree):
        return {k: v if k == "counters" else each_leaf(v, value) for k, v in tree.items()}
    return value


for _name, _value in (("text", "x"), ("null", None), ("list", []), ("large", 10**40)):
    add(
        f"state_all_{_name}",
        "checkpoints/step_",
        state(lambda t, value=_value: t.update(algorithm=each_leaf(t["algorithm"], value))),
    )


@hostile("lists and mappings, too many to be read")
def state_many_lists(gift: Gift) -> None:
    replace(gift.checkpoint, "state.json", b"[" + b"[]," * 3_000_000 + b"[]]")


@hostile("too many for a state")
def state_large(gift: Gift) -> None:
    sign(gift.checkpoint, lambda m: m["files"]["state.json"].update(size=1 << 30))
    os.truncate(gift.checkpoint / "state.json", 1 << 30)


@hostile("bytes of memory")
def tensors_large(gift: Gift) -> None:
    sign(gift.checkpoint, lambda m: m["files"]["tensors.safetensors"].update(size=8 << 40))
    os.truncate(gift.checkpoint / "tensors.safetensors", 8 << 40)


@hostile("refused the file name")
def manifest_names_another_file(gift: Gift) -> None:
    entry = {"size": 0, "sha256": "0" * 64}
    sign(gift.checkpoint, lambda m: m["files"].update({"../../../x": entry}))


@hostile("best.json: names no checkpoint")
def best_elsewhere(gift: Gift) -> None:
    (gift.run / "checkpoints" / "best.json").write_text('{"name": "../../other/step_000000001"}')


@hostile("has more than")
def many_files(gift: Gift) -> None:
    for n in range(200):  # with the limit lowered to 100
        (gift.run / "tb" / f"{n}").touch()


# Records, which `compare` reads -------------------------------------------------------------------

ROW = '{"step": 1, "eval/return_mean": %s}\n'


def record(text: str | bytes) -> Change:
    def change(gift: Gift) -> None:
        data = text if isinstance(text, bytes) else text.encode()
        (gift.run / "metrics.jsonl").write_bytes(data)

    return change


COMPARED: dict[str, str] = {}  # what `compare` says of a run that all other verbs open


def add_record(name: str, says: str, change: Change) -> None:
    add(name, None, change)
    COMPARED[name] = says


for _name, _says, _text in (
    ("step_infinite", "step: got inf", '{"step": 1e999, "eval/return_mean": 1}\n'),
    ("step_digits", "step: got 1111", f'{{"step": {"1" * 31}, "eval/return_mean": 1}}\n'),
    ("step_text", "step: got 'x'", '{"step": "x", "eval/return_mean": 1}\n'),
    ("nested", "line 1: ", ROW % ("[" * 20_000)),
    ("huge", "got 1e[+]308, expected a number", ROW % "1e308" + ROW % "-1e308"),
    ("nan", "got nan, expected a number", ROW % "NaN"),
    ("text", "got 'x', expected a number", ROW % '"x"'),
    ("true", "got True, expected a number", ROW % "true"),
    ("long_line", "a line of more than", ROW % ("1" * 100_000)),
    ("no_line_end", "a line of more than", b"\0" * 100_000),
    ("list", "line 1: ", '["eval/return_mean"]\n'),
):
    add_record(f"record_{_name}", _says, record(_text))


def written(name: str, text: str) -> Change:
    return lambda gift: (gift.run / name).write_text(text) and None


def grown(name: str, size: int) -> Change:
    """A file with a hole: as large as that, and yet easy to send."""
    return lambda gift: os.truncate(gift.run / name, size)


MEAN = '{"test": {"last": {"return": {"mean": %s}}}}'


for _name, _says, _change in (
    ("status_list", "status.json|not as rlzoo", written("status.json", "[1]")),
    ("status_deep", "not valid JSON|nested", written("status.json", "[" * 50_000)),
    ("result_text", "not as rlzoo", written("result.json", '{"test": "x"}')),
    ("result_huge", "expected a number", written("result.json", MEAN % "1e400")),
    ("record_large", "bytes, expected at most", grown("metrics.jsonl", 3 << 30)),
    ("status_large", "bytes, expected at most", grown("status.json", 80 << 20)),
):  # fmt: skip
    add_record(_name, _says, _change)
