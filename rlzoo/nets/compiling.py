"""A function as one compiled graph, or as it is where nothing can be compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlzoo.core.messages import warn


def compiled(eager: Callable[..., Any]) -> Callable[..., Any]:
    """`eager` as one graph; falls back to it, with a warning, where nothing can be compiled."""
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        warn(f"compile=true is ignored: torch {torch.__version__} cannot compile gradients")
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

    def function(*batch: Tensor) -> Any:
        nonlocal chosen
        try:
            return chosen(*batch)
        except BackendCompilerFailed as error:
            if not isinstance(error.inner_exception, InvalidCxxCompiler | CppCompileError):
                raise
            warn("compile=true is ignored: no working C++ compiler was found")
            chosen = eager
            return eager(*batch)

    return function
