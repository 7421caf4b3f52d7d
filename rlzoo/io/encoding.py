"""A state as a JSON tree plus named arrays, and the checks that make foreign ones safe to read."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from rlzoo.core.types import DataError, State
from rlzoo.io.files import MAX_JSON_DEPTH

MAX_HEADER_BYTES = 16 << 20
MAX_DIMENSIONS = 32
# {"$tensor": name} stands for a NumPy array, {"$torch": name} for a tensor. A key's own leading $
# is doubled. Before schema 2 tensors were written as arrays.
_ARRAY, _TORCH = "$tensor", "$torch"

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
    torch = sys.modules.get("torch")  # not imported: then nothing can be a tensor
    mark = _TORCH if torch is not None and isinstance(value, torch.Tensor) else _ARRAY
    arrays[name] = _as_array(value, name, mark)
    return {mark: name}


def _as_array(value: Any, name: str, mark: str) -> np.ndarray:
    if mark == _TORCH:
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
    """The inverse of `encode`. DataError where the tree is foreign."""
    state = _decode(tree, arrays, where)
    require(isinstance(state, dict), where, "holds no state")
    return state


def _decode(node: Any, arrays: dict[str, np.ndarray], where: Path) -> Any:
    if isinstance(node, list):
        return [_decode(item, arrays, where) for item in node]
    if not isinstance(node, dict):
        return node
    for mark in (_ARRAY, _TORCH):
        if mark in node:
            name = node[mark]
            known = len(node) == 1 and isinstance(name, str) and name in arrays
            require(known, where, f"refers to the array {name!r:.100}, which is not there")
            return arrays[name] if mark == _ARRAY else _as_tensor(arrays[name])
    return {key.removeprefix("$"): _decode(item, arrays, where) for key, item in node.items()}


def _as_tensor(array: np.ndarray) -> Any:
    import torch  # only where a state has tensors

    return torch.from_numpy(array)


def read_safetensors(data: bytes, where: Path) -> dict[str, np.ndarray]:
    """Arrays of a safetensors file; DataError unless every byte belongs to exactly one of them.

    The library sees to that. It would parse a header of 100 MB, which takes gigabytes, and does
    not know what NumPy can hold.
    """
    length = int.from_bytes(data[:8], "little")
    most = MAX_HEADER_BYTES
    require(length <= most, where, f"header of {length} bytes, expected at most {most}")
    try:
        tensors = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise DataError(f"{where}: {str(error)!r:.200}") from error
    arrays = {}
    for name, tensor in tensors:
        array_bytes(tensor["dtype"], tensor["shape"], where)
        flat = np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]])
        arrays[name] = flat.reshape(tensor["shape"])
    return arrays


def array_bytes(dtype: Any, shape: Any, where: Path) -> int:
    """Size in bytes of an array as a foreign file describes it; DataError if there can't be one."""
    known = isinstance(dtype, str) and dtype in DTYPES
    require(known, where, f"got the dtype {dtype!r:.100}, expected one of {', '.join(DTYPES)}")
    sound = isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS
    sound = sound and all(type(n) is int and n >= 0 for n in shape)
    # NumPy also multiplies the other dimensions of an empty array.
    sound = sound and math.prod(max(n, 1) for n in shape) < 2**56
    require(sound, where, f"got the shape {shape!r:.100}")
    return math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize


def require(condition: bool, where: Path, complaint: str) -> None:
    """Raise a DataError of one line that names the file unless `condition` holds."""
    if not condition:
        raise DataError(f"{where}: {complaint}")
