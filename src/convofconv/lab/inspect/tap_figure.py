"""The figure of claim C3: the association of a group as a heat map on tap responses."""

from __future__ import annotations

import math
from typing import Any

import torch
from matplotlib.figure import Figure

from .gradient_figures import tap_names
from .tap_responses import TapResponses


def draw_tap_responses(found: TapResponses) -> Figure:
    """α's matrix on tap responses, a block per pair of kernels; the skip's diagonal is off the scale."""
    matrix, kernels, taps = found.matrix, len(found.kernels), math.prod(found.kernel_size)
    scaled = matrix - torch.eye(len(matrix), dtype=matrix.dtype) if found.skip else matrix
    limit = float(scaled.abs().max()) or 1.0
    figure = Figure(figsize=(8, 7.6), layout="constrained")
    axes: Any = figure.subplots()
    drawn = axes.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    for border in range(taps, len(matrix), taps):
        axes.axhline(border - 0.5, color="black", lw=1)
        axes.axvline(border - 0.5, color="black", lw=1)
    middles = [taps * place + (taps - 1) / 2 for place in range(kernels)]
    names = [f"kernel {kernel}" for kernel in found.kernels]
    few = kernels <= 9
    axes.set_xticks(middles, names if few else found.kernels, fontsize=9 if few else 6)
    axes.set_yticks(middles, names if few else found.kernels, fontsize=9 if few else 6, rotation=90, va="center")
    axes.tick_params(length=0)
    names = tap_names(found.kernel_size)
    order = f"{names[0]} … {names[-1]}" if taps > 1 else names[0]
    axes.set_xlabel(f"tap responses of the basic kernels (in each block taps {order}, row by row)")
    axes.set_ylabel("what α makes of them")
    label = "weight (the diagonal, about 1, is off the scale)" if found.skip else "weight"
    figure.colorbar(drawn, ax=axes, shrink=0.8, label=label, extend="max" if found.skip else "neither")
    part = "α" if found.skip else "the super convolution, without skip,"
    remark = f"\n{found.remark}" if found.remark else ""
    axes.set_title(f"{found.layer}, group {found.group}: {part} on tap responses{remark}", fontsize=11)
    return figure
