"""Checkpoints: safetensors + JSON, verified by hash, replaced without a moment of danger.

    checkpoints/step_000050000/   tensors.safetensors  state.json  manifest.json  chunk_<sha256>...
    checkpoints/best.json         the name of the best one

Arrays over `LARGE_BYTES` are cut into chunks named by their hash. A chunk that has not changed
since an earlier checkpoint is a hard link to the same bytes, so a replay buffer costs what is new.
Names that end in `.old` are checkpoints about to be replaced; they count until that is done.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from rlzoo.core.types import DataError, RlzooError, State, StorageError
from rlzoo.io import files, migrations
from rlzoo.io.encoding import (
    DTYPE_NAMES,
    DTYPES,
    array_bytes,
    decode,
    encode,
    read_safetensors,
    require,
)
from rlzoo.io.regular import foreign

SCHEMA = 2
# From schema n to n + 1. A schema without an entry cannot be read any more.
MIGRATIONS: dict[int, Callable[[State], State]] = {1: migrations.schema_1}

POLICY_ONLY = "exported"  # a key of states that can act but not be trained on

LARGE_BYTES = 64 << 20
CHUNK_BYTES = 8 << 20

_TENSORS = "tensors.safetensors"
_STATE = "state.json"
_MANIFEST = "manifest.json"
_BEST = "best.json"
_CHUNK = "chunk_"
_OLD = ".old"
_CHECKPOINT_NAME = re.compile(r"(step_[0-9]{9,18})(\.old)?")
_FILE_NAME = re.compile(rf"{re.escape(_TENSORS)}|{re.escape(_STATE)}|{_CHUNK}[0-9a-f]{{64}}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class SchemaError(DataError):
    """An intact checkpoint of a schema that this version cannot read."""


def step_name(step: int) -> str:
    """The name of the checkpoint of a step, such as 'step_000050000'."""
    return f"step_{step:09d}"


def save(
    directory: Path, step: int, state: State, *, keep_last: int = 2, keep: Sequence[str] = ()
) -> Path:
    """Write `state` as the newest checkpoint, `directory/step_name(step)`, and drop old ones.

    Kept are the newest `keep_last`, those named in `keep` and the best. Checkpoints of later steps
    belong to a future that this one abandons and are dropped, too. StorageError when the disk
    fails or is full: then the earlier checkpoints are as before.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last: got {keep_last}, expected at least 1")
    tree, arrays = encode(state)
    target = directory / step_name(step)
    temporary = directory / f"{files.TEMPORARY}{target.name}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _tidy(directory)
        temporary.mkdir()
        _write(temporary, step, tree, arrays, _chunks(directory))
        _put_in_place(temporary, target)
        _prune(target, keep_last, keep)
    except OSError as error:
        with suppress(OSError):
            _tidy(directory)
        reason = error.strerror or error
        raise StorageError(f"{target}: the checkpoint cannot be written: {reason}") from error
    return target


def check(state: State) -> None:
    """Refuse a state that could not be saved; RlzooError names the leaf that is no plain value."""
    try:
        encode(state)
    except TypeError as error:
        raise RlzooError(f"the algorithm's {error}") from error


def load(path: Path) -> State:
    """The state of one checkpoint, every byte verified; tensors come back on the CPU.

    DataError with one line that names the file when anything is corrupt, foreign or hostile.
    """
    manifest = _read_manifest(path)
    entries = manifest["files"]
    arrays = read_safetensors(_read_verified(path, _TENSORS, entries), path / _TENSORS)
    for name, layout in manifest["chunked"].items():
        arrays[name] = _read_chunked(path, layout, entries)
    tree = files.parse_json(_read_verified(path, _STATE, entries), path / _STATE)
    state = decode(tree, arrays, path / _STATE)
    with foreign(path):
        for schema in range(manifest["schema"], SCHEMA):
            state = MIGRATIONS[schema](state)
    return state


def newest(directory: Path, warn: Callable[[str], None]) -> tuple[Path, State] | None:
    """The newest checkpoint that verifies; None only when there has never been one.

    Each corrupt one that is passed over goes to `warn` as one line. DataError when there are
    checkpoints and none verifies.
    """
    before = _saved(directory)
    found, faults = _first_sound(directory)
    if faults and _saved(directory) != before:
        found, faults = _first_sound(directory)
    for fault in faults:
        warn(f"skipping a corrupt checkpoint: {fault}")
    if faults and found is None:
        raise DataError(f"{directory}: none of the {len(faults)} checkpoints here can be read")
    return found


def _first_sound(directory: Path) -> tuple[tuple[Path, State] | None, list[DataError]]:
    faults: list[DataError] = []
    for path in _checkpoints(directory):
        try:
            return (path, load(path)), faults
        except SchemaError:
            raise  # intact: falling back to an older one would throw training away
        except DataError as error:
            faults.append(error)
    return None, faults


def _saved(directory: Path) -> dict[str, int]:
    """What is there. If that has changed, a run has saved while it was read: try once more."""
    try:
        with os.scandir(directory) as entries:
            return {entry.name: entry.inode() for entry in entries}
    except OSError:
        return {}


def reached_step(directory: Path) -> int:
    """The step of the newest checkpoint, sound or not; 0 if there is none."""
    return max((_age(path)[0] for path in _checkpoints(directory)), default=0)


def mark_best(directory: Path, name: str) -> None:
    """Remember the checkpoint `name` (such as 'step_000050000') as the best; it is never pruned."""
    if not (directory / name).is_dir():
        raise ValueError(f"{directory}: got {name!r}, expected the name of a checkpoint there")
    files.write_atomic(directory / _BEST, json.dumps({"name": name}).encode())


def best(directory: Path) -> Path | None:
    """The checkpoint that was marked as the best, if there is one."""
    where = directory / _BEST
    if not os.path.lexists(where):
        return None
    mark = files.parse_json(files.read(where, limit=files.MAX_JSON_BYTES), where)
    name = str(mark.get("name")) if isinstance(mark, dict) else ""
    require(_CHECKPOINT_NAME.fullmatch(name) is not None, where, "names no checkpoint")
    return next((p for p in (directory / name, directory / (name + _OLD)) if p.is_dir()), None)


def load_best(directory: Path) -> tuple[Path, State] | None:
    """The checkpoint that was marked as the best, if there is one, and its state."""
    before = _saved(directory)
    try:
        return _load_best(directory)
    except DataError:
        if _saved(directory) == before:
            raise
        return _load_best(directory)


def _load_best(directory: Path) -> tuple[Path, State] | None:
    path = best(directory)
    return None if path is None else (path, load(path))


# --- writing ---------------------------------------------------------------------------------


def _write(
    folder: Path, step: int, tree: Any, arrays: dict[str, np.ndarray], twins: dict[str, Path]
) -> None:
    """Write all files of a checkpoint into an empty folder, the manifest last."""
    entries: dict[str, dict[str, Any]] = {}
    small = {name: a for name, a in arrays.items() if a.nbytes <= LARGE_BYTES}
    chunked = {
        name: _write_chunked(folder, array, entries, twins)
        for name, array in arrays.items()
        if array.nbytes > LARGE_BYTES
    }
    encoded_tree = json.dumps(tree).encode()
    size, containers = len(encoded_tree), encoded_tree.count(b"[") + encoded_tree.count(b"{")
    if size > files.MAX_JSON_BYTES or containers > files.MAX_JSON_CONTAINERS:
        raise RlzooError("the algorithm's state is too large for JSON: make its large parts arrays")
    for name, data in ((_TENSORS, safetensors.numpy.save(small)), (_STATE, encoded_tree)):
        entries[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        files.write(folder / name, data)
    fields = {"schema": SCHEMA, "step": step, "files": entries, "chunked": chunked}
    manifest = {**fields, "sha256": _sha256_of(fields)}
    files.write(folder / _MANIFEST, json.dumps(manifest, indent=1).encode())
    files.sync_directory(folder)


def _write_chunked(
    folder: Path, array: np.ndarray, entries: dict[str, dict[str, Any]], twins: dict[str, Path]
) -> dict[str, Any]:
    content = array.reshape(-1).view(np.uint8).data
    names = []
    for start in range(0, len(content), CHUNK_BYTES):
        piece = content[start : start + CHUNK_BYTES]
        sha256 = hashlib.sha256(piece).hexdigest()
        name = _CHUNK + sha256
        if name not in entries:
            files.write_linked(folder / name, piece, twins.get(name))
            entries[name] = {"size": len(piece), "sha256": sha256}
        names.append(name)
    return {"dtype": DTYPE_NAMES[array.dtype.str], "shape": list(array.shape), "files": names}


def _put_in_place(temporary: Path, target: Path) -> None:
    old = target.with_name(target.name + _OLD)
    if target.exists():
        files.publish(target, old)
    files.publish(temporary, target)
    if old.exists():
        files.remove(old)


def _tidy(directory: Path) -> None:
    """Finish or take back what a killed save left behind."""
    files.remove_leftovers(directory)
    for old in _checkpoints(directory):
        if old.name.endswith(_OLD):
            target = old.with_name(old.name.removesuffix(_OLD))
            if target.exists():
                files.remove(old)
            else:
                files.publish(old, target)


def _prune(saved: Path, keep_last: int, keep: Sequence[str]) -> None:
    paths = _checkpoints(saved.parent)
    past = paths[paths.index(saved) :]
    marked = best(saved.parent)
    for path in paths:
        if path not in past[:keep_last] and path.name not in keep and path != marked:
            files.remove(path)


def _checkpoints(directory: Path) -> list[Path]:
    """All checkpoints, sound or not, the newest first."""
    if not directory.exists():
        return []
    paths = [p for p in directory.iterdir() if _CHECKPOINT_NAME.fullmatch(p.name)]
    return sorted(paths, key=_age, reverse=True)


def _age(path: Path) -> tuple[int, bool]:
    name, old = path.name.removesuffix(_OLD), path.name.endswith(_OLD)
    return int(name.removeprefix("step_")), not old


def _chunks(directory: Path) -> dict[str, Path]:
    oldest_first = reversed(_checkpoints(directory))
    return {file.name: file for path in oldest_first for file in path.glob(_CHUNK + "*")}


# --- reading ---------------------------------------------------------------------------------


def _read_manifest(path: Path) -> dict[str, Any]:
    where = path / _MANIFEST
    manifest = files.parse_json(files.read(where, limit=files.MAX_JSON_BYTES), where)
    require(isinstance(manifest, dict), where, "not a mapping")
    expected, actual = manifest.pop("sha256", None), _sha256_of(manifest)
    require(
        actual == expected, where, f"corrupt: sha256 is {actual}, it says {expected!r:.70} itself"
    )
    _check_schema(manifest.get("schema"), path)
    entries, chunked = manifest.get("files"), manifest.get("chunked")
    require(isinstance(entries, dict) and isinstance(chunked, dict), where, "not a manifest")
    for name, entry in entries.items():
        require(_FILE_NAME.fullmatch(name) is not None, where, f"refused the file name {name!r}")
        sound = isinstance(entry, dict) and type(entry.get("size")) is int and entry["size"] >= 0
        sound = sound and isinstance(entry.get("sha256"), str)
        sound = sound and _SHA256.fullmatch(entry["sha256"]) is not None
        require(sound, where, f"the entry of {name} is malformed")
    return manifest


def _check_schema(schema: Any, path: Path) -> None:
    require(type(schema) is int, path / _MANIFEST, f"got the schema {schema!r:.100}")
    if schema > SCHEMA:
        raise SchemaError(
            f"{path}: written by a newer rlzoo (checkpoint schema {schema}, this version reads "
            f"up to {SCHEMA}): upgrade rlzoo to use it"
        )
    missing = [n for n in range(schema, SCHEMA) if n not in MIGRATIONS]
    if missing:
        raise SchemaError(
            f"{path}: written by an older rlzoo (checkpoint schema {schema}), and there is no "
            f"migration from schema {missing[0]} to {missing[0] + 1}: use the version that wrote it"
        )


def _read_verified(path: Path, name: str, entries: dict[str, dict[str, Any]]) -> bytes:
    where = path / name
    require(name in entries, path / _MANIFEST, f"does not list {name!r:.100}")
    size, expected = entries[name]["size"], entries[name]["sha256"]
    if name == _STATE:
        require(size <= files.MAX_JSON_BYTES, where, f"got {size} bytes, too many for a state")
    try:
        data = files.read(where, size=size)
    except DataError as error:
        raise DataError(f"{error} (sha256 {expected})") from error
    actual = hashlib.sha256(data).hexdigest()
    require(actual == expected, where, f"corrupt: sha256 is {actual}, expected {expected}")
    return data


def _read_chunked(path: Path, layout: Any, entries: dict[str, dict[str, Any]]) -> np.ndarray:
    where = path / _MANIFEST
    sound = isinstance(layout, dict) and layout.keys() == {"dtype", "shape", "files"}
    require(sound and isinstance(layout["files"], list), where, "a chunked array is malformed")
    known = all(isinstance(name, str) and name in entries for name in layout["files"])
    require(known, where, "a chunked array refers to a file that is not listed")
    total = array_bytes(layout["dtype"], layout["shape"], where)
    held = sum(entries[name]["size"] for name in layout["files"])
    require(held == total, where, f"a chunked array has {held} bytes, not {total}")
    files.require_memory(total, where)
    content = np.empty(total, np.uint8)
    position = 0
    for name in layout["files"]:
        piece = _read_verified(path, name, entries)
        content[position : position + len(piece)] = np.frombuffer(piece, np.uint8)
        position += len(piece)
    return content.view(DTYPES[layout["dtype"]]).reshape(layout["shape"])


def _sha256_of(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()
