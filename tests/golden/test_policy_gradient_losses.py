"""Losses of policy-gradient methods against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import tensor

from rlzoo.losses.policy_gradient import (
    clip_fraction,
    clipped_surrogate_loss,
    clipped_value_loss,
    kl_estimate,
    normalized_advantages,
    value_loss,
)

CLIP = tensor(0.2)
# Ratios below, within and above 1 +- 0.2, each with a good and a bad action.
LOG_RATIO_B = tensor([0.5, 0.5, 1.0, 1.0, 1.5, 1.5]).log()
ADVANTAGE_B = tensor([1.0, -1.0, 2.0, -2.0, 3.0, -3.0])


def close(got: torch.Tensor | None, expected: list[float] | float) -> None:
    torch.testing.assert_close(got, tensor(expected))


def test_clipped_surrogate_takes_the_smaller_of_the_two() -> None:
    # min(0.5, 0.8); min(-0.5, -0.8); 2; -2; min(4.5, 3.6); min(-4.5, -3.6)
    expected = -(0.5 - 0.8 + 2 - 2 + 3.6 - 4.5) / 6
    close(clipped_surrogate_loss(LOG_RATIO_B, ADVANTAGE_B, CLIP), expected)


def test_its_gradient_stops_where_the_ratio_has_gone_far_enough() -> None:
    log_ratio_B = LOG_RATIO_B.clone().requires_grad_()
    advantage_B = ADVANTAGE_B.clone().requires_grad_()
    clipped_surrogate_loss(log_ratio_B, advantage_B, CLIP).backward()
    # d/dlog r of -r A / 6, and nothing where clipping holds: less likely and bad, more and good.
    close(log_ratio_B.grad, [-0.5 / 6, 0.0, -2 / 6, 2 / 6, 0.0, 4.5 / 6])
    assert advantage_B.grad is None


def test_value_loss_has_no_half() -> None:
    value_B = tensor([1.0, 5.0], requires_grad=True)
    target_B = tensor([3.0, 4.0], requires_grad=True)
    loss = value_loss(value_B, target_B)
    close(loss.detach(), (4 + 1) / 2)
    loss.backward()
    close(value_B.grad, [-2.0, 1.0])
    assert target_B.grad is None


def test_clipped_value_loss() -> None:
    value_B = tensor([1.0, 3.0, 1.0], requires_grad=True)
    # Moved 1 up towards a target of 4; moved 1 up away from -1; not moved.
    loss = clipped_value_loss(value_B, tensor([0.0, 2.0, 1.0]), tensor([4.0, -1.0, 2.0]), 0.5)
    # max(9, 3.5^2); max(16, 3.5^2); max(1, 1)
    close(loss.detach(), (12.25 + 16 + 1) / 3)
    loss.backward()
    close(value_B.grad, [0.0, 8 / 3, -2 / 3])


def test_advantages_are_normalised_over_the_batch() -> None:
    close(normalized_advantages(tensor([1.0, 2.0, 3.0])), [-1.0, 0.0, 1.0])
    close(normalized_advantages(tensor([5.0, 5.0])), [0.0, 0.0])


def test_a_single_advantage_is_left_as_it_is() -> None:
    close(normalized_advantages(tensor([5.0])), [5.0])


def test_kl_estimate() -> None:
    # (0.5 - 1) - ln 0.5; (2 - 1) - ln 2
    expected = (-0.5 + math.log(2) + 1 - math.log(2)) / 2
    close(kl_estimate(tensor([0.5, 2.0]).log()), expected)
    close(kl_estimate(torch.zeros(3)), 0.0)


def test_kl_estimate_is_never_negative_and_right_in_the_mean() -> None:
    old, new = tensor([0.2, 0.5, 0.3]), tensor([0.3, 0.3, 0.4])
    exact = (old * (old / new).log()).sum()
    parts = [kl_estimate((new / old).log()[i : i + 1]) for i in range(3)]
    assert min(parts) >= 0
    close(sum(p * part for p, part in zip(old, parts, strict=True)), float(exact))


def test_clip_fraction() -> None:
    close(clip_fraction(LOG_RATIO_B, CLIP), 4 / 6)
    close(clip_fraction(LOG_RATIO_B, tensor(0.6)), 0.0)


@pytest.mark.parametrize("shape", [(6, 1), (1,)])
def test_shapes_that_would_broadcast_are_refused(shape: tuple[int, ...]) -> None:
    other = torch.ones(shape)
    with pytest.raises(AssertionError):
        clipped_surrogate_loss(LOG_RATIO_B, other, CLIP)
    with pytest.raises(AssertionError):
        value_loss(LOG_RATIO_B, other)
    with pytest.raises(AssertionError):
        clipped_value_loss(LOG_RATIO_B, LOG_RATIO_B, other, 0.2)
