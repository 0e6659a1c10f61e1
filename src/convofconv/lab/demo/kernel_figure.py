"""The kernels of one layer as the association sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...functional.grid import Grid, to_groups
from ...maps import SpatialAssociation
from ...maps.registered import convs, kernel_maps, weight_maps

_MOST_GROUPS = 8


def draw_kernels(models: Mapping[str, nn.Module]) -> Figure | None:
    """The kernels of the first associated layer, a column per group; ``None`` if no layer is associated.

    Where ``models`` has ``"plain"``, that network's kernels of the same layer are drawn above.
    """
    found = next(((method, *layer) for method, model in models.items() for layer in _associations(model)), None)
    if found is None:
        return None
    method, name, conv, association = found
    grid, super_kernels = association.grid, association.effective_super_kernel().detach()[0]
    basic = cast(parametrize.ParametrizationList, weight_maps(conv)).original
    spread = f"\n(dilation {grid.dilation[0]})" if grid.dilation[0] > 1 else ""
    rows: list[tuple[str, Tensor, int]] = []  # label, (group, height, width), height of a cell
    if "plain" in models:
        plain = cast(Tensor, models["plain"].get_submodule(name).weight)
        rows.append(("plain\nkernels", _grids(plain, grid), grid.kernel[0]))
    rows.append((f"{method}\nbasic kernels W", _grids(basic, grid), grid.kernel[0]))
    rows.append((f"{method}\nsuper kernel s{spread}", super_kernels, grid.size[0]))
    rows.append((f"{method}\nassociated W + s ∗ W", _grids(association(basic), grid), grid.kernel[0]))

    columns = min(grid.groups, _MOST_GROUPS)
    figure = Figure(figsize=(3 + 1.6 * columns, 0.9 + 1.75 * len(rows)), layout="constrained")
    side, channels = grid.side, grid.channels
    figure.suptitle(
        f"Kernels learnt in {name}: {grid.shape[0]} in {grid.groups} groups of {side}×{side}, a super kernel per group"
        + (f"\n(mean over the {channels} input channels)" if channels > 1 else "")
    )
    axes = figure.subplots(len(rows), columns, squeeze=False)
    kernel_limit = max(float(images.abs().max()) for _, images, _ in rows if images is not super_kernels)
    for group, panel in enumerate(axes[0], start=1):
        panel.set_title(f"group {group}", fontsize=10)
    for row, (label, images, cell) in zip(axes, rows, strict=True):
        limit = float(images.abs().max()) or 1.0 if images is super_kernels else kernel_limit
        for panel, image in zip(row, images, strict=False):
            drawn = panel.imshow(image.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
            panel.set(xticks=[], yticks=[])
            for border in range(cell, image.shape[0], cell):
                panel.axhline(border - 0.5, color="black", lw=1.5)
                panel.axvline(border - 0.5, color="black", lw=1.5)
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", multialignment="right", labelpad=8)
        figure.colorbar(drawn, ax=list(row), shrink=0.85)
    return figure


def _associations(model: nn.Module) -> Iterator[tuple[str, nn.Module, SpatialAssociation]]:
    for name, conv in convs(model):
        for kernel_map in kernel_maps(conv):
            if isinstance(kernel_map, SpatialAssociation):
                yield name, conv, kernel_map


def _grids(weight: Tensor, grid: Grid) -> Tensor:
    """Lay the kernels of every group out as the image on which its super kernel works, ``(groups, height, width)``."""
    images = to_groups(weight.detach(), grid).mean(-1)
    cells = images.view(-1, grid.side, grid.side, *grid.kernel)
    return cells.transpose(2, 3).reshape(-1, grid.side * grid.kernel[0], grid.side * grid.kernel[1])
