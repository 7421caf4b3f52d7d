"""A state as a JSON tree plus named arrays, and the checks that make foreign ones safe to read."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rlzoo.core.types import DataError, State
from rlzoo.io.files import MAX_JSON_DEPTH, parse_json

MAX_HEADER_BYTES = 16 << 20
MAX_DIMENSIONS = 32
_TENSOR = "$tensor"  # {"$tensor": name} stands for an array; a key's own leading $ is doubled

# Names of dtypes in the safetensors format. All are little-endian on the disk.
DTYPES = {
    "BOOL": "|b1",
    **{f"U{8 * n}": f"{'<' if n > 1 else '|'}u{n}" for n in (1, 2, 4, 8)},
    **{f"I{8 * n}": f"{'<' if n > 1 else '|'}i{n}" for n in (1, 2, 4, 8)},
    **{f"F{8 * n}": f"<f{n}" for n in (2, 4, 8)},
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def encode(state: State) -> tuple[Any, dict[str, np.ndarray]]:
    """Split a state into a JSON tree and its arrays by name (a JSON pointer such as '/q/0.weight').

    TypeError names the first leaf that is neither an array, a tensor nor a JSON value. NumPy
    scalars are refused, too: they would come back as another type.
    """
    arrays: dict[str, np.ndarray] = {}
    return _encode(state, "", 0, arrays), arrays


def _encode(value: Any, name: str, depth: int, arrays: dict[str, np.ndarray]) -> Any:
    if depth >= MAX_JSON_DEPTH - 1:  # a leaf may become a mapping of its own
        raise TypeError(f"state{name}: nested too deep, expected at most {MAX_JSON_DEPTH} levels")
    if isinstance(value, dict):
        for key in value:
            if type(key) is not str:
                raise TypeError(f"state{name}: got the key {key!r}, expected text")
        return {
            ("$" + key if key.startswith("$") else key): _encode(
                item, f"{name}/{key.replace('~', '~0').replace('/', '~1')}", depth + 1, arrays
            )
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_encode(v, f"{name}/{i}", depth + 1, arrays) for i, v in enumerate(value)]
    if value is None or type(value) in (bool, int, float, str):
        return value
    arrays[name] = _as_array(value, name)
    return {_TENSOR: name}


def _as_array(value: Any, name: str) -> np.ndarray:
    torch = sys.modules.get("torch")  # not imported: then nothing can be a tensor
    if torch is not None and isinstance(value, torch.Tensor):
        try:
            value = value.detach().cpu().numpy()
        except TypeError as error:
            raise TypeError(f"state{name}: got {value.dtype}, convert it to float32") from error
    if not isinstance(value, np.ndarray):
        got = type(value).__name__
        raise TypeError(f"state{name}: got {got}, expected an array, a tensor or a JSON value")
    if value.dtype.str not in DTYPE_NAMES:
        raise TypeError(f"state{name}: got {value.dtype}, expected one of {', '.join(DTYPES)}")
    return np.asarray(value, order="C")


def decode(tree: Any, arrays: dict[str, np.ndarray], where: Path) -> State:
    """The inverse of `encode`; tensors come back as arrays. DataError where the tree is foreign."""
    state = _decode(tree, arrays, where)
    require(isinstance(state, dict), where, "holds no state")
    return state


def _decode(node: Any, arrays: dict[str, np.ndarray], where: Path) -> Any:
    if isinstance(node, list):
        return [_decode(item, arrays, where) for item in node]
    if not isinstance(node, dict):
        return node
    if _TENSOR in node:
        name = node[_TENSOR]
        known = len(node) == 1 and isinstance(name, str) and name in arrays
        require(known, where, f"refers to the array {name!r:.100}, which is not there")
        return arrays[name]
    return {key.removeprefix("$"): _decode(item, arrays, where) for key, item in node.items()}


def read_safetensors(data: bytes, where: Path) -> dict[str, np.ndarray]:
    """Arrays of a safetensors file; DataError unless every byte belongs to exactly one of them."""
    require(len(data) >= 8, where, "too short for a safetensors file")
    length = int.from_bytes(data[:8], "little")
    most = min(MAX_HEADER_BYTES, len(data) - 8)
    require(length <= most, where, f"header of {length} bytes, expected at most {most}")
    header = parse_json(data[8 : 8 + length], where)
    require(isinstance(header, dict), where, "the header is not a mapping")
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + length :]
    arrays: dict[str, np.ndarray] = {}
    position = 0
    for begin, end, name, dtype, shape in sorted(_spans(header, where)):
        require(begin == position, where, f"the bytes of {name!r:.100} overlap or leave a gap")
        require(end <= len(body), where, f"the bytes of {name!r:.100} go beyond the file's end")
        arrays[name] = np.frombuffer(body[begin:end], dtype).reshape(shape).copy()
        position = end
    require(position == len(body), where, "bytes at the end belong to no array")
    return arrays


def _spans(header: dict[str, Any], where: Path) -> list[tuple[int, int, str, str, list[int]]]:
    spans = []
    for name, entry in header.items():
        complaint = f"the header entry of {name!r:.100} is malformed"
        require(
            isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"},
            where,
            complaint,
        )
        size = array_bytes(entry["dtype"], entry["shape"], where)
        offsets = entry["data_offsets"]
        require(_are_counts(offsets) and len(offsets) == 2, where, complaint)
        begin, end = offsets
        require(end - begin == size, where, f"{name!r:.100} has {end - begin} bytes, not {size}")
        spans.append((begin, end, name, DTYPES[entry["dtype"]], entry["shape"]))
    return spans


def array_bytes(dtype: Any, shape: Any, where: Path) -> int:
    """Size in bytes of an array as a foreign file describes it; DataError if there can't be one."""
    known = isinstance(dtype, str) and dtype in DTYPES
    require(known, where, f"got the dtype {dtype!r:.100}, expected one of {', '.join(DTYPES)}")
    sound = _are_counts(shape) and len(shape) <= MAX_DIMENSIONS
    # NumPy also multiplies the other dimensions of an empty array.
    sound = sound and math.prod(max(n, 1) for n in shape) < 2**56
    require(sound, where, f"got the shape {shape!r:.100}")
    return math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and n >= 0 for n in values)


def require(condition: bool, where: Path, complaint: str) -> None:
    """Raise a DataError of one line that names the file unless `condition` holds."""
    if not condition:
        raise DataError(f"{where}: {complaint}")
