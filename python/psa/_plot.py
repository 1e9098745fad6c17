# SPDX-License-Identifier: Apache-2.0
"""`psa.plot`: pictures of level maps and of what `psa.summary` tells, by matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Codes of a level map (S-3) from the coarsest to the finest, which is also from dark to bright.
_LEVELS = {0: "skip", 6: "mean", 5: "1/16", 4: "1/8", 3: "1/4", 2: "1/2", 1: "full"}
_VALUES = ("density", "error", "ms")  # of psa.adapters.report.Row
_COLUMNS = 8  # pictures of heads in a row
_NAMED_LAYERS = 60  # more are numbered


def plot(
    what: Any, *, heads: int | Iterable[int] | None = None, batch: int = 0, value: str = "density"
) -> Figure:
    """A picture of a level map, or of the layers and steps of a run.

    Args:
        what: a level map [B,Hq,Nq,Nk] uint8, as `return_levels` and `Plan.select_levels` give it:
            for each head a row of pixels per query block and a column per KV block, brighter where
            more is read. Or what `psa.summary` gives: a row per layer, a column per step.
        heads: of the level map: one or several, from 0; left out: all.
        batch: of the level map: the batch element.
        value: of the summary: "density", "error" or "ms", as in its rows.

    Returns:
        A matplotlib Figure, which pyplot does not know: `psa.plot(levels).savefig("levels.png")`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError, TypeError: an argument out of its range or of another type; nothing to show.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "psa.plot needs matplotlib; install it, for one with pip install 'psa[plot]'"
        ) from error
    figure = Figure(layout="constrained")
    if hasattr(what, "by_layer"):
        _plot_summary(figure, what, value)
    else:
        _plot_levels(figure, what, heads, batch)
    return figure


def _plot_levels(figure: Any, levels: Any, heads: int | Iterable[int] | None, batch: int) -> None:
    import numpy as np
    from matplotlib.colors import BoundaryNorm

    if not hasattr(levels, "shape"):
        raise TypeError(
            f"what is a {type(levels).__name__}; allowed: a level map, or what psa.summary returns"
        )
    codes = np.asarray(levels.cpu() if hasattr(levels, "cpu") else levels)
    if codes.dtype != np.uint8 or codes.ndim != 4 or codes.size == 0:
        raise ValueError(
            f"what is {codes.dtype} of shape {list(codes.shape)}; a level map is uint8 [B,Hq,Nq,Nk]"
        )
    if codes.max() not in _LEVELS:
        raise ValueError(f"what has the level code {codes.max()}; allowed: 0..{max(_LEVELS)}")
    batch = _within("batch", batch, codes.shape[0])
    chosen = range(codes.shape[1]) if heads is None else heads
    chosen = [chosen] if isinstance(chosen, int) else list(chosen)
    numbers = [_within("heads", head, codes.shape[1]) for head in chosen]
    if not numbers:
        raise ValueError("heads is empty")

    rank = np.empty(len(_LEVELS), np.uint8)
    rank[list(_LEVELS)] = range(len(_LEVELS))
    columns = min(len(numbers), _COLUMNS)
    rows = -(-len(numbers) // columns)
    figure.set_size_inches(2.0 * columns + 1.5, 2.2 * rows + 0.5)
    norm = BoundaryNorm(np.arange(len(_LEVELS) + 1) - 0.5, ncolors=256)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, head in zip(axes, numbers):
        image = axis.imshow(rank[codes[batch, head]], norm=norm, interpolation="nearest")
        axis.set(title=f"head {head}", xticks=[], yticks=[])
    for axis in axes[len(numbers) :]:
        axis.set_axis_off()
    figure.supxlabel("KV block")
    figure.supylabel("query block")
    bar = figure.colorbar(image, ax=list(axes), ticks=range(len(_LEVELS)))
    bar.ax.set_yticklabels(list(_LEVELS.values()))
    bar.minorticks_off()


def _plot_summary(figure: Any, summary: Any, value: str) -> None:
    import numpy as np

    if value not in _VALUES:
        raise ValueError(f"value is {value!r}; allowed: {', '.join(_VALUES)}")
    layers = {layer: number for number, layer in enumerate(summary.by_layer())}
    steps = {step: number for number, step in enumerate(sorted(summary.by_step()))}
    table = np.full((len(layers), len(steps)), np.nan)
    for row in summary.rows:
        number = getattr(row, value)
        table[layers[row.layer], steps[row.step]] = np.nan if number is None else number
    if np.isnan(table).all():
        raise ValueError(f"the summary has no {value}: nothing has run, or nothing was sampled")
    figure.set_size_inches(4 + 0.2 * len(steps), 2 + 0.2 * min(len(layers), _NAMED_LAYERS))
    axis = figure.subplots()
    top = 1 if value == "density" else None
    image = axis.imshow(table, aspect="auto", vmin=0, vmax=top, interpolation="nearest")
    axis.set(xlabel="step", ylabel="layer", title=f"{value}, mean {np.nanmean(table):.4g}")
    # Ticks stand at whole numbers only where there are labels for all.
    axis.set_xticks(range(len(steps)), list(steps), rotation=90 if len(steps) > _COLUMNS else 0)
    if len(layers) <= _NAMED_LAYERS:
        axis.set_yticks(range(len(layers)), list(layers))
    figure.colorbar(image, ax=axis)


def _within(name: str, value: Any, count: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is {value!r}; it must be an int")
    if not 0 <= value < count:
        raise ValueError(f"{name} is {value}; allowed: 0..{count - 1}")
    return int(value)
