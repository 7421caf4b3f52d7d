"""Words of a command: paths, options `name=value`, and settings of an env."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from rlzoo.core.types import UsageError
from rlzoo.envs.packages import needs
from rlzoo.run import plugins
from rlzoo.run.foreign import option_hint

Reader = Callable[[str, str], Any]  # from an option's name and its text to its value


class Option(NamedTuple):
    default: Any
    read: Reader


def text(name: str, given: str) -> str:
    return given


def flag(name: str, given: str) -> bool:
    if given not in ("true", "false"):
        raise UsageError(f"{name}: got '{given}', expected true or false")
    return given == "true"


def whole(low: int, high: int = 2**63 - 1) -> Reader:
    def read(name: str, given: str) -> int:
        number = int(given) if given.isdecimal() and len(given) < 20 else math.inf
        if low <= number <= high:
            return int(number)
        limit = "" if number < low or not given.isdecimal() else f" and <= {high}"
        raise UsageError(f"{name}: got '{given:.100}', expected a whole number >= {low}{limit}")

    return read


def film(name: str, given: str) -> str:
    """The name of a film, which it gets as it stands; without a suffix, that of its format."""
    suffix = Path(given).suffix.lower()
    if suffix not in ("", ".gif", ".mp4"):
        raise UsageError(f"{name}: got '{given}', expected a name that ends in .gif or .mp4")
    if suffix == ".mp4" and find_spec("imageio_ffmpeg") is None:
        raise UsageError(f"{name}={given} {needs('video')}")
    return given


def above_zero(name: str, given: str) -> float:
    with suppress(ValueError):
        if 0 < (number := float(given)) < math.inf:
            return number
    raise UsageError(f"{name}: got '{given}', expected a number > 0")


def one_of(*choices: str) -> Reader:
    def read(name: str, given: str) -> str:
        if given not in choices:
            raise UsageError(
                f"{name}: got '{given}', expected {' or '.join(choices)}"
                if len(choices) == 2
                else f"{name}: got '{given}', expected one of {', '.join(choices)}"
            )
        return given

    return read


def taken(words: Sequence[str], names: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """Split off the words `name=value` of some names."""
    rest, found = [], {}
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in names:
            if not value:
                raise UsageError(f"{name}=: got nothing, expected a value")
            found[name] = value
        else:
            rest.append(word)
    return rest, found


def env_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split off the settings of an env."""
    chosen = [word for word in words if word.startswith(("env=", "env."))]
    return [word for word in words if word not in chosen], chosen


def parse(
    verb: str,
    words: Sequence[str],
    options: Mapping[str, Option],
    *,
    paths: Collection[int] = (1,),
    what: str = "a run directory (or latest)",
) -> tuple[list[str], dict[str, Any]]:
    """The paths among the words, as many as one of `paths`, and the value of each option.

    Each verb also takes `plugins=[...]`, modules to import first.
    """
    rest, given = taken(words, [*options, "plugins"])
    plugins.load_plugins(plugins.listed(given.get("plugins", "")))
    for word in rest:
        if word.startswith("-") or ("=" in word and not Path(word).exists()):
            known = ", ".join(f"{option}=" for option in options)
            raise UsageError(
                f"{verb}: unknown option '{word}'.{option_hint(word, options)} Known: {known}"
            )
    if len(rest) not in paths:
        raise UsageError(f"{verb}: got {len(rest)} paths, expected {what}")
    values = {
        name: option.read(name, given[name]) if name in given else option.default
        for name, option in options.items()
    }
    return rest, values
