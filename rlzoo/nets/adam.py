"""Adam (Kingma & Ba 2015) on torch's fused kernel, without the bookkeeping of `torch.optim`.

For networks of a few thousand parameters, `torch.optim.Adam.step` spends three quarters of its
time outside the kernel (tools/bench). The arithmetic is the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from rlzoo.types import DataError, State


class Adam:
    """Holds the moments of some parameters and updates both from gradients in the same order."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps = lr, betas, eps
        self.means = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        self.squares = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        # The kernel wants a clock for each tensor, on its device.
        self.clocks = [torch.zeros((), device=p.device) for p in self.parameters]

    @torch.no_grad()
    def step(self, gradients: list[Tensor]) -> None:
        torch._foreach_add_(self.clocks, 1)
        torch._fused_adam_(
            self.parameters,
            gradients,
            self.means,
            self.squares,
            [],
            self.clocks,
            lr=self.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def state(self) -> State:
        """Moments in the order of the parameters. Rate and betas are settings, not state."""
        count = len(self.parameters)
        return {
            "updates": int(self.clocks[0]),
            "means": {str(i): self.means[i].clone() for i in range(count)},
            "squares": {str(i): self.squares[i].clone() for i in range(count)},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state` was taken; DataError if it belongs to other parameters."""
        for name, own in (("means", self.means), ("squares", self.squares)):
            shapes = [tuple(state[name][key].shape) for key in state[name]]
            if shapes != [tuple(tensor.shape) for tensor in own]:
                raise DataError(
                    f"optimizer: got {name} of shapes {shapes}, "
                    f"expected {[tuple(tensor.shape) for tensor in own]}"
                )
            for i, tensor in enumerate(own):
                tensor.copy_(torch.as_tensor(state[name][str(i)]))
        for clock in self.clocks:
            clock.fill_(state["updates"])
