"""Whether observations and actions are what their spaces say.

A check has two halves. `form` looks at one value: type, shape, dtype, and for Discrete the range.
`values` looks at a whole batch at once, and costs the same for one: finite, in range. Both only
answer yes or no, as fast as they can; `coerced` and `fault` find the words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from rlzoo.core.types import EnvError, UsageError

ARRAY_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class SpaceCheck:
    """The two tests for one space.

    Actions are also held to the limits of a Box, which many simulators overstep in observations,
    and floats may be rounded to the space's dtype (our own numbers are often float64).
    """

    def __init__(self, space: spaces.Space[Any], *, action: bool) -> None:
        if not isinstance(space, ARRAY_SPACES):
            names = ", ".join(kind.__name__ for kind in ARRAY_SPACES)
            raise UsageError(f"env: got the space {space}, expected one of {names}")
        self.space = space
        self._expected = describe_space(space, bounded=action)
        self._casting: Literal["safe", "same_kind"] = "same_kind" if action else "safe"
        self.form: Callable[[Any], bool] = _form_test(space)
        self.values: Callable[[np.ndarray], bool] = _values_test(space, bounded=action)

    def fits(self, value: Any) -> bool:
        """Whether one value is in the space, exactly as its type and dtype stand."""
        return self.form(value) and self.values(value)

    def coerced(self, value: Any) -> Any:
        """One value in the space's own type, or an EnvError that says what is wrong.

        As in gymnasium, a NumPy integer is an integer, and an observation's dtype may be widened.
        """
        if isinstance(self.space, spaces.Discrete):
            if np.shape(value) == () and np.asarray(value).dtype.kind in "iu":
                value = int(value)
        elif isinstance(value, np.ndarray | np.generic):
            dtype = np.dtype(self.space.dtype)
            if np.can_cast(value.dtype, dtype, self._casting):
                value = np.asarray(value, dtype=dtype)
        if not self.form(value):
            raise EnvError(f"got {describe(value)}, expected {self._expected}")
        return value

    def fault(self, value: Any) -> str:
        """What is wrong with the values of something whose form is right."""
        array = np.asarray(value)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            where = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
            return f"got {array[where]} at index {list(where)}, expected finite numbers"
        return f"got {describe(value)}, expected {self._expected}"


def describe(value: Any) -> str:
    """A value in one short piece of text."""
    if isinstance(value, np.ndarray) and value.size > 8:
        return f"{value.dtype} {value.shape}"
    if isinstance(value, np.ndarray):
        return f"{value.tolist()}, {value.dtype} {value.shape}"
    return f"{value!r:.80}"


def describe_space(space: spaces.Space[Any], *, bounded: bool) -> str:
    """What belongs to a space, in one line (the repr of a large Box has many)."""
    if isinstance(space, spaces.Discrete):
        return f"an integer from {space.start} to {space.start + space.n - 1}"
    text = f"{space.dtype} {space.shape}"
    if isinstance(space, spaces.MultiDiscrete):
        return f"{text} up to {(space.start + space.nvec - 1).tolist()}"
    if isinstance(space, spaces.Box) and bounded:
        return f"{text} from {space.low.min():g} to {space.high.max():g}"
    return text


def _form_test(space: spaces.Space[Any]) -> Callable[[Any], bool]:
    if isinstance(space, spaces.Discrete):
        low, high = int(space.start), int(space.start + space.n)
        return lambda value: value.__class__ is int and low <= value < high
    shape, dtype, array = space.shape, space.dtype, np.ndarray
    return lambda value: value.__class__ is array and value.shape == shape and value.dtype == dtype


def _values_test(space: spaces.Space[Any], *, bounded: bool) -> Callable[[np.ndarray], bool]:
    if isinstance(space, spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec - 1
        return lambda x: bool(((x >= low) & (x <= high)).all())
    if isinstance(space, spaces.Box) and bounded:  # a NaN is in no interval
        low, high = space.low, space.high
        return lambda x: bool(((x >= low) & (x <= high)).all() and np.isfinite(x).all())
    if isinstance(space, spaces.Box) and np.dtype(space.dtype).kind == "f":
        return _all_finite
    if isinstance(space, spaces.MultiBinary):
        return lambda x: bool((x <= 1).all() and (x >= 0).all())
    return lambda x: True


def _all_finite(x: np.ndarray) -> bool:
    # Looks for a False byte: half the time of `.all()` on the few numbers of a small observation.
    return b"\0" not in np.isfinite(x).tobytes()
