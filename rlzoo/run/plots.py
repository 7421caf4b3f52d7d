"""Pictures: learning curves over seeds, and the value function of a table on its map.

Figures are made without pyplot, so there is no global state and no display is needed. Colours are
those of Okabe and Ito (2008) and of cividis, which people with any colour vision can tell apart.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from rlzoo.run.statistics import bootstrap_interval, iqm

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":", "-.")  # the colours again, where there are more curves

# Steps (T,) and values (T,) of one run.
Curve = tuple[np.ndarray, np.ndarray]

LEFT, DOWN, RIGHT, UP = (-1, 0), (0, 1), (1, 0), (0, -1)


@dataclass(frozen=True)
class Grid:
    """The map of a grid world whose state number is row * columns + column."""

    rows: tuple[str, ...]  # a letter for each cell
    absorbing: str  # letters of cells in which nobody acts
    directions: tuple[tuple[int, int], ...]  # of each action: (right, down)
    key: str  # what the letters mean

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), len(self.rows[0])


def grid_of(env: gymnasium.Env[Any, Any]) -> Grid | None:
    """The map of an env, or None if it has none that is known here."""
    world: Any = env.unwrapped
    name = type(world).__name__
    if name == "FrozenLakeEnv":
        rows = tuple(b"".join(row).decode() for row in world.desc)
        return Grid(rows, "HG", (LEFT, DOWN, RIGHT, UP), "S start, H hole, G goal")
    if name == "CliffWalkingEnv":
        cells = np.where(world._cliff, "C", " ")
        cells.flat[world.start_state_index] = "S"
        cells.flat[-1] = "G"
        rows = tuple(map("".join, cells))
        return Grid(rows, "CG", (UP, RIGHT, DOWN, LEFT), "S start, C cliff, G goal")
    return None


def value_map(q_SA: np.ndarray, grid: Grid | None, title: str = "") -> np.ndarray:
    """Draw max_a q(s, a) and the greedy action of each state; returns pixels (H, W, 3) uint8.

    Without a grid the states are laid out row by row in the order of their numbers, without
    arrows.
    """
    values_S = np.max(q_SA, axis=1)
    rows, columns = grid.shape if grid else _layout(len(values_S))
    cells = np.full(rows * columns, np.nan)
    cells[: len(values_S)] = values_S
    if grid:
        cells[[letter in grid.absorbing for letter in "".join(grid.rows)]] = np.nan
    cell = 0.75 if grid else min(0.25, 6 / columns)  # inches
    size = (max(columns * cell, 2) + 1.8, max(rows * cell, 2) + 1.0)
    figure = Figure(figsize=size, dpi=100, layout="compressed")
    axes = figure.subplots()
    axes.set_facecolor("#DDDDDD")
    image = axes.imshow(cells.reshape(rows, columns), cmap="cividis")
    figure.colorbar(image, ax=axes, label="value of the greedy action")
    if title:
        axes.set_title(title)
    if grid:
        axes.set(xticks=range(columns), yticks=range(rows))
        axes.set(xlabel=f"column ({grid.key})", ylabel="row")
        _draw_cells(axes, grid, cells, np.argmax(q_SA, axis=1))
    else:
        axes.set(xlabel=f"column (state = {columns} × row + column)", ylabel="row")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    return _pixels(figure)


def _layout(states: int) -> tuple[int, int]:
    """Rows and columns for so many states: a full rectangle, unless that is a long strip."""
    root = math.isqrt(states)
    columns = next(n for n in range(root, 0, -1) if states % n == 0)
    if 2 * columns <= root:
        columns = math.ceil(math.sqrt(states))
    return math.ceil(states / columns), columns


def _draw_cells(axes: Axes, grid: Grid, cells: np.ndarray, policy_S: np.ndarray) -> None:
    middle = (np.nanmin(cells) + np.nanmax(cells)) / 2
    digits = 1 if np.nanmax(np.abs(cells)) >= 10 else 2
    for state, letter in enumerate("".join(grid.rows)):
        row, column = divmod(state, grid.shape[1])
        if letter in grid.absorbing:
            axes.text(column, row, letter, ha="center", va="center", weight="bold", color="#444444")
            continue
        ink = "white" if cells[state] <= middle else "black"
        right, down = grid.directions[policy_S[state]]
        axes.annotate(
            "",
            xytext=(column - 0.2 * right, row - 0.12 - 0.16 * down),
            xy=(column + 0.2 * right, row - 0.12 + 0.16 * down),
            arrowprops={"arrowstyle": "-|>", "color": ink, "shrinkA": 0, "shrinkB": 0},
        )
        number = f"{cells[state]:.{digits}f}"
        axes.text(column, row + 0.34, number, ha="center", va="center", size=8, color=ink)
        if letter == "S":
            axes.text(column - 0.42, row - 0.4, "S", ha="left", va="top", weight="bold", color=ink)


def _pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def encode_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def learning_curves(
    groups: Mapping[str, Sequence[Curve]], *, ylabel: str, title: str = ""
) -> Figure:
    """One line for each group: the IQM over its runs, with a 95 % bootstrap interval.

    Groups of one or two runs have no interval; every single run is a faint line.
    """
    figure = Figure(figsize=(8, 4.8), dpi=130, layout="constrained")
    axes = figure.subplots()
    for index, (label, curves) in enumerate(groups.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        dashes = _DASHES[index // len(_COLOURS) % len(_DASHES)]
        steps_T, values_TN = on_common_steps(curves)
        if len(curves) > 1:
            for curve in curves:
                axes.plot(*curve, color=colour, alpha=0.25, linewidth=0.8)
        if len(curves) > 2 and len(steps_T):
            band_T2 = [bootstrap_interval(v, iqm, resamples=2000) for v in values_TN]
            axes.fill_between(steps_T, *np.transpose(band_T2), color=colour, alpha=0.2, linewidth=0)
        runs = f"{len(curves)} run{'s' if len(curves) > 1 else ''}"
        name = f"{label} ({runs})"
        axes.plot(steps_T, iqm(values_TN), dashes, color=colour, linewidth=2, label=name)
    axes.set(ylabel=ylabel, title=title)
    _plain_axes(axes)
    if groups:
        axes.legend(
            frameon=False,
            fontsize="small",
            loc="upper left" if len(groups) > 6 else "best",
            bbox_to_anchor=(1.01, 1) if len(groups) > 6 else None,
        )
    return figure


def metric_panels(panels: Mapping[str, Mapping[str, Curve | None]]) -> np.ndarray:
    """Metrics of one run (title -> name -> curve), a panel for each title, as pixels (H, W, 3)."""
    figure = Figure(figsize=(5 * len(panels), 3.8), dpi=100)
    # Fixed margins: matplotlib would take longer to find them than to draw.
    figure.subplots_adjust(left=0.2 / len(panels), right=0.98, bottom=0.15, top=0.9, wspace=0.25)
    for axes, (name, curves) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for index, (label, curve) in enumerate(curves.items()):
            if curve is not None:
                style = _DASHES[index % len(_DASHES)]
                axes.plot(*curve, style, color=_COLOURS[index], linewidth=1.6, label=label)
        axes.set(title=name)
        _plain_axes(axes)
        if axes.lines:
            axes.legend(frameon=False, fontsize="small")
    return _pixels(figure)


def _plain_axes(axes: Axes) -> None:
    axes.set(xlabel="steps")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def on_common_steps(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Steps (T,) that all N runs have reached, and their values there (T, N), interpolated."""
    first = max(steps[0] for steps, _ in curves)
    last = min(steps[-1] for steps, _ in curves)
    steps_T = np.unique(np.concatenate([steps for steps, _ in curves]))
    steps_T = steps_T[(steps_T >= first) & (steps_T <= last)]
    return steps_T, np.stack([np.interp(steps_T, *curve) for curve in curves], axis=-1)
