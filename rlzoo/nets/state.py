"""Exact states of modules, loaded in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rlzoo.core.types import DataError, State


def module_state(module: nn.Module) -> State:
    """Copies of all parameters and buffers by name."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def load_module(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Copy a `module_state` into the module's own tensors, so that views of them stay valid.

    Tensors of 32 bits can be stored with 16.
    Raises DataError, and changes nothing, if a name or shape differs.
    """
    own = module.state_dict()
    if own.keys() != state.keys():
        differing = sorted(own.keys() ^ state.keys())
        raise DataError(f"network state: {', '.join(differing[:3])} is missing or not expected")
    loaded = {name: torch.as_tensor(leaf) for name, leaf in state.items()}
    for name, tensor in own.items():
        if loaded[name].dtype == torch.float16 and tensor.dtype == torch.float32:
            loaded[name] = loaded[name].float()
        _check_same(f"network state: {name}", loaded[name], tensor)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(loaded[name])


def _check_same(what: str, got: Tensor, expected: Tensor) -> None:
    if got.shape != expected.shape or got.dtype != expected.dtype:
        raise DataError(
            f"{what} is {got.dtype}{list(got.shape)}, "
            f"expected {expected.dtype}{list(expected.shape)}"
        )
