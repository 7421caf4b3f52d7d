"""TD targets and losses against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import tensor

from rlzoo.losses.td import double_q_target, q_learning_target, td_error, td_loss

RETURN_B = tensor([1.0, -2.0, 0.5])
DISCOUNT_B = tensor([0.9, 0.0, 0.81])  # one step; terminated; two steps
Q_T_BA = tensor([[1.0, 3.0], [5.0, 4.0], [-1.0, -2.0]])
SELECTOR_BA = tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 7.0]])


def close(got: torch.Tensor, expected: list[float] | float) -> None:
    torch.testing.assert_close(got, tensor(expected))


def test_q_learning_target() -> None:
    # 1 + 0.9 * 3; -2 + 0; 0.5 + 0.81 * -1
    close(q_learning_target(RETURN_B, DISCOUNT_B, Q_T_BA), [3.7, -2.0, -0.31])


def test_double_q_target_values_the_action_of_the_selector() -> None:
    # Actions 0, 1, 1: 1 + 0.9 * 1; -2 + 0; 0.5 + 0.81 * -2
    close(double_q_target(RETURN_B, DISCOUNT_B, Q_T_BA, SELECTOR_BA), [1.9, -2.0, -1.12])


def test_td_error_is_target_minus_value() -> None:
    q_tm1_BA = tensor([[1.0, 2.0], [3.0, 4.0]])
    close(td_error(q_tm1_BA, tensor([1, 0]), tensor([2.5, 1.0])), [0.5, -2.0])


@pytest.mark.parametrize(
    ("kind", "expected"),
    # huber: (1 * 0.125 + 0.5 * (3 - 0.5) + 2 * (1 - 0.5)) / 3; squared: (0.125 + 0.5 * 4.5 + 1) / 3
    [("huber", 2.375 / 3), ("squared", 3.375 / 3)],
)
def test_td_loss(kind: str, expected: float) -> None:
    close(td_loss(tensor([0.5, -3.0, 1.0]), tensor([1.0, 0.5, 2.0]), kind), expected)


@pytest.mark.parametrize(
    ("kind", "expected"), [("huber", [-0.25, 0.25]), ("squared", [-0.25, 1.5])]
)
def test_gradients(kind: str, expected: list[float]) -> None:
    # d/dq of weight * loss / 2: minus the error (in huber clipped to 1) times weight / 2.
    q_BA = tensor([[1.0, 0.0], [0.0, 4.0]], requires_grad=True)
    target_B = tensor([1.5, -2.0], requires_grad=True)
    weight_B = tensor([1.0, 0.5])
    td_loss(td_error(q_BA, tensor([0, 1]), target_B), weight_B, kind).backward()
    close(q_BA.grad, [[expected[0], 0.0], [0.0, expected[1]]])
    assert target_B.grad is None


def test_shapes_that_would_broadcast_are_refused() -> None:
    column_B1 = RETURN_B.unsqueeze(1)
    with pytest.raises(AssertionError):
        q_learning_target(column_B1, DISCOUNT_B, Q_T_BA)
    with pytest.raises(AssertionError):
        double_q_target(RETURN_B, DISCOUNT_B, Q_T_BA, SELECTOR_BA[:, :1])
    with pytest.raises(AssertionError):
        td_error(Q_T_BA, tensor([0, 1, 1]), column_B1)
    with pytest.raises(AssertionError):
        td_loss(RETURN_B, column_B1)


def test_is_one_graph() -> None:
    def whole(q_BA: torch.Tensor) -> torch.Tensor:
        target_B = q_learning_target(RETURN_B, DISCOUNT_B, Q_T_BA)
        target_B = target_B + double_q_target(RETURN_B, DISCOUNT_B, Q_T_BA, SELECTOR_BA)
        return td_loss(td_error(q_BA, tensor([0, 1, 1]), target_B), torch.ones(3))

    compiled = torch.compile(whole, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(Q_T_BA), whole(Q_T_BA))
