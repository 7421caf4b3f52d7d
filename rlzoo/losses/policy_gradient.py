"""Losses of policy-gradient methods as pure functions of tensors. Shapes: B batch.

`log_ratio_B` is log pi(a|s) - log pi_old(a|s): both for the same observations and actions.
"""

from __future__ import annotations

import torch
from torch import Tensor

ADVANTAGE_EPS = 1e-8


def normalized_advantages(advantage_B: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over the batch; a batch of one is left as it is."""
    if len(advantage_B) == 1:
        return advantage_B
    return (advantage_B - advantage_B.mean()) / (advantage_B.std() + ADVANTAGE_EPS)


def clipped_surrogate_loss(log_ratio_B: Tensor, advantage_B: Tensor, clip: Tensor) -> Tensor:
    """-mean min(r A, clip(r, 1 - clip, 1 + clip) A) (Schulman et al. 2017, eq. 7).

    No gradient flows into the advantages.
    """
    _check_batch(log_ratio_B, advantage_B)
    advantage_B = advantage_B.detach()
    ratio_B = log_ratio_B.exp()
    clipped_B = ratio_B.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio_B * advantage_B, clipped_B * advantage_B).mean()


def value_loss(value_B: Tensor, target_B: Tensor) -> Tensor:
    """Mean squared error, without the 1/2 that some have (as in Stable-Baselines3)."""
    _check_batch(value_B, target_B)
    return (target_B.detach() - value_B).square().mean()


def clipped_value_loss(
    value_B: Tensor, old_value_B: Tensor, target_B: Tensor, clip: float
) -> Tensor:
    """The larger of two squared errors: of the value, and of it kept within `clip` of the old one.

    An element whose value has moved further than that from the old one, towards the target, gets
    no gradient (Huang et al. 2022, detail 9).
    """
    _check_batch(value_B, old_value_B, target_B)
    target_B = target_B.detach()
    kept_B = old_value_B + (value_B - old_value_B).clamp(-clip, clip)
    return torch.maximum((target_B - value_B).square(), (target_B - kept_B).square()).mean()


def kl_estimate(log_ratio_B: Tensor) -> Tensor:
    """KL(old, new) in nats, from actions of the old policy: mean of (r - 1) - log r.

    Unbiased, and never negative (Schulman 2020, "Approximating KL divergence", estimator k3).
    """
    return (log_ratio_B.expm1() - log_ratio_B).mean()


def clip_fraction(log_ratio_B: Tensor, clip: Tensor) -> Tensor:
    """The share of the batch whose ratio is outside of 1 +- clip."""
    return (log_ratio_B.expm1().abs() > clip).float().mean()


def _check_batch(*tensors_B: Tensor) -> None:
    # Broadcasting [B] against [B, 1] would silently give [B, B].
    for tensor_B in tensors_B:
        assert tensor_B.ndim == 1, tensor_B.shape
        assert tensor_B.shape == tensors_B[0].shape, (tensor_B.shape, tensors_B[0].shape)
