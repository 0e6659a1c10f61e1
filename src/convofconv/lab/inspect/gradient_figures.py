"""Figures of claim C4: what effective kernels depend on, and how much of the gradients comes through neighbours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from .gradient_flow import NeighbourShare
from .kernel_jacobian import KernelJacobian
from .layer_rows import COLOURS, GREY, MARKERS, draw_quantiles, layer_rows

#: In matrices of at most so many rows every entry is written out.
_MOST_WRITTEN = 9


def draw_kernel_jacobian(jacobian: KernelJacobian) -> Figure:
    """Kernels × kernels and taps × taps of ``∂W'/∂W``; a diagonal, which is near 1, is left out of the colours."""
    figure = Figure(figsize=(14, 4.7), layout="constrained")
    panels: Any = figure.subplots(1, 3)
    names = [str(kernel) for kernel in jacobian.kernels]
    taps = tap_names(jacobian.kernel_size)
    _matrix(panels[0], jacobian.strengths, names, "kernel", "Kernels", diagonal=True)
    _matrix(panels[1], jacobian.own_taps, taps, "tap", "Taps, of the kernel itself", diagonal=True)
    _matrix(panels[2], jacobian.neighbour_taps, taps, "tap", "Taps, of the group's other kernels", diagonal=False)
    some = len(jacobian.channels) < jacobian.of_channels
    rows = f", rows of {len(jacobian.channels)} of {jacobian.of_channels} input channels" if some else ""
    figure.suptitle(
        f"∂W′/∂W in {jacobian.layer}, group {jacobian.group}: root mean square gain{rows}\n"
        f"own kernel {jacobian.own:.2g}, all others of the group {jacobian.neighbours:.2g}, other groups "
        f"{jacobian.outside:.2g} (plain: 1, 0, 0)",
        fontsize=11,
    )
    return figure


def tap_names(kernel_size: Sequence[int]) -> list[str]:
    """The taps of a kernel, row by row, by their place on every axis.

    Examples:
        >>> tap_names((2, 2))
        ['1,1', '1,2', '2,1', '2,2']
    """
    names = [""]
    for size in kernel_size:
        names = [f"{name},{place}".lstrip(",") for name in names for place in range(1, size + 1)]
    return names


def _matrix(axes: Any, matrix: Tensor, names: Sequence[str], what: str, title: str, diagonal: bool) -> None:
    seen = matrix.clone()
    if diagonal:
        seen.fill_diagonal_(float("nan"))
    finite = seen[seen.isfinite()]
    limit = float(finite.max()) if len(finite) else 0.0
    colours = matplotlib.colormaps["cividis"].with_extremes(bad="#DDDDDD")
    drawn = axes.imshow(seen.numpy(), cmap=colours, vmin=0, vmax=limit or 1.0)
    every = math.ceil(len(names) / 12)
    axes.set_xticks(range(0, len(names), every), names[::every], fontsize=8)
    axes.set_yticks(range(0, len(names), every), names[::every], fontsize=8)
    axes.set(xlabel=f"{what} of the basic kernels W", ylabel=f"{what} of the effective kernels W′")
    axes.set_title(title, fontsize=10)
    axes.figure.colorbar(drawn, ax=axes, shrink=0.8, label="gain, diagonal left out" if diagonal else "gain")
    for i, row in enumerate(matrix.tolist() if len(names) <= _MOST_WRITTEN else []):
        for j, value in enumerate(row):
            bright = (diagonal and i == j) or value > limit / 2 > 0
            axes.text(j, i, _short(value), ha="center", va="center", fontsize=7,
                      color="black" if bright else "white")  # fmt: skip


def _short(value: float) -> str:
    """Narrow enough for its cell."""
    if not value:
        return "0"
    return f"{value:.2g}" if value >= 0.1 else f"{value:.3f}".lstrip("0")


def draw_neighbour_shares(shares: Mapping[str, Sequence[NeighbourShare]]) -> Figure:
    """How much of the gradients comes through neighbours, a row per layer: over training, or of networks side by side.

    Args:
        shares: of every network, by its name; in the order of training they get colours in an order.
    """
    layers = list(dict.fromkeys(one.layer for found in shares.values() for one in found))
    figure, (axes,) = layer_rows(layers, panels=1, lines=len(shares))
    figure.set_size_inches(7.5, figure.get_size_inches()[1] + 0.3)
    marks = []
    for number, found in enumerate(shares.values()):
        away = 0.7 * ((number + 0.5) / len(shares) - 0.5)
        colour, marker = _look(number, len(shares))
        mark = None
        for one in found:
            row = layers.index(one.layer)
            if one.quantiles is None:
                axes.text(0, row + away, " no gradient", va="center", fontsize=7, color=GREY)
            else:
                mark = draw_quantiles(axes, row + away, [100 * q for q in one.quantiles], colour, marker)
        marks.append(mark)
    axes.set_xlim(left=min(-0.5, -0.02 * axes.get_xlim()[1]))
    axes.set_xlabel("share of a kernel's gradient that comes through its neighbours, in %\nrange, quartiles, median")
    axes.set_title("Gradients between kernels (plain: 0 %)", fontsize=11)
    named = [(mark, name) for mark, name in zip(marks, shares, strict=True) if mark is not None]
    if len(shares) > 1 and named:
        figure.legend(*zip(*named, strict=True), loc="outside lower center", ncols=min(4, len(named)), fontsize=9)
    return figure


def _look(number: int, count: int) -> tuple[str, str]:
    if count <= len(COLOURS):
        return COLOURS[number], MARKERS[number]
    return to_hex(matplotlib.colormaps["viridis"](0.9 * number / (count - 1))), "o"
