"""What a person at the terminal sees besides results: notes, and the live progress bar."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType

SHOWN = {"rollout/return_mean": "return", "train/loss": "loss", "eval/return_mean": "eval"}


def note(line: str) -> None:
    """A line on stderr; results go to stdout, everything else here."""
    print(f"rlzoo: {line}", file=sys.stderr, flush=True)


class Progress:
    """The run's clock on stderr, with speed, return and time left; silent in a pipe or file."""

    def __init__(self, total: int, done: int) -> None:
        from tqdm import tqdm

        self.bar = tqdm(
            total=total,
            initial=done,
            unit=" steps",
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.2,
            smoothing=0.1,
            disable=not sys.stderr.isatty(),
        )
        self.at = done
        self.shown: dict[str, str] = {}

    def update(self, clock: int) -> None:
        self.bar.update(clock - self.at)
        self.at = clock

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
