"""One guarded gradient step that can be compiled as a whole."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor

from rlzoo.core.types import NonFiniteError
from rlzoo.nets.adam import Adam

LossFunction = Callable[..., tuple[Tensor, ...]]
Gradients = Callable[..., tuple[list[Tensor], Tensor]]

log = logging.getLogger(__name__)


class GradientStep:
    """Loss, gradients, clipping (by the global norm, by element), check for NaN, optimiser step.

    `loss_function(*batch)` returns (scalar loss, *further tensors). With `compile`, everything up
    to the clipped gradients is one compiled graph (another one for each shape of batch); where
    that is impossible, one warning says why and the step runs eagerly. The norm of a part of the
    gradient, before clipping, can be `watched`.
    """

    def __init__(
        self,
        optimizer: Adam,
        loss_function: LossFunction,
        *,
        max_grad_norm: float | None,
        max_grad_value: float | None = None,
        watched: slice | None = None,
        compile: bool,
    ) -> None:
        self._optimizer = optimizer
        self._loss_function = loss_function
        self._max_grad_norm = max_grad_norm
        self._max_grad_value = max_grad_value
        self._watched = watched
        self._gradients = _compiled(self._eager_gradients) if compile else self._eager_gradients

    def __call__(self, *batch: Tensor) -> tuple[Tensor, ...]:
        """Update the parameters; returns (loss, gradient norm before clipping, *further tensors).

        The norm of the watched part comes last. Raises NonFiniteError, with parameters and
        optimiser untouched, if the loss or the norm is NaN or infinite.
        """
        (loss, norm, total, *others), gradient = self._gradients(*batch)
        check_finite(total, loss, norm)
        self._optimizer.step(gradient)
        return loss, norm, *others

    def _eager_gradients(self, *batch: Tensor) -> tuple[list[Tensor], Tensor]:
        loss, *others = self._loss_function(*batch)
        gradients = torch.autograd.grad(loss, self._optimizer.parameters)
        gradient = torch.cat([piece.reshape(-1) for piece in gradients])
        norm = torch.linalg.vector_norm(gradient)
        if self._watched is not None:
            others.append(torch.linalg.vector_norm(gradient[self._watched]))
        if self._max_grad_norm is not None:
            gradient = gradient * (self._max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        if self._max_grad_value is not None:
            gradient = gradient.clamp(-self._max_grad_value, self._max_grad_value)
        loss = loss.detach()
        return [loss, norm, loss + norm, *(other.detach() for other in others)], gradient


def check_finite(total: Tensor, loss: Tensor, norm: Tensor) -> None:
    """Raise NonFiniteError that names the loss or the norm if their sum is NaN or infinite."""
    if math.isfinite(total.item()):
        return
    what = "gradient norm" if torch.isfinite(loss) else "loss"
    raise NonFiniteError(
        f"{what} is not finite (loss {float(loss)}, gradient norm {float(norm)}); "
        "the parameters are unchanged"
    )


def _compiled(eager: Gradients) -> Gradients:
    """`eager` as one graph; falls back to it, with a warning, where nothing can be compiled."""
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        log.warning("compile=true is ignored: torch %s cannot compile gradients", torch.__version__)
        return eager
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    torch._dynamo.config.trace_autograd_ops = True  # lets a graph hold torch.autograd.grad
    chosen = torch.compile(
        eager,
        fullgraph=True,
        dynamic=False,
        # What the loss closes over is watched for changes, but not the insides of nn.Linear & co.
        options={"guard_filter_fn": torch.compiler.skip_guard_on_inbuilt_nn_modules_unsafe},
    )

    def gradients(*batch: Tensor) -> tuple[list[Tensor], Tensor]:
        nonlocal chosen
        try:
            return chosen(*batch)
        except BackendCompilerFailed as error:
            if not isinstance(error.inner_exception, InvalidCxxCompiler | CppCompileError):
                raise
            log.warning("compile=true is ignored: no working C++ compiler was found")
            chosen = eager
            return eager(*batch)

    return gradients
