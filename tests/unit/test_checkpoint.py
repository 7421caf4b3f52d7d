"""Checkpoints: what goes in comes out, what is shared is shared, what is old goes."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlzoo.core.parts import state_of
from rlzoo.core.seeding import numpy_generator
from rlzoo.core.types import DataError
from rlzoo.io import checkpoint, encoding, files
from rlzoo.io.checkpoint import best, load, mark_best, newest, save

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "checkpoint_schema_1"


def golden_state() -> dict:
    """What the checkpoint under golden/data holds (saved with chunks of 64 bytes)."""
    return {
        "counters": {"env_steps": 1200, "phase": "train", "best": None, "exact": True},
        "generator": {"state": 2**127 + 3, "inc": 2**100 + 1},
        "returns": [1.5, -0.0, math.inf, 0.1],
        "q_table": np.arange(12, dtype=np.float64).reshape(3, 4) / 7,
        "frames": np.arange(200, dtype=np.uint8).reshape(10, 20),
        "net": {"0.weight": np.array([[0.5, -2.0]], np.float32), "steps": np.array(7)},
    }


TORCH_DTYPES = [
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.float32, torch.float64),
]


def assert_equal(got, expected, where="state"):
    """Same structure, key order, types and bits."""
    if isinstance(expected, torch.Tensor):
        assert isinstance(got, torch.Tensor), where
        got, expected = got.numpy(), expected.detach().numpy()
    if isinstance(expected, np.ndarray):
        assert isinstance(got, np.ndarray), where
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape), where
        assert got.tobytes() == expected.tobytes(), where
    elif isinstance(expected, dict):
        assert list(got) == list(expected), where
        for key, value in expected.items():
            assert_equal(got[key], value, f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(got) == len(expected), where
        for i, value in enumerate(expected):
            assert_equal(got[i], value, f"{where}/{i}")
    else:
        assert type(got) is type(expected) and repr(got) == repr(expected), where


def fail(line: str) -> None:
    raise AssertionError(f"unexpected warning: {line}")


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(checkpoint, "LARGE_BYTES", 1000)
    monkeypatch.setattr(checkpoint, "CHUNK_BYTES", 500)


def chunk_files(path: Path) -> dict[str, int]:
    """Name -> inode of the chunks of one checkpoint."""
    return {file.name: file.stat().st_ino for file in path.glob("chunk_*")}


# --- round trip ------------------------------------------------------------------------------


def test_every_kind_of_leaf_comes_back_exactly(tmp_path):
    state = {
        "z_first": {"generator": state_of(numpy_generator(3, "test"))},
        "a_second": [1, True, None, "text \u00e9 \U0001f600", [], {}, 2**200, -(2**128)],
        "floats": [0.1, -0.0, 5e-324, math.inf, -math.inf, math.nan, 1e308],
        "arrays": [
            np.arange(6).reshape(2, 3).astype(dtype)
            for dtype in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "?")
        ],
        "zero_d": np.array(2.5),
        "empty": np.zeros((3, 0, 2), np.float32),
        "nan": np.array([np.nan, np.inf, -0.0]),
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "strided": np.arange(10)[::-3],
        "tuple": (1, np.array([True, False])),
        "torch": {
            "weight": torch.linspace(0, 1, 7, requires_grad=True),
            "steps": torch.tensor(5),
            "rng": torch.Generator().manual_seed(1).get_state(),
            "view": torch.arange(12).reshape(3, 4)[:, 1],
            "empty": torch.zeros(3, 0),
            "dtypes": [torch.ones(2, 3, dtype=dtype) for dtype in TORCH_DTYPES],
        },
    }
    assert_equal(load(save(tmp_path, 1, state)), state)


def test_loaded_arrays_can_be_written_to(tmp_path, small_chunks):
    small = {"small": np.zeros(3), "tensor": torch.zeros(3)}
    large = {"large": np.zeros(300), "large_tensor": torch.zeros(300)}
    state = load(save(tmp_path, 1, small | large))
    assert_equal(state, small | large)  # also where they are cut into chunks
    for array in state.values():
        array += 1


@pytest.mark.parametrize(
    "keys",
    [
        ("$tensor", "$$tensor", "$", ""),
        ("$torch", "$$torch", "torch", "tensor"),
        ("a/b", "a~1b", "a~b", "a"),
        ("__metadata__", "0", "0.weight", "\u00e9 \n"),
    ],
)
def test_keys_that_look_like_our_own_marks_survive(tmp_path, keys):
    state = {
        key: {"$tensor": np.array(i), "$torch": torch.tensor(i), "b": i}
        for i, key in enumerate(keys)
    }
    state["flat"] = {key: key for key in keys}
    assert_equal(load(save(tmp_path, 1, state)), state)


def test_arrays_whose_paths_look_alike_are_told_apart(tmp_path):
    state = {"a/b": np.array(0), "a": {"b": np.array(1)}, "a~1b": np.array(2), "c": [np.array(3)]}
    assert_equal(load(save(tmp_path, 1, state)), state)


def test_a_disk_that_takes_a_few_bytes_at_a_time(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:100]))
    assert_equal(load(save(tmp_path, 1, golden_state())), golden_state())


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["$tensor", "/a"]).map(lambda name: {"$tensor": name})
    | st.builds(lambda n: np.arange(n, dtype=np.int16), st.integers(0, 4))
    | st.builds(lambda n: torch.arange(n, dtype=torch.int16), st.integers(0, 4)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(state=st.dictionaries(st.sampled_from(["a", "$a", "/a", "~"]) | st.text(), json_values))
def test_decode_inverts_encode(state):
    tree, arrays = encoding.encode(state)
    assert_equal(encoding.decode(tree, arrays, Path("x")), state)


@pytest.mark.parametrize(
    ("leaf", "named"),
    [
        (np.float64(1.0), "float64"),
        (np.int64(1), "int64"),
        (object(), "object"),
        ({1, 2}, "set"),
        (b"bytes", "bytes"),
        (np.array([object()]), "object"),
        (np.array(["text"]), "<U4"),
        (np.array([1.0], ">f8"), ">f8"),
        (np.array([1j]), "complex128"),
        (torch.zeros(2, dtype=torch.bfloat16), "torch.bfloat16"),
        ({1: 2}, "the key 1"),
    ],
)
def test_other_leaves_are_refused_by_name_before_anything_is_written(tmp_path, leaf, named):
    with pytest.raises(TypeError, match=r"state/net/bad: got .*" + named.replace("<", "")):
        save(tmp_path / "checkpoints", 1, {"net": {"ok": 1, "bad": leaf}})
    assert not (tmp_path / "checkpoints").exists()


def test_a_state_too_deep_to_be_read_is_not_written(tmp_path):
    def nested(depth: int) -> dict:
        return {"inner": nested(depth - 1)} if depth else {"array": np.zeros(1)}

    most = files.MAX_JSON_DEPTH - 3
    assert_equal(load(save(tmp_path, 1, nested(most))), nested(most))
    with pytest.raises(TypeError, match="nested too deep"):
        save(tmp_path, 2, nested(most + 1))


def test_other_tools_can_read_the_tensors(tmp_path):
    path = save(tmp_path, 1, golden_state())
    arrays = safetensors.numpy.load_file(path / "tensors.safetensors")
    np.testing.assert_array_equal(arrays["/q_table"], golden_state()["q_table"])
    assert set(arrays) == {"/q_table", "/frames", "/net/0.weight", "/net/steps"}


# --- which are kept --------------------------------------------------------------------------


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir() if p.is_dir())


def test_keeps_the_newest_the_named_and_the_best(tmp_path):
    for step in (10, 20, 30, 40, 50):
        path = save(tmp_path, step, {"step": step}, keep_last=2, keep=["step_000000010"])
        assert path == tmp_path / checkpoint.step_name(step)
        if step == 20:
            assert best(tmp_path) is None
            mark_best(tmp_path, "step_000000020")
    expected = [checkpoint.step_name(step) for step in (10, 20, 40, 50)]
    assert names(tmp_path) == expected
    assert best(tmp_path) == tmp_path / "step_000000020"
    mark_best(tmp_path, "step_000000050")
    save(tmp_path, 60, {}, keep_last=1)
    assert names(tmp_path) == ["step_000000050", "step_000000060"]


def test_steps_sort_as_numbers(tmp_path):
    for step in (999_999_999, 1_000_000_000):
        save(tmp_path, step, {"step": step})
    found = newest(tmp_path, fail)
    assert found is not None and found[1] == {"step": 1_000_000_000}


def test_the_one_just_saved_is_the_newest_even_after_going_back(tmp_path):
    for step in (10, 20, 30):
        save(tmp_path, step, {"step": step}, keep_last=3)
    save(tmp_path, 15, {"step": 15}, keep_last=3)
    assert names(tmp_path) == ["step_000000010", "step_000000015"]


def test_saving_again_at_a_step_replaces_it(tmp_path):
    save(tmp_path, 10, {"x": np.zeros(3)})
    mark_best(tmp_path, "step_000000010")
    save(tmp_path, 10, {"x": np.ones(3)})
    assert_equal(load(tmp_path / "step_000000010"), {"x": np.ones(3)})
    assert sorted(os.listdir(tmp_path)) == ["best.json", "step_000000010"]


@pytest.mark.parametrize("replaced", [True, False])
def test_a_replacement_that_was_killed_is_finished_by_the_next_save(tmp_path, replaced):
    save(tmp_path, 10, {"value": "old"}).rename(tmp_path / "step_000000010.old")
    if replaced:
        save(tmp_path / "other", 10, {"value": "new"}).rename(tmp_path / "step_000000010")
    mark_best_file = tmp_path / "best.json"
    mark_best_file.write_text('{"name": "step_000000010"}')
    expected = "new" if replaced else "old"
    found = newest(tmp_path, fail)
    assert found is not None and found[1] == {"value": expected}
    marked = best(tmp_path)
    assert marked is not None and load(marked) == {"value": expected}
    save(tmp_path, 20, {})
    assert load(tmp_path / "step_000000010") == {"value": expected}
    assert not list(tmp_path.glob("*.old"))


def test_none_only_where_there_has_never_been_one(tmp_path):
    assert newest(tmp_path / "absent", fail) is None
    (tmp_path / f"{files.TEMPORARY}step_000000001").mkdir()  # killed in the very first save
    assert newest(tmp_path, fail) is None
    (tmp_path / "step_000000001").mkdir()
    with pytest.raises(DataError):
        newest(tmp_path, lambda line: None)


def test_keep_last_and_best_must_make_sense(tmp_path):
    with pytest.raises(ValueError, match="keep_last"):
        save(tmp_path, 1, {}, keep_last=0)
    with pytest.raises(ValueError, match="step_000000009"):
        mark_best(tmp_path, "step_000000009")
    for text in ('{"name": "../../etc"}', "[]", '{"name": 3}', "{"):
        (tmp_path / "best.json").write_text(text)
        with pytest.raises(DataError, match=r"best\.json"):
            best(tmp_path)


# --- chunks ----------------------------------------------------------------------------------


def test_unchanged_chunks_are_hard_links_and_changed_ones_are_not(tmp_path, small_chunks):
    buffer = np.arange(1000, dtype=np.uint16)  # 2000 bytes: 4 chunks
    first = save(tmp_path, 1, {"buffer": buffer})
    before = chunk_files(first)
    buffer[300] += 1  # byte 600: the second chunk
    second = save(tmp_path, 2, {"buffer": buffer})
    after = chunk_files(second)
    assert len(before) == len(after) == 4
    shared = before.keys() & after.keys()
    assert len(shared) == 3
    assert all(before[name] == after[name] for name in shared)
    assert all((second / name).stat().st_nlink == 2 for name in shared)
    (changed,) = after.keys() - before.keys()
    assert (second / changed).stat().st_nlink == 1
    assert_equal(load(second), {"buffer": buffer})
    save(tmp_path, 3, {"buffer": buffer}, keep_last=1)  # the first two are gone
    assert_equal(load(tmp_path / "step_000000003"), {"buffer": buffer})


def test_equal_chunks_are_written_once(tmp_path, small_chunks):
    state = {"zeros": np.zeros(5000, np.uint8), "more": np.zeros((11, 100), np.bool_)}
    path = save(tmp_path, 1, state)
    assert sorted(file.stat().st_size for file in path.glob("chunk_*")) == [100, 500]
    assert_equal(load(path), state)


def test_threshold_parts_small_from_large(tmp_path, small_chunks):
    state = {"small": np.zeros(1000, np.uint8), "large": np.zeros(1001, np.uint8)}
    path = save(tmp_path, 1, state)
    assert set(safetensors.numpy.load_file(path / "tensors.safetensors")) == {"/small"}
    assert_equal(load(path), state)


def test_damage_on_the_disk_is_not_inherited(tmp_path, small_chunks):
    state = {"buffer": np.arange(2000, dtype=np.uint8)}
    first = save(tmp_path, 1, state)
    damaged = next(first.glob("chunk_*"))
    damaged.write_bytes(bytes(damaged.stat().st_size))
    second = save(tmp_path, 2, state)
    assert_equal(load(second), state)
    with pytest.raises(DataError, match=damaged.name):
        load(first)


def test_file_systems_without_hard_links_get_copies(tmp_path, small_chunks, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    state = {"buffer": np.arange(2000, dtype=np.uint8)}
    first, second = save(tmp_path, 1, state), save(tmp_path, 2, state)
    assert chunk_files(first).keys() == chunk_files(second).keys()
    assert not set(chunk_files(first).values()) & set(chunk_files(second).values())
    assert_equal(load(second), state)


# --- schema ----------------------------------------------------------------------------------


def test_the_golden_checkpoint_still_loads():
    """It is of schema 1, from which tensors come back as arrays, too."""
    assert len(list(GOLDEN.glob("chunk_*"))) == 4
    assert_equal(load(GOLDEN), golden_state())


def test_an_older_schema_is_migrated_step_by_step(monkeypatch):
    monkeypatch.setattr(checkpoint, "SCHEMA", 3)
    monkeypatch.setattr(
        checkpoint,
        "MIGRATIONS",
        {1: lambda s: {"q": s["q_table"]}, 2: lambda s: {"table": s["q"] * 2}},
    )
    assert_equal(load(GOLDEN), {"table": golden_state()["q_table"] * 2})


def test_a_schema_that_cannot_be_read_is_refused_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "MIGRATIONS", {})
    with pytest.raises(DataError, match=r"older rlzoo .* no migration from schema 1 to 2"):
        load(GOLDEN)
    save(tmp_path, 5, {})
    monkeypatch.setattr(checkpoint, "SCHEMA", 1)
    save(tmp_path / "aside", 4, {}).rename(tmp_path / "step_000000004")
    with pytest.raises(DataError, match=r"newer rlzoo .*schema 2.* reads up to 1.*upgrade"):
        newest(tmp_path, fail)  # not corrupt: no silent fall-back to the older one


def test_reached_step_counts_what_a_kill_left_over(tmp_path):
    assert checkpoint.reached_step(tmp_path / "none") == 0
    for name in ("step_000000128", "step_000004608.old", "best.json", ".rlzoo-tmp-x", "step_x"):
        (tmp_path / name).mkdir()
    assert checkpoint.reached_step(tmp_path) == 4608
