"""What tells an expert's transitions from an agent's. Shapes: B batch, F features of a pair."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from rlzoo.nets.mlp import MLP, Activation


def logit_network(
    num_features: int, hidden: Sequence[int], activation: Activation, *, spectral: bool = False
) -> MLP:
    """An MLP from features [B, F] to one number each, [B, 1].

    At first that is 0 whatever the features, so that a discriminator begins with no opinion. With
    `spectral` it is not: each layer's largest singular value is held at 1 (Miyato et al. 2018),
    by a step of power iteration whenever the module is run in training mode.
    """
    mlp = MLP((num_features, *hidden, 1), activation)
    if spectral:
        for layer in mlp:
            if isinstance(layer, nn.Linear):
                spectral_norm(layer)
    else:
        last = mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return mlp
