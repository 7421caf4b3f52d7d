"""Reinforcement and imitation learning in PyTorch: train, load, evaluate, compose."""

from __future__ import annotations

import os  # nothing else: until the command line is in hand, Ctrl-C would print a traceback

TYPE_CHECKING = False
# Read once, when numpy is first imported. The matrices of a policy at work are small: a second
# BLAS thread costs more than it brings, and on a busy machine each waits for the other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if TYPE_CHECKING:
    from rlzoo.core.types import DataError, RlzooError, UsageError
    from rlzoo.run.library import compose, evaluate, load, resume, train
    from rlzoo.run.saved import SavedRun
    from rlzoo.study.contract import check_algorithm

__all__ = [
    "DataError",
    "RlzooError",
    "SavedRun",
    "UsageError",
    "check_algorithm",
    "compose",
    "evaluate",
    "load",
    "resume",
    "train",
]

# Where they are, if not in rlzoo.run.library.
_ELSEWHERE = {
    "DataError": "rlzoo.core.types",
    "RlzooError": "rlzoo.core.types",
    "UsageError": "rlzoo.core.types",
    "check_algorithm": "rlzoo.study.contract",
}


def __getattr__(name: str) -> object:
    """Names are imported when they are first used, so that `import rlzoo` costs nothing."""
    import importlib

    if name not in __all__:
        raise AttributeError(f"module 'rlzoo' has no attribute '{name}'")
    module = importlib.import_module(_ELSEWHERE.get(name, "rlzoo.run.library"))
    found: object = getattr(module, name)
    return found


def __dir__() -> list[str]:
    return __all__
