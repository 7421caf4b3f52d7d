"""Settings: frozen dataclasses that say type, range and meaning, and the strict reader for them.

Knows nothing of Hydra: any plain mapping (YAML, JSON, a test's dict) is read the same way.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from rlzoo.types import UsageError


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A dataclass field with a meaning (units, source) and a range: low <= x <= high, above < x."""
    limits = {"low": low, "high": high, "above": above, "below": below}
    metadata = {"help": help, **{k: v for k, v in limits.items() if v is not None}}
    if isinstance(default, dict | list):
        raise TypeError("a setting's default must be immutable")
    return dataclasses.field(default=default, metadata=metadata)


def nearest(word: str, choices: Iterable[str]) -> str:
    """' Did you mean X?' for the closest choice, or an empty string."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


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
            raise UsageError(
                f"unknown setting '{full}'.{nearest(str(key), fields)} "
                f"Known here: {', '.join(sorted(fields))}"
            )
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
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        options = get_args(hint)
        if value is None and type(None) in options:
            return None
        return _convert(next(o for o in options if o is not type(None)), value, name)
    if origin is Literal:
        if value in get_args(hint):
            return value
        choices = [str(c) for c in get_args(hint)]
        hinted = nearest(str(value), choices)
        raise UsageError(f"{name}: got {value!r}, expected one of {', '.join(choices)}.{hinted}")
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UsageError(f"{name}: got {value!r}, expected a list such as [64,64]")
        item = get_args(hint)[0]
        return tuple(_convert(item, v, f"{name}[{i}]") for i, v in enumerate(value))
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise UsageError(f"{name}: got {value!r}, expected a mapping")
        return dict(value)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, typing.cast(type, hint)) else read(hint, value, name)
    return _convert_scalar(hint, value, name)


def _convert_scalar(hint: type, value: Any, name: str) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and is_number and float(value).is_integer():
        return int(value)
    if hint is float and (is_number or _is_number(value)):
        number = float(value)
        if not math.isfinite(number):
            raise UsageError(f"{name}: got {value}, expected a finite number")
        return number
    if hint is str and isinstance(value, str):
        if "${" in value:
            raise UsageError(f"{name}: got {value!r}, expected plain text without '${{'")
        return value
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    raise UsageError(f"{name}: got {value!r}, expected {words[hint]}")


def _is_number(value: Any) -> bool:
    # YAML 1.1 reads 1e-3 (no dot) as text.
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def _check_range(value: Any, limits: Mapping[str, Any], name: str) -> None:
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, bool) or not isinstance(item, int | float):
            continue
        fits = (
            item >= limits.get("low", -math.inf)
            and item <= limits.get("high", math.inf)
            and item > limits.get("above", -math.inf)
            and item < limits.get("below", math.inf)
        )
        if not fits:
            signs = {"low": ">=", "high": "<=", "above": ">", "below": "<"}
            wanted = " and ".join(f"{signs[k]} {limits[k]:g}" for k in signs if k in limits)
            raise UsageError(f"{name}: got {item}, expected {wanted}")
