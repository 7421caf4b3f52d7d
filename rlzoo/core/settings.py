"""Settings: frozen dataclasses that say type, range and meaning (`rlzoo.run.strict` reads them)."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
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


def nearest(word: str, choices: Iterable[str], cutoff: float = 0.65) -> str:
    """' Did you mean X?' for the closest choice, or an empty string: a wrong guess is worse."""
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return f" Did you mean '{by_lower[close[0]]}'?" if close else ""


def between(first: float, last: float, share: float) -> float:
    """From `first` to `last` in a straight line as `share` goes from 0 to 1, and no further."""
    return first + min(1.0, share) * (last - first)
