"""The spatial association α on tensors alone: composed of torch's operations, and the common case as one autograd node.

Source: *Convolution of Convolution: Let Kernels Collaborate Spatially* (CVPR 2022), steps 0-3 of the poster.

Groups of consecutive kernels ``W`` are laid out as grids (ξ, see :mod:`.grid`), convolved with a super kernel ``s`` and
cut apart again: ``α(W) = ξ⁻¹(s ∗ ξ(W))``. :func:`associate` does that for every configuration, by a matrix product (see
:mod:`.super_matrix`) or by the literal convolution, whichever costs less. The published choice, one super kernel per
group and no norm, is one autograd node, ``W' = W + S @ W``. What a node of our own saves:

- operations: on narrow layers the time goes into launching them, not into arithmetic;
- memory traffic: kernels of a contiguous layer must be transposed to ``(G, n, ci)`` and back. Done for a few groups at
  a time, the transposed copies stay in the cache and are never allocated at full size;
- memory: backward needs the kernels and the small matrix ``S``, no copies of the kernels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from ..config import Share
from ..errors import ShapeError
from ..torch_private import is_batched, is_tracing
from .grid import Grid, from_groups, to_groups
from .memory_format import is_channels_last, match_layout
from .precision import autocast_dtype, no_autocast
from .super_matrix import Way, choose_way, super_matrix, super_matrix_adjoint

#: Transposed copies are made for as many groups at a time as have kernels of this many bytes (fitted on a CPU).
_CHUNK_BYTES = 1 << 21


def associate(
    weight: Tensor,
    super_kernel: Tensor,
    grid: Grid,
    *,
    share: Share = "input",
    skip: bool = True,
    norm: tuple[Tensor, Tensor] | None = None,
    way: Way | None = None,
    layers: int = 1,
) -> Tensor:
    """The spatial association of a layer's kernels, ``α(W) = W + ξ⁻¹(s ∗ ξ(W))`` (poster, steps 0-3).

    Several super kernels are applied one after another, with one skip and one norm around the whole stack. Kernels
    that the last group lacks are zeros before every super convolution. The kernels may be those of several layers,
    each of them a block of the grid or some.

    Shape:
        - weight: ``(co, ci, k_1, ..., k_d)``
        - super_kernel: ``(depth, *grid.super_shape(share))``
        - norm: gain and bias of :func:`grid_layer_norm`
        - result: as ``weight``, also in dtype and memory format; under autocast in autocast's dtype, like the result
          of a convolution, so that no copy in float32 is written only to be rounded

    Raises:
        ShapeError: shapes, dtypes or devices do not fit ``grid`` and one another.

    Examples:
        >>> weight = torch.randn(8, 3, 3, 3)
        >>> grid = Grid.build(weight.shape, side=2, extra_width=2, dilated=True)
        >>> associate(weight, torch.zeros(1, *grid.super_shape("input")), grid).equal(weight)
        True
    """
    _check(weight, super_kernel, grid, share)
    way = way or choose_way(grid, share)
    if (dtype := autocast_dtype(weight)) != weight.dtype:
        with no_autocast(weight.device):
            weight, super_kernel = weight.to(dtype), super_kernel.to(dtype)
            return associate(weight, super_kernel, grid, share=share, skip=skip, norm=norm, way=way, layers=layers)
    common = way != "direct" and share == "input" and super_kernel.shape[0] == 1 and norm is None
    if common and not is_tracing():
        out: Tensor = _Associate.apply(weight, super_kernel.squeeze(0), grid, skip, way)
        return out
    basic = x = to_groups(weight, grid)
    # The skip stays outside the matrix: I + S would round a small S away in half precision.
    residual = basic if skip else None
    last = super_kernel.shape[0] - 1
    for layer, s in enumerate(super_kernel.unbind(0)):
        if layer and grid.missing:
            x = to_groups(from_groups(x, grid), grid)
        x = super_convolve(x, s, grid, share, way, residual if layer == last and norm is None else None)
    if norm is not None:
        x = grid_layer_norm(x, *norm, grid, layers=layers)
        x = x if residual is None else residual + x
    return match_layout(from_groups(x, grid), weight)


def _check(weight: Tensor, super_kernel: Tensor, grid: Grid, share: Share) -> None:
    if tuple(weight.shape) != grid.shape:
        raise ShapeError(f"the grid is built for weights of shape {grid.shape}, got {tuple(weight.shape)}")
    if tuple(super_kernel.shape[1:]) != grid.super_shape(share) or super_kernel.shape[0] < 1:
        wanted = ", ".join(map(str, grid.super_shape(share)))
        raise ShapeError(
            f"super kernels shared over {share!r} must have shape (depth, {wanted}), got {tuple(super_kernel.shape)}"
        )
    if (weight.dtype, weight.device) != (super_kernel.dtype, super_kernel.device):
        raise ShapeError(
            f"weight and super kernel must have one dtype and device, got {weight.dtype} on {weight.device} and "
            f"{super_kernel.dtype} on {super_kernel.device}"
        )


def super_convolve(
    x: Tensor,
    super_kernel: Tensor,
    grid: Grid,
    share: Share,
    way: Way,
    residual: Tensor | None = None,
) -> Tensor:
    """One super convolution of flattened groups: "same" zero padding, stride 1, no bias (poster, step 2).

    Shape:
        - x: ``(G, n, ci)``, from :func:`to_groups`
        - super_kernel: ``grid.super_shape(share)``
        - residual: ``(G, n, ci)``, added to the result
        - result: ``(G, n, ci)``
    """
    if way == "direct":
        return _directly(x, super_kernel, grid, share, residual)
    return _by_matrix(x, super_kernel, grid, share, way, residual)


def _by_matrix(x: Tensor, super_kernel: Tensor, grid: Grid, share: Share, way: Way, residual: Tensor | None) -> Tensor:
    matrix = super_matrix(super_kernel, grid, way)
    if share == "output":  # one matrix per input channel, the same for all groups
        out = torch.bmm(matrix, x.permute(2, 1, 0)).permute(2, 1, 0)
        return out if residual is None else residual + out
    matrix = matrix.expand(grid.groups, -1, -1)
    # Fused, the sum costs no pass of its own.
    return torch.bmm(matrix, x) if residual is None else torch.baddbmm(residual, matrix, x)


def _directly(x: Tensor, super_kernel: Tensor, grid: Grid, share: Share, residual: Tensor | None) -> Tensor:
    d = len(grid.kernel)
    # torch's conv shares a kernel over the batch: input channels go there if they share one, groups otherwise.
    channel_axis = 0 if share == "input" else 1
    planes = x.reshape(grid.groups, *[grid.side] * d, *grid.kernel, grid.channels).movedim(-1, channel_axis)
    # (batch, channel, cells, offsets) -> (batch, channel, cell, offset, cell, offset, ...) -> images
    interleave = [axis for i in range(2, 2 + d) for axis in (i, i + d)]
    planes = planes.permute(0, 1, *interleave)
    images = planes.reshape(*planes.shape[:2], *[grid.side * k for k in grid.kernel]).contiguous()
    # Through a flat view: on GPUs torch mistakes single pixels with strides of their own for another memory format.
    images = images.reshape(-1).view(images.shape)
    if share == "both":
        images = images.reshape(-1, 1, *images.shape[2:])
    if share != "none":
        super_kernel = super_kernel.unsqueeze(1)
    reach = [dilation * (size - 1) for size, dilation in zip(grid.size, grid.dilation, strict=True)]
    padding: tuple[int, ...] = grid.before
    if any(total != 2 * left for total, left in zip(reach, padding, strict=True)):
        # Even super kernels need one more zero behind than in front; F.pad counts from the last axis.
        zeros = [zero for left, total in zip(padding, reach, strict=True) for zero in (total - left, left)]
        images, padding = F.pad(images, zeros[::-1]), (0,) * d
    convolve = (F.conv1d, F.conv2d, F.conv3d)[d - 1]
    conv_groups = 1 if share == "none" else super_kernel.shape[0]
    images = convolve(images, super_kernel, padding=padding, dilation=grid.dilation, groups=conv_groups)
    planes = images.reshape(planes.shape).permute(0, 1, *range(2, 2 + 2 * d, 2), *range(3, 3 + 2 * d, 2))
    out = planes.movedim(channel_axis, -1).reshape(x.shape)
    return out if residual is None else residual + out


def grid_layer_norm(x: Tensor, gain: Tensor, bias: Tensor, grid: Grid, layers: int = 1) -> Tensor:
    """LayerNorm over all grids of a layer, one statistic per input channel (released configuration).

    The zeros that complete the last group are no kernels: they are not counted in the statistics and stay zeros.
    The groups may be those of several layers, one layer's behind another's; each has its own statistics.

    Shape:
        - x: ``(G, n, ci)``
        - gain, bias: ``(G, cells, k_1, ..., k_d)``
        - result: ``(G, n, ci)``
    """
    affine = (tensor.reshape(grid.groups, grid.positions, 1) for tensor in (gain, bias))
    # A row per tap of an existing kernel. Statistics per column are what batch norm computes of a table.
    rows, weight, shift = (from_groups(y, grid).movedim(1, -1).reshape(-1, y.shape[-1]) for y in (x, *affine))
    wide = rows.to(torch.promote_types(x.dtype, torch.float32)).reshape(layers, -1, grid.channels).movedim(0, 1)
    columns = wide.reshape(-1, layers * grid.channels)
    normal = torch.batch_norm(columns, None, None, None, None, True, 0.0, 1e-5, False)
    normal = normal.reshape(-1, layers, grid.channels).movedim(1, 0).reshape(-1, grid.channels)
    out = torch.addcmul(shift, normal, weight).to(x.dtype)
    return to_groups(out.reshape(grid.shape[0], *grid.kernel, -1).movedim(-1, 1), grid)


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
    if chunks is None or again or is_batched(grad):
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


def _write(out: Tensor, x: Tensor, grid: Grid) -> None:
    """Write some complete groups into their kernels."""
    out.copy_(x.view(-1, *grid.kernel, grid.channels).movedim(-1, 1))
