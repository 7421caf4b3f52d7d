"""A fast way to act with small networks: the same arithmetic in numpy, on the same memory.

For one observation, torch spends most of its time between the matrix products. What is not on the
list here (other layers, other activations, a GPU) is run by torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from rlzoo.nets.gsde import OutputsAndFeatures
from rlzoo.nets.mlp import Flatten, OneHot

Forward = Callable[[np.ndarray], np.ndarray]


def numpy_forward(*modules: nn.Module) -> Forward:
    """A function from numpy arrays [B, ...] through some modules to numpy outputs [B, ...].

    It sees in-place changes of the parameters (optimiser steps, `load_module`) at once, and
    parameters that are replaced (`module.to`) not at all.
    """
    network = nn.Sequential(*modules)
    tensors = (*network.parameters(), *network.buffers())  # a one-hot encoder has a buffer alone
    device = tensors[0].device if tensors else torch.device("cpu")
    mirrors = [_mirror(module) for module in modules if device.type == "cpu"]
    known = [mirror for mirror in mirrors if mirror is not None]
    if len(known) < len(modules):
        return _by_torch(network, device)

    def forward(x_B: np.ndarray) -> np.ndarray:
        for mirror in known:
            x_B = mirror(x_B)
        return x_B

    return forward


def _by_torch(network: nn.Module, device: torch.device) -> Forward:
    def forward(x_B: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(x_B).to(device)).cpu().numpy()

    return forward


def _mirror(module: nn.Module) -> Forward | None:
    """A module on the CPU in numpy; None for one that is not known here."""
    if type(module) is Flatten:
        return _flatten(module)
    if type(module) is OneHot:
        return _one_hot(module)
    if type(module) is OutputsAndFeatures:
        trunk, last = _layers(module.trunk), _layers(module.last)
        return _outputs_and_features(trunk, last) if trunk and last else None
    return _layers(module) if isinstance(module, nn.Sequential) else None


def _flatten(encoder: Flatten) -> Forward:
    num_features, scale = encoder.num_features, np.float32(encoder.scale)

    def forward(obs_B: np.ndarray) -> np.ndarray:
        obs_BF = obs_B.reshape(-1, num_features).astype(np.float32, copy=False)
        return obs_BF if scale == 1 else obs_BF * scale

    return forward


def _one_hot(encoder: OneHot) -> Forward:
    num_features, offset_M = encoder.num_features, encoder.offset_M.numpy()

    def forward(obs_B: np.ndarray) -> np.ndarray:
        place_BM = obs_B.reshape(-1, len(offset_M)) + offset_M
        code_BF = np.zeros((len(place_BM), num_features), np.float32)
        code_BF[np.arange(len(place_BM))[:, None], place_BM] = 1
        return code_BF

    return forward


def _outputs_and_features(trunk: Forward, last: Forward) -> Forward:
    def forward(x_BF: np.ndarray) -> np.ndarray:
        features_BF = trunk(x_BF)
        return np.concatenate([last(features_BF), features_BF], axis=1)

    return forward


def _layers(modules: nn.Sequential) -> Forward | None:
    """Linear layers, each followed by an activation or not."""
    activations: dict[type, Any] = {nn.ReLU: _relu, nn.Tanh: np.tanh}
    layers: list[tuple[np.ndarray, np.ndarray, Any]] = []
    for module in modules:
        if type(module) is nn.Linear and module.bias is not None:
            weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
            layers.append((weight.T, bias, None))
        elif type(module) in activations and layers and layers[-1][2] is None:
            layers[-1] = (*layers[-1][:2], activations[type(module)])
        else:
            return None

    def forward(x_BF: np.ndarray) -> np.ndarray:
        for weight, bias, activate in layers:
            x_BF = x_BF @ weight
            x_BF += bias
            if activate:
                activate(x_BF, out=x_BF)
        return x_BF

    return forward


def _relu(x: np.ndarray, out: np.ndarray) -> None:
    np.maximum(x, 0, out=out)
