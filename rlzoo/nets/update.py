"""One guarded gradient step that can be compiled as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from rlzoo.core.types import NonFiniteError
from rlzoo.nets.adam import Adam

Named = dict[str, Tensor]
LossFunction = Callable[..., tuple[Tensor, Named]]
Gradients = Callable[..., tuple[Tensor, Named, Tensor]]


class GradientStep:
    """Loss, gradients, clipping (by the global norm, by element), check for NaN, optimiser step.

    `loss_function(*batch)` returns (scalar loss, further tensors by name). With `compile`,
    everything up to the clipped gradients is one compiled graph (another one for each shape of
    batch); where that is impossible, one warning says why and the step runs eagerly. `watched`
    names parts of the gradient, the norms of which are returned, too.
    """

    def __init__(
        self,
        optimizer: Adam,
        loss_function: LossFunction,
        *,
        max_grad_norm: float | None,
        max_grad_value: float | None = None,
        watched: Mapping[str, slice] | None = None,
        compile: bool,
    ) -> None:
        self._optimizer = optimizer
        self._loss_function = loss_function
        self._max_grad_norm = max_grad_norm
        self._max_grad_value = max_grad_value
        self._watched = dict(watched or {})
        self._gradients: Gradients = self._eager_gradients
        if compile:
            from rlzoo.nets.compiling import compiled

            self._gradients = compiled(self._eager_gradients)

    def __call__(self, *batch: Tensor) -> Named:
        """Update the parameters; returns the loss, `grad_norm` before clipping, and the rest.

        Raises NonFiniteError, with parameters and optimiser untouched, if the loss or the norm is
        NaN or infinite.
        """
        total, named, gradient = self._gradients(*batch)
        check_finite(total, named["loss"], named["grad_norm"])
        self._optimizer.step(gradient)
        return named

    def _eager_gradients(self, *batch: Tensor) -> tuple[Tensor, Named, Tensor]:
        loss, named = self._loss_function(*batch)
        gradients = torch.autograd.grad(loss, self._optimizer.parameters)
        gradient = torch.cat([piece.reshape(-1) for piece in gradients])
        norm = torch.linalg.vector_norm(gradient)
        for name, part in self._watched.items():
            named[name] = torch.linalg.vector_norm(gradient[part])
        if self._max_grad_norm is not None:
            gradient = gradient * (self._max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        if self._max_grad_value is not None:
            gradient = gradient.clamp(-self._max_grad_value, self._max_grad_value)
        loss = loss.detach()
        detached = {name: value.detach() for name, value in named.items()}
        return loss + norm, {"loss": loss, "grad_norm": norm, **detached}, gradient


def averaged(outcomes: Sequence[Named], prefix: str) -> Named:
    """The mean of each of some updates' tensors, as `prefix/name`; nothing for no updates."""
    if not outcomes:
        return {}
    return {
        f"{prefix}/{name}": torch.stack([outcome[name] for outcome in outcomes]).mean()
        for name in outcomes[0]
    }


def check_finite(total: Tensor, loss: Tensor, norm: Tensor) -> None:
    """Raise NonFiniteError that names the loss or the norm if their sum is NaN or infinite."""
    if math.isfinite(total.item()):
        return
    what = "gradient norm" if torch.isfinite(loss) else "loss"
    raise NonFiniteError(
        f"{what} is not finite (loss {float(loss)}, gradient norm {float(norm)}); "
        "the parameters are unchanged"
    )
