"""Write the tables of docs/configuration.md that come from the settings dataclasses and conf/.

    .venv/bin/python tools/docs.py            rewrite them
    .venv/bin/python tools/docs.py --check    exit 1 if they are out of date

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; the rest is left alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from rlzoo.core import registry
from rlzoo.envs.make import EnvConfig
from rlzoo.io.logger import LoggerConfig
from rlzoo.run import config as configuration
from rlzoo.run.config import CONF_DIR, KINDS, RunConfig
from rlzoo.run.evaluate import EvalConfig

FILE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
BLOCK = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)
WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text", dict: "mapping"}
LIMITS = {"low": ">=", "above": ">", "high": "<=", "below": "<"}


def updated(text: str) -> str:
    """The text with every generated block as the code says it now."""
    tables = {name: "\n".join(lines) for name, lines in generated().items()}
    return BLOCK.sub(lambda block: f"{block[1]}{tables[block[2]]}\n{block[3]}", text)


def generated() -> dict[str, list[str]]:
    """All generated blocks by name, as lines of Markdown."""
    settings: dict[str, type] = {"env": EnvConfig, "eval": EvalConfig, "logger": LoggerConfig}
    blocks = {
        "groups": list(group_table()),
        "run": list(settings_table(RunConfig, "")),
        **{name: list(settings_table(cls, name)) for name, cls in settings.items()},
        "network": list(settings_table(shipped("network")["mlp"], "network")),
        "replay": list(settings_table(shipped("replay")["prioritized"], "replay")),
        "presets": list(preset_table()),
    }
    for name, cls in shipped("algo").items():
        blocks[name] = list(settings_table(cls, "algo"))
    return blocks


def shipped(kind: str) -> dict[str, type]:
    """The settings dataclasses of a kind by name, without those of plug-ins."""
    entries = {name: registry.get(kind, name)[1] for name in registry.names(kind)}
    return {name: cls for name, cls in entries.items() if cls.__module__.startswith("rlzoo.")}


def options(group: str) -> list[str]:
    files = {file.stem for file in (CONF_DIR / group).glob("*.yaml")}
    return sorted(files | (set(shipped(group)) if group in KINDS else set()))


def group_table() -> Iterator[str]:
    yield from header("choice", "meaning")
    for group in ("algo", "env", "network", "replay", "eval", "logger", "debug"):
        for option in options(group):
            yield row(f"`{group}={option}`", configuration.description(group, option))


def preset_table() -> Iterator[str]:
    yield from header("preset", "meaning")
    for name in options("experiment"):
        link = f"[`{name}`](../conf/experiment/{name}.yaml)"
        yield row(link, configuration.description("experiment", name))


def settings_table(cls: type, path: str) -> Iterator[str]:
    yield from header("setting", "default", "expected", "meaning")
    yield from settings_rows(cls, path)


def settings_rows(cls: type, path: str) -> Iterator[str]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        is_choice = field.name == "name" and path in KINDS  # made with algo=NAME
        if "help" not in field.metadata or is_choice:
            continue
        name, meaning = f"{path}.{field.name}" if path else field.name, field.metadata["help"]
        hint = hints[field.name]
        if hint in shipped("algo").values():  # an algorithm within another
            link = f"[as of `algo={field.default.name}`](#algo{field.default.name})"
            yield row(f"`{name}.*`", "", link, meaning)
        elif dataclasses.is_dataclass(hint):
            yield from settings_rows(typing.cast(type, hint), name)
        else:
            expected = expected_values(hint, field.metadata)
            yield row(f"`{name}`", f"`{text(field.default)}`", expected, meaning)


def expected_values(hint: Any, metadata: Mapping[str, Any]) -> str:
    """A type and its range in a user's words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        [other] = [argument for argument in arguments if argument is not type(None)]
        return f"{expected_values(other, metadata)}, or null"
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin is tuple:
        return f"list: {expected_values(arguments[0], metadata)}"
    limits = [f"{sign} {metadata[key]}" for key, sign in LIMITS.items() if key in metadata]
    return " ".join([WORDS[origin or hint], " and ".join(limits)]).strip()


def text(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ",".join(text(item) for item in value) + "]"
    if isinstance(value, int):
        return f"{value:_}" if value >= 10_000 else str(value)
    return f"{value:g}" if isinstance(value, float) else str(value) or "''"


def header(*names: str) -> Iterator[str]:
    yield row(*names)
    yield row(*("---" for _ in names))


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    is_check = parser.parse_args().check
    before = FILE.read_text()
    after = updated(before)
    if not is_check:
        FILE.write_text(after)
    elif before != after:
        print(f"{FILE}: out of date; run tools/docs.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
