"""The common association, ``W' = W + S @ W`` with one super kernel per group, as a single autograd node.

The same result as ``associate`` composed of torch's differentiable operations, which stays
the reference and takes every other configuration. What a node of our own saves:

- operations: on narrow layers the time goes into launching them, not into arithmetic;
- memory traffic: kernels of a contiguous layer must be transposed to ``(G, n, ci)`` and back. Done for a few groups at
  a time, the transposed copies stay in the cache and are never allocated at full size;
- memory: backward needs the kernels and the small matrix ``S``, no copies of the kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .association import Way, super_matrix, super_matrix_adjoint
from .grid import Grid, from_groups, to_groups
from .memory_format import is_channels_last, match_layout
from .precision import no_autocast

#: Transposed copies are made for as many groups at a time as have kernels of this many bytes (fitted on a CPU).
_CHUNK_BYTES = 1 << 21


def fused_associate(weight: Tensor, super_kernel: Tensor, grid: Grid, skip: bool, way: Way) -> Tensor:
    """Associate kernels with super kernels shared over input channels.

    Shape:
        - weight: ``(co, ci, k_1, ..., k_d)``
        - super_kernel: ``(G, s_1, ..., s_d)``
        - result: as ``weight``
    """
    out: Tensor = _Associate.apply(weight, super_kernel, grid, skip, way)
    return out


class _Associate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, super_kernel: Tensor, grid: Grid, skip: bool, way: Way) -> Tensor:
        matrix = super_matrix(super_kernel, grid, way)
        ctx.save_for_backward(weight, super_kernel, matrix)
        ctx.save_for_forward(weight, super_kernel)
        ctx.grid, ctx.skip, ctx.way = grid, skip, way
        # No view, as channels-last kernels would be one of their product: torch gives a view of ours no tangent.
        return _forward(weight, matrix, grid, skip).detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        weight, super_kernel, matrix = ctx.saved_tensors
        with no_autocast(weight.device):  # the forward ran outside of it
            again = torch.is_grad_enabled() or any(map(_has_tangent, (weight, super_kernel, grad)))
            if again:  # the matrix of the forward is no function of the super kernel to autograd
                matrix = super_matrix(super_kernel, ctx.grid, ctx.way)
            grad_weight, grad_matrix = _backward(weight, matrix, grad, ctx.grid, ctx.skip, again)
            return grad_weight, super_matrix_adjoint(grad_matrix, ctx.grid, ctx.way), None, None, None

    @staticmethod
    def jvp(ctx: Any, weight_tangent: Tensor | None, super_tangent: Tensor | None, *_: None) -> Tensor:
        weight, super_kernel = ctx.saved_tensors[:2]
        return _jvp(weight, super_kernel, weight_tangent, super_tangent, ctx.grid, ctx.skip, ctx.way)


def _whole(weight: Tensor, matrix: Tensor, grid: Grid, skip: bool) -> Tensor:
    """All groups at once, of differentiable operations."""
    return match_layout(from_groups(_apply(matrix, to_groups(weight, grid), skip), grid), weight)


def _forward(weight: Tensor, matrix: Tensor, grid: Grid, skip: bool) -> Tensor:
    chunks = _chunks(weight, grid)
    if chunks is None:
        return _whole(weight, matrix, grid, skip)
    out = torch.empty_like(weight)
    for kernels, groups in chunks:
        _write(out[kernels], _apply(matrix[groups], to_groups(weight[kernels], grid), skip), grid)
    return out


def _backward(
    weight: Tensor, matrix: Tensor, grad: Tensor, grid: Grid, skip: bool, again: bool
) -> tuple[Tensor, Tensor]:
    back, chunks = matrix.mT, _chunks(weight, grid)
    # What is differentiated again, and what runs for many upstream gradients at once, is not written in place.
    if chunks is None or again or _is_batched(grad):
        g = to_groups(grad, grid)
        grad_matrix = torch.bmm(g, to_groups(weight, grid).mT)
        grad_weight = match_layout(from_groups(_apply(back, g, skip), grid), weight)
    else:
        grad_matrix, grad_weight = torch.empty_like(matrix), torch.empty_like(weight)
        for kernels, groups in chunks:
            g = to_groups(grad[kernels], grid)
            torch.bmm(g, to_groups(weight[kernels], grid).mT, out=grad_matrix[groups])
            _write(grad_weight[kernels], _apply(back[groups], g, skip), grid)
    return grad_weight, grad_matrix


def _jvp(
    weight: Tensor,
    super_kernel: Tensor,
    weight_tangent: Tensor | None,
    super_tangent: Tensor | None,
    grid: Grid,
    skip: bool,
    way: Way,
) -> Tensor:
    out = torch.zeros_like(weight)
    if weight_tangent is not None:
        out = out + _whole(weight_tangent, super_matrix(super_kernel, grid, way), grid, skip)
    if super_tangent is not None:
        out = out + _whole(weight, super_matrix(super_tangent, grid, way), grid, skip=False)
    return out


def _apply(matrix: Tensor, x: Tensor, skip: bool) -> Tensor:
    return torch.baddbmm(x, matrix, x) if skip else torch.bmm(matrix, x)


def _chunks(weight: Tensor, grid: Grid) -> list[tuple[slice, slice]] | None:
    """Runs of kernels and their groups to work on at a time; ``None`` where one run does, or copies cost nothing."""
    groups = max(1, _CHUNK_BYTES * grid.groups // max(1, weight.nbytes))
    if groups >= grid.groups or grid.missing or not weight.is_cpu or is_channels_last(weight):
        return None
    starts = range(0, grid.groups, groups)
    return [(slice(i * grid.cells, (i + groups) * grid.cells), slice(i, i + groups)) for i in starts]


def _has_tangent(tensor: Tensor) -> bool:
    """Whether forward-mode differentiation goes through a tensor: through a backward, for second derivatives."""
    return forward_ad.unpack_dual(tensor).tangent is not None


def _is_batched(grad: Tensor) -> bool:
    """Whether a backward runs for many upstream gradients at once (Jacobians)."""
    return bool(torch._C._functorch.is_batchedtensor(grad) or torch._C._functorch.is_legacy_batchedtensor(grad))


def _write(out: Tensor, x: Tensor, grid: Grid) -> None:
    """Write some complete groups into their kernels."""
    out.copy_(x.view(-1, *grid.kernel, grid.channels).movedim(-1, 1))
