"""Panels with a row per layer, the first one on top: values as a median dot on a thick line over quartiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

#: Okabe and Ito's colours, told apart by the colour-blind too, the most distinct first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"
GREY = "#555555"
#: Inches per row, and the most that they take together.
_ROW, _TALLEST = 0.3, 24.0


def layer_rows(layers: Sequence[str], panels: int, lines: int = 1) -> tuple[Figure, list[Any]]:
    """A figure of panels side by side that share their rows.

    Args:
        layers: a row each.
        panels: how many.
        lines: drawn in each row.
    """
    height = min(_TALLEST, _ROW * max(1.0, 0.5 * lines) * len(layers))
    figure = Figure(figsize=(2.2 + 4 * panels, 1.6 + height), layout="constrained")
    found = list(figure.subplots(1, panels, squeeze=False, sharey=True).flat)
    every = -(-len(layers) // int(_TALLEST / 0.15))  # of very deep networks not every layer's name can be read
    size = 9 if height / len(layers) > 0.2 else 6
    found[0].set_yticks(range(0, len(layers), every), layers[::every], fontsize=size)
    found[0].set_ylim(len(layers) - 0.5, -0.5)
    for axes in found:
        axes.grid(alpha=0.3)
        axes.tick_params(axis="y", length=0)
    return figure, found


def draw_quantiles(axes: Any, row: float, quantiles: Sequence[float], colour: str, marker: str = "o") -> Any:
    """Five quantiles in a row: whole range, quartiles and median; gives the median's mark."""
    low, lower, median, upper, high = quantiles
    axes.plot([low, high], [row, row], color=colour, lw=0.8)
    axes.plot([lower, upper], [row, row], color=colour, lw=3, solid_capstyle="butt")
    (mark,) = axes.plot(median, row, marker, color=colour, ms=5, markeredgecolor="white", markeredgewidth=0.6)
    return mark
