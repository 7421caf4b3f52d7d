"""The live progress bar: steps per second, return and time left. Silent when not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType

from tqdm import tqdm

SHOWN = {"rollout/return_mean": "return", "train/loss": "loss", "eval/return_mean": "eval"}


class Progress:
    """Counts env steps on a bar on stderr."""

    def __init__(self, total_env_steps: int, done_env_steps: int) -> None:
        self.bar = tqdm(
            total=total_env_steps,
            initial=done_env_steps,
            unit=" steps",
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.2,
            smoothing=0.1,
            disable=not sys.stderr.isatty(),
        )
        self.at = done_env_steps
        self.shown: dict[str, str] = {}

    def update(self, env_steps: int) -> None:
        self.bar.update(env_steps - self.at)
        self.at = env_steps

    def show(self, metrics: Mapping[str, float]) -> None:
        """The latest of a few metrics behind the bar; others are left out."""
        for name, short in SHOWN.items():
            if name in metrics:
                self.shown[short] = f"{metrics[name]:.4g}"
        self.bar.set_postfix(self.shown, refresh=False)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()
