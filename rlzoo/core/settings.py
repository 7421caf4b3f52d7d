"""Settings: frozen dataclasses that say type, range and meaning (`rlzoo.run.strict` reads them)."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

Schedule = Literal["constant", "linear"]


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    fixed: bool = False,
) -> Any:
    """A dataclass field with a meaning (units, source) and a range: low <= x <= high, above < x.

    A `fixed` setting is read only when a run begins (sizes, first values): no resume changes it.
    """
    limits = {"low": low, "high": high, "above": above, "below": below}
    metadata = {"help": help, "fixed": fixed, **{k: v for k, v in limits.items() if v is not None}}
    if isinstance(default, dict | list):
        raise TypeError("a setting's default must be immutable")
    return dataclasses.field(default=default, metadata=metadata)


def nearest(word: str, choices: Iterable[str]) -> str:
    """' Did you mean X?' for the closest choice, or an empty string."""
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return f" Did you mean '{by_lower[close[0]]}'?" if close else ""


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


def between(first: float, last: float, share: float) -> float:
    """From `first` to `last` in a straight line as `share` goes from 0 to 1, and no further."""
    share = min(1.0, share)
    return (1 - share) * first + share * last


def scheduled(first: float, schedule: Schedule, share: float) -> float:
    """`first`, or (linear) what is left of it when a share of the run is over: 0 at its end."""
    return first if schedule == "constant" else between(first, 0.0, share)
