"""The association α of a layer as matrices on its groups, and what it does to frequencies.

On a flattened group, ``n`` numbers per input channel, α is one matrix: ``A = I + S`` with the skip, see
:mod:`convofconv.functional.super_matrix`. Everything is in float64 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..functional.association import associate
from ..functional.grid import Grid
from ..functional.precision import in_float64
from ..functional.super_matrix import super_matrix
from ..maps import SpatialAssociation

#: A frequency is removed where α leaves less than this of it.
REMOVED = 0.1
#: Matrices of larger groups (a side of 8 with 5×5 kernels) take seconds each.
_MOST_POSITIONS = 1024


def association_matrices(association: SpatialAssociation, weight: Tensor) -> tuple[list[Tensor], str]:
    """α as matrices, those of complete groups and of incomplete ones, each ``(m, p, p)``; none and why else."""
    config, grid = association.config, association.grid
    if config.share == "none":
        return [], 'share="none": α mixes input channels, no matrix per group'
    if grid.positions > _MOST_POSITIONS:
        return [], f"matrices of {grid.positions}×{grid.positions} take too long"
    if config.grid_norm and config.share == "output":
        return [], 'grid_norm with share="output": a matrix per group and input channel'
    supers = in_float64(association.effective_super_kernel()).cpu()
    layers = [super_matrix(s, grid, "index") for s in supers]
    gain = _held_norm(association, weight, supers) if config.grid_norm else None
    if gain is not None:
        layers = [s.expand(grid.groups, -1, -1) for s in layers]
    found = []
    for groups, kernels in _group_sizes(grid):
        present = kernels * math.prod(grid.kernel)
        own = config.share == "input" or gain is not None
        # A group's missing kernels are zeros before every super convolution: what is left of it is a corner.
        parts = [(s[groups] if own else s)[:, :present, :present] for s in layers]
        product = parts[0]
        for part in parts[1:]:
            product = part @ product
        product = product if gain is None else gain[groups, :present, None] * product
        found.append(product + torch.eye(present, dtype=product.dtype) if config.skip else product)
    return found, "linearised: statistics of the grid norm held" if config.grid_norm else ""


def _group_sizes(grid: Grid) -> Iterator[tuple[Tensor, int]]:
    """Which groups have how many kernels: the complete ones and, where there are some, the others."""
    sizes = kernels_per_group(grid)
    for size in sizes.unique(sorted=True).flip(0).tolist():
        yield (sizes == size).nonzero().flatten(), int(size)


def _held_norm(association: SpatialAssociation, weight: Tensor, supers: Tensor) -> Tensor:
    """What the norm over the grids multiplies every number of a group by, ``(G, n)``, were its statistics constant."""
    grid, config, gain = association.grid, association.config, association.norm_weight
    assert gain is not None
    kernels = weight if association.order is None else weight[association.order]
    out = associate(in_float64(kernels).cpu(), supers, grid, share=config.share, skip=False)
    variance = out.movedim(1, 0).flatten(1).var(1, correction=0)
    factor = (variance + 1e-5).reciprocal().mean().sqrt()
    return in_float64(gain).cpu().reshape(grid.groups, -1) * factor


def removed_frequencies(association: SpatialAssociation) -> float | None:
    """The share of frequencies that α leaves nothing of; ``None`` where it is no convolution.

    They are those of a grid padded with so many zeros that the super convolution is a circular one, an even number per
    axis, so that the highest frequency is among them.
    """
    config, grid = association.config, association.grid
    if config.grid_norm or config.share == "none":
        return None
    supers = in_float64(association.effective_super_kernel()).cpu()
    spread = [(size - 1) * step + 1 for size, step in zip(grid.size, grid.dilation, strict=True)]
    padded = [grid.side * k + reach for k, reach in zip(grid.kernel, spread, strict=True)]
    padded = [length + length % 2 for length in padded]
    kernels = supers.new_zeros(*supers.shape[:2], *padded)
    taps: list[Any] = [slice(0, reach, step) for reach, step in zip(spread, grid.dilation, strict=True)]
    kernels[tuple([..., *taps])] = supers  # noqa: C409 (Python 3.10 unpacks nothing in an index)
    # The super kernel's middle at the origin; a shift of each layer of a stack is one of their product.
    axes = tuple(range(2, supers.dim()))
    kernels = kernels.roll([-before for before in grid.before], axes)
    response = torch.fft.fftn(kernels, dim=axes).prod(0) + (1 if config.skip else 0)
    return float((response.abs() < REMOVED).double().mean())


def kernels_per_group(grid: Grid) -> Tensor:
    """How many kernels every group holds, ``(G,)``."""
    sizes = torch.full((grid.blocks, grid.groups // grid.blocks), float(grid.cells))
    sizes[:, -1] -= grid.missing
    return sizes.flatten()
