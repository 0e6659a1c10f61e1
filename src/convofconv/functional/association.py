"""The spatial association α on tensors alone, and two ways to compute it.

Source: *Convolution of Convolution: Let Kernels Collaborate Spatially* (CVPR 2022), steps 0-3 of the poster.

Groups of consecutive kernels ``W`` are laid out as grids (ξ, see :mod:`.grid`), convolved with a super kernel ``s`` and
cut apart again: ``α(W) = ξ⁻¹(s ∗ ξ(W))``. On flattened groups, tensors of shape ``(G, n, ci)``, a super convolution is
one ``n × n`` matrix, the same for all input channels that share ``s``: ``S = Σ_t s[t] · B_t``, with ``B_t`` the fixed
0/1 matrix that shifts the grid by tap ``t``. :func:`choose_way` picks the matrix product or the literal convolution by
cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Share
from ..errors import ShapeError
from .grid import Grid, from_groups, to_groups
from .memory_format import match_layout
from .precision import associates_eagerly, autocast_dtype, has_values, no_autocast, no_inference

#: A product with matrices that are made by a product or by an index, or the literal convolution.
Way = Literal["matmul", "index", "direct"]


def _shifts(grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the matrices of super kernels are not zero: flat places ``i · n + j``, and the tap that carries j to i."""
    taps = places = torch.zeros(1, dtype=torch.int64, device=device)
    cell, offset, tap = grid.positions, math.prod(grid.kernel), grid.taps
    for k, size, dilation, before in zip(grid.kernel, grid.size, grid.dilation, grid.before, strict=True):
        cell, offset, tap = cell // grid.side, offset // k, tap // size  # strides of this axis
        # In Python, along one axis: how many there are must be known to tracers too.
        shifts = [(to, to + t * dilation - before, t) for to in range(grid.side * k) for t in range(size)]
        inside = [(to, source, t) for to, source, t in shifts if 0 <= source < grid.side * k]
        i, j, of_tap = torch.tensor(inside, device=device).unbind(1)
        i, j = (at // k * cell + at % k * offset for at in (i, j))
        places = (places[:, None] + i * grid.positions + j).reshape(-1)
        taps = (taps[:, None] + of_tap * tap).reshape(-1)
    return places, taps


_shift_tensors: dict[tuple[object, ...], tuple[Tensor, ...]] = {}


def _once(
    build: Callable[[], tuple[Tensor, ...]], key: tuple[object, ...], grid: Grid, like: Tensor
) -> tuple[Tensor, ...]:
    """What is the same for all layers of one geometry, built once per device and dtype, those of ``like``."""
    key = (*key, grid.kernel, grid.side, grid.size, grid.dilation, like.device, like.dtype)
    tensors = _shift_tensors.get(key) if has_values(like) else None
    if tensors is None:
        # No inference tensor, no tracer's fake one and none that autocast has rounded may stay.
        with no_inference(), no_autocast(like.device):
            tensors = build()
        if all(type(tensor) is Tensor for tensor in tensors) and not torch.compiler.is_compiling():
            _shift_tensors[key] = tensors
    return tensors


def shift_basis(grid: Grid, like: Tensor) -> Tensor:
    """The matrices ``B_t``, one flattened per row: ``B_t[i, j] = 1`` where tap ``t`` carries grid position j to i.

    Shape:
        - result: ``(taps, n²)``
    """

    def build() -> tuple[Tensor]:
        places, taps = _shifts(grid, like.device)
        basis = torch.zeros(grid.taps * grid.positions**2, device=like.device, dtype=like.dtype)
        basis = basis.index_fill(0, taps * grid.positions**2 + places, 1)
        return (basis.view(grid.taps, -1),)

    return _once(build, ("basis",), grid, like)[0]


def _shift_places(grid: Grid, like: Tensor) -> tuple[Tensor, ...]:
    return _once(lambda: _shifts(grid, like.device), ("places",), grid, like)


def super_matrix(super_kernel: Tensor, grid: Grid, way: Way) -> Tensor:
    """Write super kernels as matrices on flattened grids, ``S = Σ_t s[t] · B_t``.

    Shape:
        - super_kernel: ``(m, s_1, ..., s_d)``
        - result: ``(m, n, n)``
    """
    taps = super_kernel.reshape(-1, grid.taps)  # not flatten, for which torch has no batched backward
    if way == "matmul":
        matrices = taps @ shift_basis(grid, super_kernel)
    else:
        places, of_tap = _shift_places(grid, super_kernel)
        matrices = taps.new_zeros(len(taps), grid.positions**2).index_copy(1, places, taps.index_select(1, of_tap))
    return matrices.view(-1, grid.positions, grid.positions)


def super_matrix_adjoint(grad_matrix: Tensor, grid: Grid, way: Way) -> Tensor:
    """The gradient of super kernels, given that of their matrices: the backward of :func:`super_matrix`.

    Shape:
        - grad_matrix: ``(m, n, n)``
        - result: ``(m, s_1, ..., s_d)``
    """
    grad = grad_matrix.reshape(-1, grid.positions**2)  # reshape here too
    if way == "matmul":
        taps = grad @ shift_basis(grid, grad_matrix).T
    else:
        places, of_tap = _shift_places(grid, grad_matrix)
        taps = grad.new_zeros(len(grad), grid.taps).index_add(1, of_tap, grad.index_select(1, places))
    return taps.view(-1, *grid.size)


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


# How much dearer one multiplication of the direct way is than one of a matrix product, by way of sharing: depthwise
# convolutions and the copies around them run far below the speed of a matrix product. Fitted on a CPU with
# `python -m benchmarks.association --ways`; near the border both ways cost the same.
_DIRECT_PENALTY = {"input": 60, "output": 25, "both": 150}

# The shift basis, taps · n² numbers, stays in memory, and making S reads all of it: where it is larger than this, S is
# filled in by an index. That costs as much as this many multiplications for each of its n² numbers.
_MAX_BASIS = 1 << 23
_FILLING_IN = 150
# With more numbers than this in all S of a layer, they cost too much memory.
_MAX_MATRICES = 1 << 26


def choose_way(grid: Grid, share: Share) -> Way:
    """Choose between matrix products and the literal super convolution by counting multiplications.

    With ``m`` distinct super kernels the product costs ``m·n²·taps`` to build ``S`` and ``G·n²·ci`` to apply it, the
    convolution ``G·n·ci·taps`` of dearer ones. So the convolution wins where matrices are large against the channels
    that share them: a 7×7 stem (196×196 and 3 channels), a side of 8 (576×576), kernels of 7×7×7 (2744×2744). For wide
    layers of 5×5×5 kernels (1000×1000) an index builds ``S``. A dense super kernel is a common convolution already and
    always takes the direct way.
    """
    if share == "none":
        return "direct"
    matrices = math.prod(grid.super_shape(share)) // grid.taps
    by_index = grid.taps * grid.positions**2 > _MAX_BASIS
    if matrices * grid.positions**2 > _MAX_MATRICES:
        return "direct"
    work = grid.groups * grid.channels
    product = grid.positions * (matrices * (_FILLING_IN if by_index else grid.taps) + work)
    if product >= _DIRECT_PENALTY[share] * grid.taps * work:
        return "direct"
    return "index" if by_index else "matmul"


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
    if common and associates_eagerly():
        from .fused import fused_associate

        return fused_associate(weight, super_kernel.squeeze(0), grid, skip, way)
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
