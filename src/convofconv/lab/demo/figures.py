"""The two pictures of the demo: learning curves, and the kernels of one layer as the association sees them."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...functional.grid import Grid, to_groups
from ...maps import SpatialAssociation
from ...maps.registered import convs, kernel_maps, weight_maps
from ..plots import whole_epochs
from .training import Run

_COLOURS = ("#555555", "#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # told apart by the colour-blind too
_MOST_GROUPS = 8


def curves(runs: Sequence[Run], data_name: str) -> bytes:
    """Loss and test accuracy per epoch, then the accuracies at the end, as a PNG.

    The curves are means over the seeds in a band of one standard deviation to each side; the end shows every seed.
    """
    seeds = len({run.seed for run in runs})
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    figure.suptitle(f"{data_name}: " + (f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"))
    loss_axes, accuracy_axes, end_axes = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    methods = list(dict.fromkeys(run.method for run in runs))
    for place, (method, colour) in enumerate(zip(methods, itertools.cycle(_COLOURS), strict=False)):
        own = [run for run in runs if run.method == method]
        losses = np.array([run.loss for run in own])
        accuracies = 100 * np.array([run.accuracy for run in own])
        for axes, values in ((loss_axes, losses), (accuracy_axes, accuracies)):
            epochs, mean = range(1, values.shape[1] + 1), values.mean(0)
            axes.plot(epochs, mean, color=colour, label=method, marker="o", markersize=3)
            if seeds > 1:
                std = values.std(0, ddof=1)
                low = np.maximum(mean - std, mean.min() / 2)  # a loss near 0 may deviate by more than itself
                axes.fill_between(epochs, low, mean + std, color=colour, alpha=0.2)
        end = accuracies[:, -1]
        end_axes.plot([place] * len(own), end, "o", color=colour, alpha=0.6)
        end_axes.hlines(end.mean(), place - 0.3, place + 0.3, color=colour, lw=2)
    scale = "log" if len(runs[0].loss) > 1 else "linear"  # which has no plain ticks in so short a range
    loss_axes.set(title="training loss", xlabel="epoch", ylabel="cross-entropy", yscale=scale)
    accuracy_axes.set(title="test accuracy", xlabel="epoch", ylabel="% of the test pictures")
    accuracy_axes.legend(title="method", loc="lower right")
    end_axes.set(title="after the last epoch", xlabel="a point per seed, a line for the mean")
    end_axes.set_xlim(-0.6, len(methods) - 0.4)
    end_axes.set_xticks(range(len(methods)), methods)
    for axes in (loss_axes, accuracy_axes):
        whole_epochs(axes)
    for axes in (loss_axes, accuracy_axes, end_axes):
        axes.grid(alpha=0.3)
    return _png(figure)


def kernels(models: Mapping[str, nn.Module]) -> bytes | None:
    """The kernels of the first associated layer as a PNG, a column per group; ``None`` if no layer is associated.

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
    return _png(figure)


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


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
