"""Super kernels as matrices on flattened grids, and when that is the cheaper way to convolve.

On flattened groups, tensors of shape ``(G, n, ci)``, a super convolution is one ``n × n`` matrix, the same for all
input channels that share the super kernel ``s``: ``S = Σ_t s[t] · B_t``, with ``B_t`` the fixed 0/1 matrix that shifts
the grid by tap ``t``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ..config import Share
from ..torch_private import has_values
from .grid import Grid
from .precision import no_autocast, no_inference

#: A product with matrices that are made by a product or by an index, or the literal convolution.
Way = Literal["matmul", "index", "direct"]


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
