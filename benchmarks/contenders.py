"""What ours is compared with, each converting a plain network in place: the poster's way and other kernel maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convofconv as coc
from convofconv.functional.grid import Grid

#: Every conv with k ≠ 1, a detector's prediction layers included.
EVERYTHING = coc.Selection(predictions=True)


def posters_associate(weight: Tensor, super_kernel: Tensor, grid: Grid) -> Tensor:
    """α(W) as the poster's pseudo-code ("Naive implementation") computes it: rearrange, depthwise convolution, back.

    With the skip added and without the super convolution's bias, so that it computes the same as ours. For 2-d convs,
    one super kernel per group.
    """
    groups, side, (kh, kw) = grid.groups, grid.side, grid.kernel
    full = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, grid.missing))
    laid_out = full.view(groups, side, side, -1, kh, kw).permute(0, 3, 1, 4, 2, 5)
    laid_out = laid_out.reshape(groups, -1, side * kh, side * kw)
    convolved = F.conv2d(
        laid_out.permute(1, 0, 2, 3), super_kernel[0][:, None], padding="same", dilation=grid.dilation, groups=groups
    ).permute(1, 0, 2, 3)
    cut = convolved.reshape(groups, -1, side, kh, side, kw).permute(0, 2, 4, 1, 3, 5)
    return weight + cut.reshape(full.shape)[: weight.shape[0]]


class PostersWay(coc.KernelMap):
    """The poster's way as a kernel map, for whole networks."""

    def __init__(self, association: coc.SpatialAssociation) -> None:
        super().__init__()
        self.grid = association.grid
        self.super_kernel = nn.Parameter(torch.zeros_like(association.super_kernel))

    @classmethod
    def for_conv(cls, conv, config):
        return cls(coc.SpatialAssociation.for_conv(conv, config))

    def forward(self, weight: Tensor) -> Tensor:
        return posters_associate(weight, self.super_kernel, self.grid)


CONTENDERS: Mapping[str, Callable[[nn.Module], object]] = {
    "plain": lambda model: None,
    "ours": lambda model: coc.convert(model, where=EVERYTHING),
    "ours, released": lambda model: coc.convert(model, config="released", where=EVERYTHING),
    "poster's way": lambda model: coc.convert(model, PostersWay, where=EVERYTHING),
    "standardization": lambda model: coc.convert(model, "stnd", where=EVERYTHING),
    "ONI": lambda model: coc.convert(model, "orth", where=EVERYTHING),
    "DO-Conv": lambda model: coc.convert(model, "doconv", where=EVERYTHING),
}
