"""The drawing of a kernel mosaic: a row per group, framed and numbered, a colour scale per column."""

from __future__ import annotations

import itertools
import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .kernel_mosaic import KernelMosaic, MosaicColumn

#: Groups below one another; more of them stand in further strips to the right.
_ROWS = 8
#: Inches: a tile's height and width at most, the narrowest column, the gaps between tiles, columns and networks.
_TILE, _WIDEST, _NARROWEST = 0.8, 2.4, 0.86
_GAP, _BETWEEN, _APART = 0.1, 0.12, 0.55
_BELOW, _LINE, _SIDE = 0.5, 0.18, 0.25
_SIGNED = "RdBu_r"


def draw_mosaic(mosaic: KernelMosaic) -> Figure:
    """Draw a mosaic: columns of tiles by network, each with its colour scale below.

    Examples:
        >>> from convofconv import CoC2d
        >>> from .kernel_grids import kernel_grids
        >>> from .kernel_mosaic import kernel_mosaic
        >>> len(draw_mosaic(kernel_mosaic({"coc": kernel_grids(CoC2d(3, 64, 7))})).axes)  # four columns and scales
        8
    """
    columns = mosaic.columns
    tile = min(_TILE, *(_WIDEST / _aspect(column) for column in columns))
    widths = [max(_NARROWEST, tile * _aspect(column)) for column in columns]
    most = max(len(shown) for shown in mosaic.groups.values())
    strips, rows = -(-most // _ROWS), min(most, _ROWS)
    strip = sum(widths) + _BETWEEN * len(columns) + (_APART - _BETWEEN) * len(mosaic.groups)
    width = max(6.0, strips * strip + 2 * _SIDE)
    any_empty = any(bool(column.tiles.isnan().any()) for column in columns)
    title = [textwrap.fill(line, int(11.5 * width)) for line in mosaic.title.splitlines()]
    title += ["a crossed cell holds no kernel: the layer's last group is incomplete"] if any_empty else []
    lines = sum(line.count("\n") + 1 for line in title)
    headings = max(1 + (column.note.count("\n") + 1 if column.note else 0) for column in columns)
    above = 0.3 + 0.15 * headings
    head = 0.2 + _LINE * lines + above
    body = rows * tile + (rows - 1) * _GAP
    height = head + body + _BELOW
    figure = Figure(figsize=(width, height))
    figure.text(0.5, 1 - 0.1 / height, "\n".join(title), ha="center", va="top", fontsize=10)

    def place(left: float, top: float, wide: float, high: float) -> Axes:
        return figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))

    left = (width - strips * strip) / 2
    for number in range(strips):
        for network, of_network in itertools.groupby(zip(columns, widths, strict=True), key=lambda c: c[0].network):
            left += _APART
            start, groups = left, mosaic.groups[network][number * _ROWS : (number + 1) * _ROWS]
            for place_in_row, (column, wide) in enumerate(of_network):
                drawn = tile * _aspect(column)
                axes = place(left + (wide - drawn) / 2, head, drawn, body)
                _draw_tiles(axes, column, number * _ROWS, tile, body)
                axes.set_title("\n".join([column.kind, *filter(None, [column.note])]), fontsize=8, pad=5)
                if place_in_row == 0:
                    axes.set_yticks([i * (tile + _GAP) + tile / 2 for i in range(len(groups))], map(str, groups))
                    axes.set_ylabel("group", fontsize=8, labelpad=2)
                _draw_scale(place(left, head + body + 0.12, wide, 0.09), column)
                left += wide + _BETWEEN
            left -= _BETWEEN
            middle = (start + left) / 2 / width
            figure.text(middle, 1 - (head - above) / height, network, ha="center", va="top", weight="bold")
        left += _BETWEEN
    return figure


def _aspect(column: MosaicColumn) -> float:
    return column.tiles.shape[2] / column.tiles.shape[1]


def _draw_tiles(axes: Axes, column: MosaicColumn, first: int, tile: float, body: float) -> None:
    """Draw the groups of one strip below one another, in inches."""
    wide = tile * _aspect(column)
    axes.set(xticks=[], yticks=[])
    axes.tick_params(length=0, labelsize=8, pad=2)
    axes.set_frame_on(False)
    for row, values in enumerate(column.tiles[first : first + _ROWS].numpy()):
        top = row * (tile + _GAP)
        extent = (0, wide, top + tile, top)
        axes.imshow(extent=extent, aspect="auto", interpolation="nearest", **_coloured(values, column.limit))
        y, x = (size / count for size, count in zip((tile, wide), values.shape, strict=False))  # inches per tap
        colour = "white" if values.ndim == 3 else "0.15"
        for line in range(column.cell[0], values.shape[0], column.cell[0]):
            axes.plot([0, wide], [top + line * y] * 2, color=colour, lw=1)
        for line in range(column.cell[1], values.shape[1], column.cell[1]):
            axes.plot([line * x] * 2, [top, top + tile], color=colour, lw=1)
        for i in range(0, values.shape[0], column.cell[0]):
            for j in range(0, values.shape[1], column.cell[1]):
                if np.isnan(values[i, j]).any():
                    corners = [j * x, (j + column.cell[1]) * x], [top + i * y, top + (i + column.cell[0]) * y]
                    axes.plot(*corners, color="0.75", lw=1)
                    axes.plot(corners[0], corners[1][::-1], color="0.75", lw=1)
        frame = Rectangle((0, top), wide, tile, fill=False, edgecolor="0.15", lw=1.2, clip_on=False, zorder=3)
        axes.add_patch(frame)
    axes.set(xlim=(0, wide), ylim=(body, 0))  # imshow has set them to its own extent


def _coloured(values: Any, limit: float) -> dict[str, Any]:
    """What imshow takes: colours of three channels, grey for zero; one channel from blue over white to red."""
    limit = limit or 1.0
    if values.ndim == 2:
        return {"X": values, "cmap": _SIGNED, "vmin": -limit, "vmax": limit}
    return {"X": np.nan_to_num(0.5 + values / (2 * limit), nan=1.0).clip(0, 1)}


def _draw_scale(axes: Axes, column: MosaicColumn) -> None:
    limit, ramp = column.limit, np.linspace(-1, 1, 101)[None]
    cmap = "gray" if column.tiles.dim() == 4 else _SIGNED
    axes.imshow(ramp, cmap=cmap, vmin=-1, vmax=1, aspect="auto", extent=(-1, 1, 0, 1))
    axes.set(yticks=[], xticks=[])
    axes.tick_params(length=0)
    for at, sign, side in ((-1, "−", "left"), (1, "+", "right")):
        axes.text(at, -0.5, f"{sign}{limit:.2g}" if limit else "0", ha=side, va="top", fontsize=7)
