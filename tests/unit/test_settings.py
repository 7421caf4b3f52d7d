"""The strict reader: what it takes, what it refuses, and what it says then."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlzoo.core.settings import nearest, setting
from rlzoo.core.types import UsageError
from rlzoo.run import strict
from rlzoo.run.strict import defaults, plain, read


@dataclass(frozen=True)
class Inner:
    depth: int = setting(2, "layers", low=1)


@dataclass(frozen=True)
class Outer:
    lr: float = setting(1e-3, "learning rate", above=0)
    gamma: float = setting(0.99, "discount", low=0, high=1)
    share: float = setting(0.5, "open interval", above=0, below=1)
    steps: int = setting(100, "env steps", low=1)
    double: bool = setting(False, "a flag")
    title: str = setting("", "free text")
    loss: Literal["huber", "squared"] = setting("huber", "of the TD error")
    bits: Literal[8, 16] = setting(8, "per value")
    norm: float | None = setting(10.0, "clip", above=0)
    hidden: tuple[int, ...] = setting((64, 64), "layer sizes", low=1)
    betas: tuple[float, float] = setting((0.9, 0.999), "a pair", low=0, below=1)
    kwargs: dict[str, Any] | None = None
    anything: Any = None
    inner: Inner = field(default_factory=Inner)

    def check(self) -> None:
        if self.double and self.loss == "squared":
            raise UsageError("double with squared")


def refusal(values: Any, path: str = "") -> str:
    with pytest.raises(UsageError) as caught:
        read(Outer, values, path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_is_left_out_takes_the_default() -> None:
    assert read(Outer, {}) == Outer()
    assert read(Outer, {"gamma": 0.5}) == dataclasses.replace(Outer(), gamma=0.5)
    assert read(Outer, {"inner": {}}).inner == Inner(depth=2)


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("lr", "1e-3", 1e-3),  # how YAML 1.1 hands over a number without a dot
        ("lr", 1, 1.0),
        ("steps", 1e6, 1_000_000),
        ("steps", "1e6", 1_000_000),
        ("steps", 2**62 + 1, 2**62 + 1),  # no detour over a float
        ("gamma", 0, 0.0),
        ("gamma", 1, 1.0),
        ("norm", None, None),
        ("norm", "5", 5.0),
        ("loss", "squared", "squared"),
        ("bits", 16, 16),
        ("hidden", [], ()),
        ("hidden", [32, 16.0], (32, 16)),
        ("betas", [0, "0.5"], (0.0, 0.5)),
        ("kwargs", {"map": "4x4", "n": [1]}, {"map": "4x4", "n": [1]}),
        ("inner", {"depth": 3}, Inner(3)),
        ("inner", Inner(4), Inner(4)),
    ],
)
def test_converts(key: str, given: Any, expected: Any) -> None:
    value = getattr(read(Outer, {key: given}), key)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("lr", 0, "expected > 0"),
        ("lr", -1, "expected > 0"),
        ("gamma", 2, "expected >= 0 and <= 1"),
        ("gamma", -0.1, "expected >= 0 and <= 1"),
        ("share", 0, "expected > 0 and < 1"),
        ("share", 1, "expected > 0 and < 1"),
        ("steps", 0, "expected >= 1"),
        ("norm", 0, "expected > 0"),
        ("hidden", [64, 0], "expected >= 1"),
        ("betas", [0.9, 1], "expected >= 0 and < 1"),
        ("lr", float("nan"), "expected a finite number"),
        ("lr", float("inf"), "expected a finite number"),
        ("lr", "nan", "expected a finite number"),
        ("lr", "-Infinity", "expected a finite number"),
        ("lr", 10**400, "expected a finite number"),
        ("norm", float("nan"), "expected a finite number"),
        ("steps", float("nan"), "expected a whole number"),
        ("steps", float("inf"), "expected a whole number"),
        ("steps", 1.5, "expected a whole number"),
        ("steps", True, "expected a whole number"),
        ("steps", "many", "expected a whole number"),
        ("steps", None, "expected a whole number"),
        ("lr", True, "expected a number"),
        ("lr", "fast", "expected a number"),
        ("lr", None, "expected a number"),
        ("lr", [1], "expected a number"),
        ("double", 1, "expected true or false"),
        ("double", "true", "expected true or false"),
        ("title", 3, "expected text"),
        ("title", None, "expected text"),
        ("loss", "hubber", "expected one of huber, squared. Did you mean 'huber'?"),
        ("loss", ["huber"], "expected one of huber, squared."),
        ("bits", True, "expected one of 8, 16."),
        ("bits", 8.0, "expected one of 8, 16."),
        ("hidden", 64, "expected a list such as [64,64]"),
        ("hidden", "64", "expected a list such as [64,64]"),
        ("hidden", [64, "big"], "expected a whole number"),
        ("betas", [0.9], "expected a list of 2"),
        ("betas", [0.9, 0.9, 0.9], "expected a list of 2"),
        ("kwargs", [1], "expected a mapping"),
        ("inner", 3, "expected a group of settings"),
        ("inner", {"depth": 0}, "expected >= 1"),
    ],
)
def test_refuses(key: str, given: Any, expected: str) -> None:
    message = refusal({key: given}, "algo")
    assert message.startswith(f"algo.{key}")
    assert expected in message


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"title": "${oc.env:HOME}"}, "title"),
        ({"kwargs": {"map": "${seed}"}}, "kwargs['map']"),
        ({"kwargs": {"maps": [{"a": "x${y}"}]}}, "kwargs['maps'][0]['a']"),
        ({"kwargs": {"${x}": 1}}, "kwargs"),
        ({"anything": ["${now:}"]}, "anything[0]"),
    ],
)
def test_refuses_interpolation_at_any_depth(values: Any, name: str) -> None:
    message = refusal(values)
    assert message.startswith(f"{name}: got ")
    assert "without '${'" in message


def test_names_the_item_of_a_list_and_the_path_of_a_group() -> None:
    assert refusal({"hidden": [64, 0.5]}, "network").startswith("network.hidden[1]: got 0.5")
    assert refusal({"inner": {"depth": "x"}}, "algo").startswith("algo.inner.depth: got 'x'")


def test_an_unknown_key_names_the_nearest_one_and_all_others() -> None:
    message = refusal({"gama": 0.9}, "algo")
    assert message.startswith("unknown setting 'algo.gama'. Did you mean 'gamma'? Known here: ")
    assert all(f.name in message for f in dataclasses.fields(Outer))
    assert refusal({"inner": {"dept": 1}}).startswith("unknown setting 'inner.dept'.")
    assert "Did you mean" not in refusal({"zzzzzz": 1})
    assert refusal({3: 1}).startswith("unknown setting '3'.")
    # An unknown key is reported even when a known one is wrong too: the typo explains more.
    assert "unknown setting" in refusal({"gamma": 7, "_target_": "os.system"})


def test_settings_that_exclude_each_other_are_checked_last() -> None:
    assert refusal({"double": True, "loss": "squared"}) == "double with squared"


def test_a_group_that_is_no_mapping() -> None:
    assert refusal([1], "env") == "env: got [1], expected a group of settings"
    assert refusal("text").startswith("Outer: got 'text'")


def test_plain_is_json_and_reads_back() -> None:
    original = read(Outer, {"hidden": [3], "kwargs": {"a": (1, 2)}, "inner": {"depth": 5}})
    as_json = json.loads(json.dumps(plain(original)))
    assert as_json["hidden"] == [3]
    assert as_json["inner"] == {"depth": 5}
    assert plain(read(Outer, as_json)) == plain(original)
    assert defaults(Outer) == plain(Outer())


def test_default_values_obey_their_own_ranges() -> None:
    assert read(Outer, defaults(Outer)) == Outer()


def test_a_mutable_default_is_our_mistake() -> None:
    with pytest.raises(TypeError, match="immutable"):
        setting([64], "layers")


def test_nearest() -> None:
    assert nearest("dqnn", ["dqn", "ppo"]) == " Did you mean 'dqn'?"
    assert nearest("xyz", ["dqn", "ppo"]) == ""


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
KEYS = st.sampled_from([f.name for f in dataclasses.fields(Outer)]) | st.text(max_size=8)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_input_is_read_or_refused_in_one_line(values: dict[str, Any]) -> None:
    """And what is read is in range and reads back as itself: no other error, nothing half-read."""
    try:
        result = read(Outer, values)
    except UsageError as error:
        assert "\n" not in str(error)
        return
    assert 0 <= result.gamma <= 1
    assert result.steps >= 1
    assert result.lr > 0
    assert all(size >= 1 for size in result.hidden)
    again = {k: v for k, v in plain(result).items() if k not in ("anything", "kwargs")}
    assert plain(read(Outer, again)) == {**plain(result), "anything": None, "kwargs": None}


def test_control_the_range_check_is_what_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict, "_check_range", lambda *args: None)
    assert read(Outer, {"gamma": 2}).gamma == 2
