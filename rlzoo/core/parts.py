"""What a checkpoint is made of: parts of an algorithm, and one way to save and load them all.

A part is an `nn.Module`, a `torch.optim.Optimizer`, a numpy or torch generator, a numpy array, a
mapping of parts, or anything with `state()` and `load(state)`. Modules and arrays are loaded in
place, so that views of them stay valid. Of an optimiser the moments are saved; its rates are
settings, which may change when a run is resumed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rlzoo.core.types import DataError

if TYPE_CHECKING:
    from torch import Tensor, nn


def state_of(part: Any) -> Any:
    """A copy of all that the part's future depends on, or views that are valid until it changes."""
    torch = sys.modules.get("torch")  # not imported: then the part is nothing of it
    if isinstance(part, np.random.Generator):
        return dict(part.bit_generator.state)
    if isinstance(part, np.ndarray):
        return part.copy()
    if isinstance(part, Mapping):
        return {name: state_of(member) for name, member in part.items()}
    if torch is not None:
        if isinstance(part, torch.nn.Module):
            return module_state(part)
        if isinstance(part, torch.optim.Optimizer):
            return {str(k): dict(moments) for k, moments in part.state_dict()["state"].items()}
        if isinstance(part, torch.Generator):
            return part.get_state()
    return part.state()


def load_part(part: Any, state: Any) -> None:
    """Go on exactly where `state` was taken; DataError if it belongs to another part."""
    torch = sys.modules.get("torch")
    if isinstance(part, np.random.Generator):
        part.bit_generator.state = state
    elif isinstance(part, np.ndarray):
        if np.shape(state) != part.shape:
            raise DataError(f"state: got an array {np.shape(state)}, expected {part.shape}")
        part[...] = state
    elif isinstance(part, Mapping):
        for name, member in part.items():
            load_part(member, state[name])
    elif torch is not None and isinstance(part, torch.nn.Module):
        load_module(part, state)
    elif torch is not None and isinstance(part, torch.optim.Optimizer):
        moments = {int(k): _tensors(of_one) for k, of_one in state.items()}
        part.load_state_dict({**part.state_dict(), "state": moments})
    elif torch is not None and isinstance(part, torch.Generator):
        part.set_state(torch.as_tensor(state))
    else:
        part.load(state)


def _tensors(values: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    return {n: torch.as_tensor(v) if hasattr(v, "shape") else v for n, v in values.items()}


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers by name."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def load_module(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Copy a `module_state` into the module's own tensors. Tensors of 32 bits may be stored in 16.

    Raises DataError, and changes nothing, if a name, shape or dtype differs.
    """
    import torch

    own = module.state_dict()
    if own.keys() != state.keys():
        differing = sorted(own.keys() ^ state.keys())
        raise DataError(f"network state: {', '.join(differing[:3])} is missing or not expected")
    loaded = {name: torch.as_tensor(leaf) for name, leaf in state.items()}
    for name, tensor in own.items():
        got = loaded[name]
        if got.dtype == torch.float16 and tensor.dtype == torch.float32:
            got = loaded[name] = got.float()
        if got.shape != tensor.shape or got.dtype != tensor.dtype:
            raise DataError(
                f"network state: {name} is {got.dtype}{list(got.shape)}, "
                f"expected {tensor.dtype}{list(tensor.shape)}"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(loaded[name])
