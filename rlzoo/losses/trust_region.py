"""The three computations of a trust-region step (Schulman et al. 2015): the curvature of the KL
divergence, the natural gradient, and how far to follow it.

Shapes: B batch, P all parameters in one vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]  # v_P -> matrix @ v_P
CG_TOLERANCE = 1e-5  # of the residual's norm relative to the right-hand side's: what float32 gives


def surrogate(log_ratio_B: Tensor, advantage_B: Tensor) -> Tensor:
    """mean r A: the gain of a new policy to first order, on actions of the old one (eq. 14)."""
    assert log_ratio_B.shape == advantage_B.shape, (log_ratio_B.shape, advantage_B.shape)
    return (log_ratio_B.exp() * advantage_B.detach()).mean()


def flat_gradient(
    outputs: Tensor,
    parameters: Sequence[Tensor],
    weights: Tensor | None = None,
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> Tensor:
    """The gradient [P] of a scalar, or of the sum of `weights` times a vector."""
    gradients = torch.autograd.grad(
        outputs,
        parameters,
        weights,
        retain_graph=retain_graph or create_graph,
        create_graph=create_graph,
    )
    return torch.cat([piece.reshape(-1) for piece in gradients])


def hessian_product(scalar: Tensor, parameters: Sequence[Tensor], *, damping: float) -> Product:
    """v_P -> (H + damping) v_P, by differentiating gradient . v (Pearlmutter 1994).

    H is the Hessian of `scalar`. Where that is the mean KL divergence of a policy from itself, H is
    the Fisher information matrix (ibid., app. C). Parameters must not change between products.
    """
    gradient_P = flat_gradient(scalar, parameters, create_graph=True)

    def product(vector_P: Tensor) -> Tensor:
        image_P = flat_gradient(gradient_P, parameters, vector_P, retain_graph=True)
        return image_P.add_(vector_P, alpha=damping)

    return product


def conjugate_gradients(product: Product, b_P: Tensor, *, iterations: int) -> tuple[Tensor, Tensor]:
    """x_P with product(x) = b, nearly, and the residual b - product(x) (Hestenes & Stiefel 1952).

    `product` multiplies by a symmetric positive definite matrix. Ends early when the residual is
    down to rounding, or where the matrix turns out to have no positive curvature.
    """
    x_P = torch.zeros_like(b_P)
    residual_P, direction_P = b_P.clone(), b_P.clone()
    square = residual_P @ residual_P
    enough = CG_TOLERANCE**2 * square
    for _ in range(iterations):
        if square <= enough:
            break
        image_P = product(direction_P)
        curvature = direction_P @ image_P
        if curvature <= 0:
            break
        length = square / curvature
        x_P += length * direction_P
        residual_P -= length * image_P
        old_square, square = square, residual_P @ residual_P
        direction_P = residual_P + (square / old_square) * direction_P
    return x_P, residual_P


class Searched(NamedTuple):
    """What a line search has found; without an accepted step, nothing has changed."""

    accepted: bool
    trials: int
    improvement: float
    kl: float


@torch.no_grad()
def line_search(
    parameters_P: Tensor,
    step_P: Tensor,
    evaluate: Callable[[], tuple[Tensor, Tensor]],
    *,
    max_kl: float,
    factor: float,
    trials: int,
) -> Searched:
    """Move the parameters, in place, by the longest of step, factor step, factor^2 step, ...

    that improves the objective and stays in the trust region. `evaluate()` gives both for the
    parameters as they are: (improvement, KL divergence). After `trials` failures the parameters
    are, bit for bit, what they were. NaN fails.
    """
    start_P = parameters_P.clone()
    for trial in range(trials):
        torch.add(start_P, step_P, alpha=factor**trial, out=parameters_P)
        improvement, kl = map(float, evaluate())
        if improvement > 0 and kl <= max_kl:
            return Searched(True, trial + 1, improvement, kl)
    parameters_P.copy_(start_P)
    return Searched(False, trials, 0.0, 0.0)
