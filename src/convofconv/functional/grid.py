"""Grids of kernels: their geometry, the sizes of their super kernels, and ξ, which lays kernels out as grids.

``sa^d`` consecutive kernels form a group, a grid with ``sa`` kernels per side. Flattened, a group is a vector of
``n = sa^d · k_1 ⋯ k_d`` positions for every input channel, and a layer's groups are a tensor ``(G, n, ci)``.

Source: *Convolution of Convolution: Let Kernels Collaborate Spatially* (CVPR 2022), steps 0, 1 and 3 of the poster.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ..config import Share
from ..errors import ShapeError

# (size, dilation) of the dilated super kernel for kernel size k and extra width, as the paper tabulates them.
_PAPER_TABLE = {
    3: {0: (3, 1), 2: (3, 2), 4: (3, 3), 6: (5, 2)},
    5: {0: (3, 3), 2: (5, 2), 4: (5, 3), 6: (5, 4)},
    7: {0: (5, 2), 2: (5, 3), 4: (5, 4), 6: (7, 3)},
}

_MAX_RULE_DILATION = 3


def super_kernel_axis(kernel_size: int, extra_width: int, dilated: bool) -> tuple[int, int]:
    """Size and dilation of the super kernel along one axis.

    Dense: size ``kernel_size + extra_width``, dilation 1. Dilated: the paper's table for kernel sizes 3, 5 and 7 with
    extra widths 0, 2, 4 and 6. The table follows no formula; for everything else our rule is to cover the span
    ``kernel_size + extra_width`` with the fewest taps, an odd number of them, at a dilation of at most 3:
    ``size`` is the smallest odd number with ``3 (size - 1) ≥ span - 1`` and ``dilation = ⌈(span - 1) / (size - 1)⌉``.
    For kernel size 3 the rule gives the paper's table.

    Examples:
        >>> super_kernel_axis(3, 2, dilated=True), super_kernel_axis(9, 2, dilated=True)
        ((3, 2), (5, 3))
    """
    span = kernel_size + extra_width
    if not dilated:
        return span, 1
    if extra_width in _PAPER_TABLE.get(kernel_size, {}):
        return _PAPER_TABLE[kernel_size][extra_width]
    reach = span - 1
    if reach == 0:
        return 1, 1
    half = math.ceil(reach / (2 * _MAX_RULE_DILATION))
    return 2 * half + 1, math.ceil(reach / (2 * half))


@dataclasses.dataclass(frozen=True)
class Grid:
    """Geometry of the grids of one layer; hashable, without tensors.

    Args:
        shape: shape of the layer's weight, ``(co, ci / conv_groups, k_1, ..., k_d)`` with ``d`` of 1, 2 or 3.
        side: kernels per side of the grid, ``sa``.
        size: taps of the super kernel per axis.
        dilation: dilation of the super kernel per axis.
        blocks: number of equal runs of output channels that no grid may cross (1, or the conv's groups).

    Raises:
        ShapeError: the weight shape is not one of a 1-d, 2-d or 3-d conv, or ``blocks`` does not divide ``co``.
    """

    shape: tuple[int, ...]
    side: int
    size: tuple[int, ...]
    dilation: tuple[int, ...]
    blocks: int = 1

    def __post_init__(self) -> None:
        if not 3 <= len(self.shape) <= 5 or min(self.shape) < 1:
            raise ShapeError(
                f"a conv weight has shape (co, ci, k_1, ..., k_d) with d of 1, 2 or 3, none empty; got {self.shape}"
            )
        if self.shape[0] % self.blocks:
            raise ShapeError(f"{self.shape[0]} output channels cannot be split into {self.blocks} equal blocks")
        # All of them now: before Python 3.12 the first access takes a lock, which torch.compile cannot do in a graph.
        for name, value in vars(type(self)).items():
            if isinstance(value, functools.cached_property):
                getattr(self, name)

    @classmethod
    def build(cls, shape: Sequence[int], side: int, extra_width: int, dilated: bool, blocks: int = 1) -> Grid:
        """Grid of a weight of that shape, with the super kernel's size and dilation from :func:`super_kernel_axis`."""
        axes = [super_kernel_axis(k, extra_width, dilated) for k in shape[2:]]
        return cls(tuple(shape), side, tuple(s for s, _ in axes), tuple(d for _, d in axes), blocks)

    @functools.cached_property
    def kernel(self) -> tuple[int, ...]:
        """Kernel size per axis."""
        return self.shape[2:]

    @functools.cached_property
    def channels(self) -> int:
        """Input channels of one kernel."""
        return self.shape[1]

    @functools.cached_property
    def cells(self) -> int:
        """Kernels per group, ``sa^d``."""
        return int(self.side ** len(self.kernel))

    @functools.cached_property
    def positions(self) -> int:
        """Numbers in one plane of a grid, ``n = sa^d · k_1 ⋯ k_d``."""
        return self.cells * math.prod(self.kernel)

    @functools.cached_property
    def taps(self) -> int:
        """Taps of one super kernel."""
        return math.prod(self.size)

    @functools.cached_property
    def block_channels(self) -> int:
        """Output channels of one block."""
        return self.shape[0] // self.blocks

    @functools.cached_property
    def groups(self) -> int:
        """Groups of kernels of the layer, ``G``."""
        return self.blocks * math.ceil(self.block_channels / self.cells)

    @functools.cached_property
    def missing(self) -> int:
        """Kernels that the last group of every block lacks; they count as fixed zeros."""
        return -self.block_channels % self.cells

    @functools.cached_property
    def before(self) -> tuple[int, ...]:
        """Zeros in front of the grid per axis: "same" padding, the larger half behind, as torch has it."""
        return tuple(d * (s - 1) // 2 for s, d in zip(self.size, self.dilation, strict=True))

    @functools.cached_property
    def centre(self) -> tuple[int, ...]:
        """Index of the super kernel's tap that leaves everything in its place."""
        return tuple(b // d for b, d in zip(self.before, self.dilation, strict=True))

    def super_shape(self, share: Share) -> tuple[int, ...]:
        """Shape of one super kernel for a way of sharing it."""
        lead = {
            "input": (self.groups,),
            "output": (self.channels,),
            "both": (1,),
            "none": (self.channels, self.channels),
        }
        return (*lead[share], *self.size)


def to_groups(weight: Tensor, grid: Grid) -> Tensor:
    """Flatten every group of kernels, the last one of a block completed with zeros.

    Shape:
        - weight: ``(co, ci, k_1, ..., k_d)``, or some complete groups of its kernels
        - result: ``(G, n, ci)``; a view where the weight is channels-last and all groups are complete.
    """
    x = weight.movedim(1, -1)
    if grid.missing:
        x = x.reshape(grid.blocks, grid.block_channels, -1)
        x = F.pad(x, (0, 0, 0, grid.missing))
    return x.reshape(-1, grid.positions, weight.shape[1])


def from_groups(x: Tensor, grid: Grid) -> Tensor:
    """Undo :func:`to_groups`, of any number of channels; the result is channels-last in memory."""
    channels = x.shape[-1]
    if grid.missing:
        x = x.reshape(grid.blocks, -1, math.prod(grid.kernel) * channels)[:, : grid.block_channels]
    return x.reshape(grid.shape[0], *grid.kernel, channels).movedim(-1, 1)
