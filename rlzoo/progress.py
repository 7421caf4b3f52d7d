"""The live progress bar: steps per second, return and time left. Silent when not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType

from tqdm import tqdm


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

    def update(self, env_steps: int) -> None:
        self.bar.update(env_steps - self.at)
        self.at = env_steps

    def show(self, metrics: Mapping[str, float]) -> None:
        shown = {"return": "rollout/return_mean", "loss": "train/loss", "eval": "eval/return_mean"}
        values = {short: f"{metrics[name]:.4g}" for short, name in shown.items() if name in metrics}
        if values:
            self.bar.set_postfix(values, refresh=False)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()
