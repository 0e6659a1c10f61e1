"""Kernels of a layer in their groups beside their super kernels, networks side by side, with their taps on hover."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup

from ...inspect.kernel_grids import EMPTY, KernelGrids
from ...inspect.kernel_mosaic import KernelMosaic, MosaicColumn
from ...inspect.kernel_mosaic_figure import draw_mosaic
from ..looks import Inside
from ..parts.drawn_figure import drawn_figure
from ..parts.headings import heading
from ..parts.hover_mosaic import Panel, hover_mosaic
from ..parts.rendering import join
from ..parts.section import Section
from ..parts.tables import digits, note

#: A frame's name, and its panels.
_Frames = dict[str, list[Panel]]


def section(inside: Inside) -> Section | None:
    """A mosaic per layer; ``None`` where no kernels were looked at."""
    parts: list[Markup] = []
    shown: dict[str, dict[str, Any]] = {}
    looks = {name: look for name, look in inside.looks.items() if look.inspection.mosaics}
    for name, look in looks.items():
        parts.append(heading(look.title, looks))
        shown[name] = {}
        for layer, mosaic in look.inspection.mosaics.items():
            frames = _frames(mosaic, look.grids[layer])
            parts += [_mosaic(mosaic, frames), note(_scales(mosaic, look.grids[layer]))]
            shown[name][layer] = {
                frame: {panel.title: panel.numbers() for panel in panels} for frame, panels in frames.items()
            }
    if not looks:
        return None
    words = note(
        "Each frame is a group. In converted networks basic kernels are what is trained, effective ones what the "
        "layer uses, and the super kernel makes these of those; the layer of a plain network is divided in the same "
        "way for comparison. The norm is that of all input channels, the taps are what is shown."
    )
    kernels = {
        name: {layer: {net: one.numbers() for net, one in grids.items()} for layer, grids in look.grids.items()}
        for name, look in looks.items()
    }
    numbers = {"mosaics": inside.numbers("kernels"), "kernels": kernels, "shown": shown}
    return Section("Kernels", join(words, *parts), numbers)


def _mosaic(mosaic: KernelMosaic, frames: _Frames) -> Markup:
    title = mosaic.title.replace("\n", "; ")
    if frames:
        return hover_mosaic(title, frames)
    return drawn_figure(title, draw_mosaic(mosaic), f"{title}, of {', '.join(mosaic.groups)}")


def _frames(mosaic: KernelMosaic, grids: Mapping[str, KernelGrids]) -> _Frames:
    """Panels by group; none of kernels of three axes, whose taps are no table."""
    if any(len(one.grid.kernel) > 2 for one in grids.values()):
        return {}
    frames: _Frames = {}
    for place in range(max(map(len, mosaic.groups.values()))):
        of_networks = {name: shown[place] for name, shown in mosaic.groups.items() if place < len(shown)}
        every = {f"group {group}" for group in of_networks.values()}
        name = every.pop() if len(every) == 1 else ", ".join(f"{net}: group {g}" for net, g in of_networks.items())
        frames[name] = [
            _panel(column, place, of_networks[column.network], grids[column.network])
            for column in mosaic.columns
            if column.network in of_networks
        ]
    return frames


def _panel(column: MosaicColumn, place: int, group: int, grids: KernelGrids) -> Panel:
    title = f"{column.network}: {column.kind}"
    cells, columns = _cut(column.tiles[place].numpy(), column.cell)
    if column.kind == "super kernel":
        assert grids.super_kernels is not None
        kernels, depth = grids.super_kernels[group], len(cells)
        names = [f"super kernel {group}" + (f", {i + 1} of {depth}" if depth > 1 else "") for i in range(depth)]
        norms = [float(kernel.norm()) for kernel in kernels]
        return Panel(title, _coloured(cells, column.limit), cells, columns, names, norms)
    kernels = {"basic": grids.basic, "difference": grids.difference}.get(column.kind, grids.effective)
    members = [member for member in grids.members[group].tolist() if member != EMPTY]  # empty cells are the last ones
    cells = cells[: len(members)]
    planes = np.moveaxis(cells, -1, 1) if cells.ndim == 4 else cells
    names, norms = [f"kernel {member}" for member in members], [float(kernels[member].norm()) for member in members]
    return Panel(title, _coloured(cells, column.limit), planes, columns, names, norms)


def _cut(tile: np.ndarray[Any, Any], cell: Sequence[int]) -> tuple[np.ndarray[Any, Any], int]:
    """A tile as its cells, row by row, and the number of its columns."""
    (height, width), channels = cell, tile.shape[2:]
    rows, columns = tile.shape[0] // height, tile.shape[1] // width
    cells = tile.reshape(rows, height, columns, width, *channels).swapaxes(1, 2)
    return cells.reshape(rows * columns, height, width, *channels), columns


def _coloured(values: np.ndarray[Any, Any], limit: float) -> np.ndarray[Any, Any]:
    """Three channels as red, green and blue, grey for zero; one from blue over white to red."""
    scaled = 0.5 + values / (2 * (limit or 1.0))
    colours = scaled.clip(0, 1) if values.ndim == 4 else matplotlib.colormaps["RdBu_r"](scaled)[..., :3]
    return np.asarray(np.rint(255 * colours), dtype=np.uint8)


def _scales(mosaic: KernelMosaic, grids: Mapping[str, KernelGrids]) -> str:
    """Where the colours of every column end, how large the change is, and what an empty place is."""
    ends = [f"{column.network}, {column.kind}: {digits(column.limit, 2)}" for column in mosaic.columns]
    return f"Full colour is the largest magnitude of each column ({'; '.join(ends)}).{''.join(_remarks(grids))}"


def _remarks(grids: Mapping[str, KernelGrids]) -> Iterator[str]:
    for name, one in grids.items():
        numbers = one.numbers()
        if one.associated and numbers["relative_change"] is not None:
            change = 100 * numbers["relative_change"]
            size = f"{change:.2g}" if change < 100 else f"{change:.0f}"
            yield f" The maps of {name} change its kernels by {size} % of their norm."
    if any((one.members == EMPTY).any() for one in grids.values()):
        yield " The last group is incomplete; a grey place of it holds no kernel."
