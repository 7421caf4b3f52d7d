"""A checkpoint from somebody who means harm: refused at once, in one line, and nothing runs."""

import json
import os
import pickle
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hostile_runs import replace, sign

from rlzoo.core.types import DataError
from rlzoo.io import checkpoint, encoding, files
from rlzoo.io.checkpoint import load, save


@pytest.fixture
def victim(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(checkpoint, "LARGE_BYTES", 1000)
    monkeypatch.setattr(checkpoint, "CHUNK_BYTES", 500)
    buffer = np.arange(2000).astype(np.uint8)
    return save(tmp_path / "checkpoints", 1, {"weights": np.ones(20), "buffer": buffer})


def refused(path: Path, match: str) -> None:
    start = time.process_time()
    with pytest.raises(DataError, match=match) as caught:
        load(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert str(path) in str(caught.value)
    assert time.process_time() - start < 1


def test_control_a_well_made_change_is_accepted(victim):
    replace(victim, "state.json", b'{"planted": [1, {"$tensor": "/weights"}]}')
    assert load(victim)["planted"][0] == 1


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_a_renamed_pickle_runs_nothing(victim, tmp_path, name):
    canary = tmp_path / "canary"
    data = pickle.dumps({"weights": Canary(canary)})
    if name == "manifest.json":
        (victim / name).write_bytes(data)
    else:
        replace(victim, name, data)
    refused(victim, name)
    assert not canary.exists()
    pickle.loads(data)  # control: the canary would have sung
    assert canary.exists()


def tensors_file(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def entry(begin: Any, end: Any, shape: Any = (2,), dtype: Any = "F64") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "header too small"),
        (b"1234567", "header of 15540725856023089 bytes"),
        (tensors_file({}, length=7 << 40), "header of 7696581394432 bytes"),
        (tensors_file({}, length=2**64 - 1), "header of"),
        (tensors_file({}, length=3), "invalid header length"),
        (tensors_file(b"[" * 100_000), "invalid JSON"),
        (tensors_file(b'{"a":' * 100 + b"1" + b"}" * 100), "invalid JSON"),
        (tensors_file(b"9" * 10_000), "invalid JSON"),
        (tensors_file([]), "invalid JSON"),
        (tensors_file({"a": []}), "invalid JSON"),
        (tensors_file({"a": {**entry(0, 16), "data_offsets": [0]}}, bytes(16)), "invalid JSON"),
        (
            tensors_file({"a": entry(0, 16), "b": entry(8, 24)}, bytes(24)),
            "offset for tensor `[ab]`",
        ),
        (
            tensors_file({"a": entry(0, 16), "b": entry(0, 16)}, bytes(16)),
            "offset for tensor `[ab]`",
        ),
        (
            tensors_file({"a": entry(0, 16), "b": entry(24, 40)}, bytes(40)),
            "offset for tensor `[ab]`",
        ),
        (tensors_file({"a": entry(8, 24)}, bytes(24)), "offset for tensor `a`"),
        (tensors_file({"a\nb": entry(8, 24)}, bytes(24)), r"offset for tensor `a\\nb`"),
        (tensors_file({"a": entry(0, 16)}, bytes(15)), "not fully covered"),
        (tensors_file({"a": entry(0, 16)}, bytes(17)), "not fully covered"),
        (tensors_file({}, bytes(1)), "not fully covered"),
        (tensors_file({"a": entry(-16, 0)}, bytes(16)), "integer `-16`"),
        (tensors_file({"a": entry(0, 16.0)}, bytes(16)), "floating point `16.0`"),
        (tensors_file({"a": entry(False, 16)}, bytes(16)), "boolean `false`"),
        (tensors_file({"a": entry(16, 0)}, bytes(16)), "offset for tensor `a`"),
        (tensors_file({"a": entry(0, 8)}, bytes(8)), "invalid shape, data type, or offset"),
        (tensors_file({"a": entry(0, 0, [2**32, 2**32])}), "overflow"),
        (tensors_file({"a": entry(0, 0, [0, 2**62])}), "got the shape"),
        (tensors_file({"a": entry(0, 0, [0, 2**70])}), "invalid JSON"),
        (tensors_file({"a": entry(0, 0, [1] * 40 + [0])}), "got the shape"),
        (tensors_file({"a": entry(0, 16, [-2])}, bytes(16)), "integer `-2`"),
        (tensors_file({"a": entry(0, 16, [2.0])}, bytes(16)), "floating point `2.0`"),
        (tensors_file({"a": entry(0, 16, 2)}, bytes(16)), "expected a sequence"),
        (tensors_file({"a": entry(0, 16, dtype="O")}, bytes(16)), "unknown variant `O`"),
        (tensors_file({"a": entry(0, 16, dtype=["F64"])}, bytes(16)), "expected string"),
        (
            tensors_file({"a": entry(0, 4, dtype="BF16")}, bytes(4)),
            "got the dtype 'BF16', expected",
        ),
        (tensors_file({"a": entry(0, 2, dtype="F8_E4M3")}, bytes(2)), "got the dtype 'F8_E4M3'"),
        (tensors_file({"a": entry(0, 1, dtype="F4")}, bytes(1)), "got the dtype 'F4'"),
        (tensors_file({"a": entry(0, 16, dtype="C64")}, bytes(16)), "got the dtype 'C64'"),
    ],
)
def test_tensor_files_that_lie_are_refused(victim, data, match):
    replace(victim, "tensors.safetensors", data)
    refused(victim, match)


def test_control_a_sound_tensor_file_made_by_hand_is_read():
    header = {"b": entry(0, 0, [0]), "a": entry(0, 16) | {"unknown": 1}}
    data = tensors_file(header, np.array([1.5, 2]).tobytes())
    arrays = encoding.read_safetensors(data, Path("x"))
    np.testing.assert_equal(arrays, {"a": np.array([1.5, 2]), "b": np.zeros(0)})
    np.testing.assert_equal(arrays["a"], safetensors.numpy.load(data)["a"])


def test_a_giant_header_that_is_really_there_is_refused_unparsed(victim, monkeypatch):
    monkeypatch.setattr(encoding, "MAX_HEADER_BYTES", 1 << 10)
    replace(victim, "tensors.safetensors", tensors_file(b" " * 2000 + b"{}"))
    refused(victim, "header of 2002 bytes, expected at most 1024")


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("state.json", "[1]", "holds no state"),
        ("state.json", '{"a": {"$tensor": "/absent"}}', "'/absent', which is not there"),
        ("state.json", '{"a": {"$tensor": ["/weights"]}}', "not there"),
        ("state.json", '{"a": {"$tensor": "/weights", "b": 1}}', "not there"),
        ("state.json", '{"a": {"$torch": "/absent"}}', "'/absent', which is not there"),
        ("state.json", '{"a": {"$torch": "/weights", "$tensor": "/weights"}}', "not there"),
        ("state.json", '{"a":' * 100 + "1" + "}" * 100, "nested deeper"),
        ("state.json", "[" * 100_000, "not valid JSON"),
        ("state.json", "[" * 1_000_000, "too many to be read"),
        ("state.json", '{"a": ' + "9" * 5000 + "}", "not valid JSON"),
        ("manifest.json", "[" * 100_000, "not valid JSON"),
        ("manifest.json", "[]", "not a mapping"),
    ],
)
def test_json_that_lies_is_refused(victim, name, text, match):
    if name == "manifest.json":
        (victim / name).write_text(text)
    else:
        replace(victim, name, text.encode())
    refused(victim, rf"{name}: .*{match}")


def test_json_beyond_the_limit_is_refused_unread(victim, monkeypatch):
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 5000)
    replace(victim, "state.json", b" " * 5001 + b"{}")
    refused(victim, "got 5003 bytes")
    (victim / "manifest.json").write_bytes(b" " * 5001 + b"{}")
    refused(victim, r"manifest\.json: 5003 bytes, expected at most 5000")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "chunk_..", "x.py", "", "."])
def test_a_manifest_can_only_name_our_own_files(victim, name):
    sign(victim, lambda m: m["files"].update({name: {"size": 0, "sha256": "0" * 64}}))
    refused(victim, "refused the file name")


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda m: m["files"].pop("state.json"), "does not list 'state.json'"),
        (lambda m: m.update(files=[]), "not a manifest"),
        (lambda m: m.update(chunked=None), "not a manifest"),
        (lambda m: m.update(schema="1"), "schema '1'"),
        (lambda m: m.update(schema=True), "schema True"),
        (lambda m: m["files"]["state.json"].update(size=-1), "state.json is malformed"),
        (lambda m: m["files"]["state.json"].update(size=1 << 50), "bytes"),
        (lambda m: m["files"]["state.json"].update(sha256=["0"]), "state.json is malformed"),
        (lambda m: m["files"].update({"state.json": 3}), "state.json is malformed"),
        (lambda m: m["chunked"].update({"/buffer": 3}), "chunked array is malformed"),
        (lambda m: m["chunked"]["/buffer"].update(files=["../x"]), "not listed"),
        (lambda m: m["chunked"]["/buffer"].update(files=[["x"]]), "not listed"),
        (lambda m: m["chunked"]["/buffer"].update(shape=[2001]), "has 2000 bytes, not 2001"),
        (lambda m: m["chunked"]["/buffer"].update(shape=[2**70, 0]), "the shape"),
        (lambda m: m["chunked"]["/buffer"].update(dtype="O"), "the dtype 'O'"),
    ],
)
def test_manifests_that_lie_are_refused(victim, edit, match):
    sign(victim, edit)
    refused(victim, match)


def test_a_small_file_cannot_claim_more_than_the_memory(victim):
    def bomb(manifest: dict) -> None:
        layout = manifest["chunked"]["/buffer"]
        layout["files"] = layout["files"][:1] * 10_000
        manifest["files"][layout["files"][0]]["size"] = 1 << 40
        layout["shape"] = [10_000 << 40]

    sign(victim, bomb)
    refused(victim, "bytes of memory")


def test_a_sparse_giant_is_refused_before_it_is_read(victim):
    with (victim / "tensors.safetensors").open("r+b") as file:
        file.truncate(8 << 40)
    sign(victim, lambda m: m["files"]["tensors.safetensors"].update(size=8 << 40))
    refused(victim, r"tensors\.safetensors: needs 8796093022208 bytes of memory")


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json", "chunk"])
@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "socket"])
def test_only_regular_files_are_opened(victim, tmp_path, name, kind):
    file = next(file for file in sorted(victim.iterdir()) if file.name.startswith(name))
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    if kind == "symlink":
        file.symlink_to(elsewhere)  # even to the right content
    elif kind == "fifo":
        os.mkfifo(file)  # opening it for reading would wait for ever
    elif kind == "directory":
        file.mkdir()
    else:
        os.mknod(file, 0o140600)
    refused(victim, "not a regular file")


def test_control_a_fifo_hangs_those_who_open_it(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["cat", str(tmp_path / "fifo")], timeout=0.2)
