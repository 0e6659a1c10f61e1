"""Panels of kernels as small images; each tells its number, norm and taps when it is pointed at or reached by keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from ....errors import ShapeError
from .embedded_images import embedded
from .rendering import json_able, render
from .tables import digits


@dataclasses.dataclass(frozen=True)
class Panel:
    """A grid of cells: the basic kernels of a group for example, the effective ones, or the super kernel.

    Args:
        title: of the panel, "basic" for example.
        cells: their images, in bytes; colours are decided by whoever makes them, on one scale for what is compared.
        taps: what is in each cell, to be shown as numbers.
        columns: of the grid, which is filled row by row.
        names: of the cells; "kernel" and their numbers from 0 if not given.
        norms: of the cells, where their taps are only a part of what they are; those of the taps if not given.

    Shape:
        - cells: ``(N, H, W)`` or ``(N, H, W, 3)``
        - taps: ``(N, H, W)`` or ``(N, C, H, W)``, of whatever sides
    """

    title: str
    cells: Any
    taps: Any
    columns: int
    names: Sequence[str] = ()
    norms: Sequence[float] | None = None

    def numbers(self) -> list[dict[str, Any]]:
        """What is shown of every cell: name, norm, and taps with three digits, by plane."""
        taps = np.asarray(self.taps, dtype=np.float64)
        names = self.names or [f"kernel {number}" for number in range(len(taps))]
        norms = np.sqrt((taps.reshape(len(taps), -1) ** 2).sum(1)) if self.norms is None else self.norms
        planes = taps if taps.ndim == 4 else taps[:, None]
        shown = [[[[float(f"{v:.3g}") for v in row] for row in one] for one in cell] for cell in planes]
        found = [
            {"name": name, "norm": float(norm), "taps": cell}
            for name, norm, cell in zip(names, norms, shown, strict=True)
        ]
        return [dict(json_able(one)) for one in found]


def hover_mosaic(title: str, frames: Mapping[str, Sequence[Panel]]) -> Markup:
    """Panels beside each other in frames, and below them what is pointed at.

    Arrow keys go from cell to cell of a panel, Tab from panel to panel.

    Args:
        title: what the mosaic shows, of how many groups it shows how many, and on which scale its colours are.
        frames: panels that belong together by the name of their frame, "group 3" for example.

    Raises:
        ShapeError: cells, taps and names of a panel are not of the same number, or cells are no images.
    """
    shown = {name: [_shown(panel) for panel in panels] for name, panels in frames.items()}
    return render("mosaic.html", title=title, frames=shown)


def _shown(panel: Panel) -> dict[str, Any]:
    cells, taps = np.asarray(panel.cells), np.asarray(panel.taps, dtype=np.float64)
    counts = [len(cells), len(taps), *(len(given) for given in (panel.names, panel.norms) if given)]
    if len(set(counts)) > 1 or cells.ndim not in (3, 4) or taps.ndim not in (3, 4):
        raise ShapeError(
            f"{panel.title}: cells (N, H, W[, 3]), taps (N[, C], H, W) and names belong together, got "
            f"{tuple(cells.shape)}, {tuple(taps.shape)} and {len(panel.names)} names"
        )
    numbers = panel.numbers()
    notes = [f"{one['name']}, norm {digits(one['norm'])}" for one in numbers]
    rows = [range(start, min(start + panel.columns, len(notes))) for start in range(0, len(notes), panel.columns)]
    return {
        "title": panel.title,
        "image": embedded(_sheet(cells, panel.columns)),
        "columns": panel.columns,
        "rows": [[(number, notes[number]) for number in row] for row in rows],
        "taps": [one["taps"] for one in numbers],
    }


def _sheet(cells: np.ndarray[Any, Any], columns: int) -> np.ndarray[Any, Any]:
    """All cells in one image, row by row; where the last row ends early it is grey."""
    rows = -(-len(cells) // columns)
    _, height, width, *channels = cells.shape
    sheet = np.full((rows * columns, height, width, *channels), 128, cells.dtype)
    sheet[: len(cells)] = cells
    sheet = sheet.reshape(rows, columns, height, width, *channels).swapaxes(1, 2)
    return np.reshape(sheet, (rows * height, columns * width, *channels))
