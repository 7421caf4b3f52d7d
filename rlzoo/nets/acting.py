"""A fast way to act with small networks: the same arithmetic in numpy, on the same memory.

For one observation, torch spends most of its time between the matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from rlzoo.nets.encoders import Flatten, OneHot
from rlzoo.nets.mlp import MLP, OutputsAndFeatures
from rlzoo.nets.q_network import QNetwork

Act = Callable[[np.ndarray], np.ndarray]


def numpy_forward(network: QNetwork) -> Act:
    """A function from numpy observations [B, ...] to action values [B, A], fast for small B.

    On the CPU an MLP is computed on views of its parameters: in-place changes (optimiser steps,
    `load_module`) are seen at once, parameters that are replaced (`module.to`) are not. Other
    networks are run by torch.
    """
    if not network.dueling:
        return numpy_head(network.encoder, network.head)
    device = next(network.parameters()).device
    if not isinstance(network.encoder, Flatten | OneHot) or device.type != "cpu":
        return lambda obs_B: _torch_forward(network, obs_B, device)
    encode = _numpy_encoder(network.encoder)
    trunk, value, advantage = map(_numpy_mlp, (network.trunk, network.value, network.advantage))

    mean_A1 = np.full((network.num_actions, 1), 1 / network.num_actions, np.float32)

    def dueling(obs_B: np.ndarray) -> np.ndarray:
        hidden_BF = trunk(encode(obs_B))
        advantage_BA = advantage(hidden_BF)
        return value(hidden_BF) + advantage_BA - advantage_BA @ mean_A1

    return dueling


def numpy_head(encoder: nn.Module, head: MLP | OutputsAndFeatures) -> Act:
    """The same for an encoder and one MLP behind it: observations [B, ...] to outputs [B, F]."""
    device = next(head.parameters()).device
    if not isinstance(encoder, Flatten | OneHot) or device.type != "cpu":
        network = nn.Sequential(encoder, head)
        return lambda obs_B: _torch_forward(network, obs_B, device)
    encode = _numpy_encoder(encoder)
    if isinstance(head, MLP):
        forward = _numpy_mlp(head)
        return lambda obs_B: forward(encode(obs_B))
    trunk, last = _numpy_mlp(head.trunk), _numpy_mlp(head.last)

    def outputs_and_features(obs_B: np.ndarray) -> np.ndarray:
        features_BF = trunk(encode(obs_B))
        return np.concatenate([last(features_BF), features_BF], axis=1)

    return outputs_and_features


def _torch_forward(network: nn.Module, obs_B: np.ndarray, device: torch.device) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(obs_B).to(device)).cpu().numpy()


def _numpy_encoder(encoder: Flatten | OneHot) -> Act:
    num_features = encoder.num_features
    if isinstance(encoder, Flatten):
        scale = np.float32(encoder.scale)

        def flatten(obs_B: np.ndarray) -> np.ndarray:
            obs_BF = obs_B.reshape(-1, num_features).astype(np.float32, copy=False)
            return obs_BF if scale == 1 else obs_BF * scale

        return flatten
    offset_M = encoder.offset_M.numpy()

    def one_hot(obs_B: np.ndarray) -> np.ndarray:
        place_BM = obs_B.reshape(-1, len(offset_M)) + offset_M
        code_BF = np.zeros((len(place_BM), num_features), np.float32)
        code_BF[np.arange(len(place_BM))[:, None], place_BM] = 1
        return code_BF

    return one_hot


def _numpy_mlp(mlp: MLP) -> Act:
    layers: list[tuple[np.ndarray, np.ndarray, Any]] = []
    for module in mlp:
        if isinstance(module, nn.Linear):
            weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
            layers.append((weight.T, bias, None))
        else:
            activate = _relu if isinstance(module, nn.ReLU) else np.tanh
            layers[-1] = (*layers[-1][:2], activate)

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
