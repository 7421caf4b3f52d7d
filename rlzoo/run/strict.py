"""The strict reader of settings: any plain mapping (YAML, JSON) to a frozen dataclass."""

from __future__ import annotations

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from rlzoo.core.settings import nearest
from rlzoo.core.types import UsageError
from rlzoo.run.foreign import value_hint


class UnknownSetting(UsageError):
    """A key that is no setting; `siblings` are the names that could stand in its place."""

    def __init__(self, key: str, siblings: Iterable[str], hint: str) -> None:
        self.key, self.siblings = key, sorted(siblings)
        super().__init__(f"unknown setting {key!r}.{hint} Known here: {', '.join(self.siblings)}")


TOO_LARGE = 2.0**63  # for the integers of what counts in 64 bits


def read(cls: Any, values: Mapping[str, Any], path: str = "") -> Any:
    """Turn a mapping into the frozen dataclass `cls`, or raise one line that says what is wrong.

    Unknown keys name the nearest known one; types, ranges and non-finite numbers are checked.
    A key that is left out takes the default. Cross-field checks go in the class's `check()`.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"{path or cls.__name__}: got {values!r}, expected a group of settings")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            full = f"{path}.{key}" if path else str(key)
            raise UnknownSetting(full, fields, nearest(str(key), fields))
    arguments = {}
    for key, value in values.items():
        name = f"{path}.{key}" if path else key
        arguments[key] = _convert(hints[key], value, name)
        _check_range(arguments[key], fields[key].metadata, name)
    settings = cls(**arguments)
    if hasattr(settings, "check"):
        settings.check()
    return settings


def _convert(hint: Any, value: Any, name: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        _refuse_interpolation(value, name)
        return value
    if origin in (Union, types.UnionType):  # of one type and None
        if value is None and type(None) in arguments:
            return None
        if isinstance(value, str) and value.lower() == "none" and str not in arguments:
            raise UsageError(f"{name}: got {value!r}. Did you mean 'null'?")
        return _convert(next(a for a in arguments if a is not type(None)), value, name)
    if origin is Literal:
        for choice in arguments:
            if choice == value and type(choice) is type(value):
                return choice
        choices = [str(c) for c in arguments]
        hinted = value_hint(name, str(value)) or nearest(str(value), choices)
        raise UsageError(f"{name}: got {value!r}, expected one of {', '.join(choices)}.{hinted}")
    if origin is tuple:
        return _convert_tuple(arguments, value, name)
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise UsageError(f"{name}: got {value!r}, expected a mapping")
        _refuse_interpolation(value, name)
        return dict(value)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, typing.cast(type, hint)) else read(hint, value, name)
    return _convert_scalar(hint, value, name)


def _convert_tuple(items: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UsageError(f"{name}: got {value!r}, expected a list such as [64,64]")
    if items[-1] is Ellipsis:
        items = items[:1] * len(value)
    if len(value) != len(items):
        raise UsageError(f"{name}: got {list(value)}, expected a list of {len(items)}")
    return tuple(_convert(items[i], item, f"{name}[{i}]") for i, item in enumerate(value))


def _convert_scalar(hint: type, value: Any, name: str) -> Any:
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str):
        _refuse_interpolation(value, name)
        return value
    if hint in (int, float):
        number = _number(value)
        if hint is float and number is not None:
            if not math.isfinite(number):
                raise UsageError(f"{name}: got {value}, expected a finite number")
            return number
        if hint is int and number is not None and abs(number) >= TOO_LARGE:
            raise UsageError(f"{name}: got {number:.3g}, expected a whole number below 2**63")
        if hint is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if hint is int and number is not None and number.is_integer():
            return int(number)
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    hinted = value_hint(name, str(value))
    raise UsageError(f"{name}: got {value!r}, expected {words[hint]}" + (hinted and f".{hinted}"))


def _number(value: Any) -> float | None:
    """The value as a float (infinite where it is too large), or None if it is no number."""
    # Text too: YAML 1.1 takes 1e-3 (no dot) for text.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None
    except OverflowError:
        return math.inf


def _refuse_interpolation(value: Any, name: str) -> None:
    """Nothing reads '${...}' today; refused, it stays inert whatever reads config.yaml tomorrow."""
    if isinstance(value, str) and "${" in value:
        raise UsageError(f"{name}: got {value!r}, expected plain text without '${{'")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_interpolation(key, name)
            _refuse_interpolation(item, f"{name}[{key!r}]")
    if isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _refuse_interpolation(item, f"{name}[{i}]")


_LIMITS = {
    "low": (operator.ge, ">="),
    "above": (operator.gt, ">"),
    "high": (operator.le, "<="),
    "below": (operator.lt, "<"),
}


def _check_range(value: Any, metadata: Mapping[str, Any], name: str) -> None:
    limits = {word: metadata[word] for word in _LIMITS if word in metadata}
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, bool) or not isinstance(item, int | float):
            continue
        if not all(_LIMITS[word][0](item, limit) for word, limit in limits.items()):
            wanted = " and ".join(f"{_LIMITS[word][1]} {limits[word]}" for word in limits)
            raise UsageError(f"{name}: got {item}, expected {wanted}")


def defaults(cls: type) -> dict[str, Any]:
    """All settings of a dataclass with their default values, nested, as plain JSON types."""
    return plain(cls())


def plain(settings: Any) -> Any:
    """A settings dataclass as plain dicts, lists and scalars (what config.yaml holds)."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        return {f.name: plain(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
    if isinstance(settings, tuple | list):
        return [plain(item) for item in settings]
    if isinstance(settings, Mapping):
        return {key: plain(value) for key, value in settings.items()}
    return settings
