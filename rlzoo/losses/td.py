"""Temporal-difference targets and losses as pure functions of tensors.

Time suffixes: tm1 is where the action was taken, t is n steps later. Shapes: B batch, A actions.
`return_B` sums the rewards in between; `discount_B` is gamma^n, or 0 after a termination.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

LossKind = Literal["huber", "squared"]


def q_learning_target(return_B: Tensor, discount_B: Tensor, q_t_BA: Tensor) -> Tensor:
    """r + discount * max_a Q(s_t, a): the target of Q-learning (Watkins 1989; Mnih et al. 2015)."""
    _check_batch(q_t_BA, return_B, discount_B)
    return return_B + discount_B * q_t_BA.amax(dim=1)


def double_q_target(
    return_B: Tensor, discount_B: Tensor, q_t_BA: Tensor, q_t_selector_BA: Tensor
) -> Tensor:
    """r + discount * Q(s_t, argmax_a Q_selector(s_t, a)) (van Hasselt et al. 2016, eq. 4).

    `q_t_BA` comes from the target network, `q_t_selector_BA` from the online network.
    """
    _check_batch(q_t_BA, return_B, discount_B)
    assert q_t_selector_BA.shape == q_t_BA.shape, (q_t_selector_BA.shape, q_t_BA.shape)
    a_t_B1 = q_t_selector_BA.argmax(dim=1, keepdim=True)
    return return_B + discount_B * q_t_BA.gather(1, a_t_B1).squeeze(1)


def td_error(q_tm1_BA: Tensor, a_tm1_B: Tensor, target_B: Tensor) -> Tensor:
    """target - Q(s_tm1, a_tm1); no gradient flows into the target."""
    _check_batch(q_tm1_BA, a_tm1_B, target_B)
    return target_B.detach() - q_tm1_BA.gather(1, a_tm1_B.unsqueeze(1)).squeeze(1)


def td_loss(td_error_B: Tensor, weight_B: Tensor, kind: LossKind = "huber") -> Tensor:
    """Mean of weight * loss: half the squared TD error, which 'huber' makes linear beyond 1.

    'huber' is the error clipping of Mnih et al. 2015 (Methods); the weights are importance
    weights [B].
    """
    assert td_error_B.ndim == 1, td_error_B.shape
    assert weight_B.shape == td_error_B.shape, (weight_B.shape, td_error_B.shape)
    if kind == "huber":
        loss_B = functional.huber_loss(td_error_B, torch.zeros_like(td_error_B), reduction="none")
    else:
        loss_B = 0.5 * td_error_B.square()
    return (weight_B * loss_B).mean()


def _check_batch(q_BA: Tensor, *others_B: Tensor) -> None:
    # Broadcasting [B] against [B, 1] would silently give [B, B].
    assert q_BA.ndim == 2, q_BA.shape
    for other_B in others_B:
        assert other_B.shape == q_BA.shape[:1], (other_B.shape, q_BA.shape)
