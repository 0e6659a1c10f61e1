"""The spatial association α on tensors alone: grid geometry, super-kernel sizes, and two ways to compute it.

Source: *Convolution of Convolution: Let Kernels Collaborate Spatially* (CVPR 2022), steps 0-3 of the poster.

Groups of ``sa^d`` consecutive kernels ``W`` are laid out as a grid (ξ), convolved with a super kernel ``s`` and cut
apart again: ``α(W) = ξ⁻¹(s ∗ ξ(W))``. Flattened, a group is a vector of ``n = sa^d · k_1 ⋯ k_d`` positions for every
input channel, and a super convolution is one ``n × n`` matrix, the same for all input channels that share ``s``:
``S = Σ_t s[t] · B_t``, with ``B_t`` the fixed 0/1 matrix that shifts the grid by tap ``t``. So everything here works on
tensors of shape ``(G, n, ci)``, and :func:`choose_way` picks the matrix product or the literal convolution by cost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .config import Share
from .errors import ShapeError

Way = Literal["matmul", "direct"]

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


def is_channels_last(weight: Tensor) -> bool:
    """Whether input channels are the fastest axis in memory (told by strides, so also for one channel)."""
    if weight.shape[1] == 1 and weight[0].numel() == 1:
        return False
    return weight.stride(1) == 1 and weight.stride(-1) == weight.shape[1]


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


def match_layout(out: Tensor, weight: Tensor) -> Tensor:
    """Give ``out`` the memory format of ``weight``: it decides the layout of the conv's output and its algorithm."""
    # Through flat views: `contiguous` alone keeps the other format's strides where an axis has length 1.
    if is_channels_last(weight):
        by_channel = out.movedim(1, -1).contiguous()
        return by_channel.reshape(-1).view(by_channel.shape).movedim(-1, 1)
    return out.contiguous().reshape(-1).view(weight.shape)


def from_groups(x: Tensor, grid: Grid) -> Tensor:
    """Undo :func:`to_groups`, of any number of channels; the result is channels-last in memory."""
    channels = x.shape[-1]
    if grid.missing:
        x = x.reshape(grid.blocks, -1, math.prod(grid.kernel) * channels)[:, : grid.block_channels]
    return x.reshape(grid.shape[0], *grid.kernel, channels).movedim(-1, 1)


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers, not only a shape (the meta device, and the fake tensors of memory estimators)."""
    return not (tensor.is_meta or isinstance(tensor, FakeTensor))


def in_float64(tensor: Tensor) -> Tensor:
    """A tensor in float64, on the CPU where its device has none, as Apple's GPUs."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def no_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Compute in the tensors' own dtype, whatever the caller's autocast says."""
    return torch.autocast(device.type, enabled=False) if autocasts(device) else contextlib.nullcontext()


@contextlib.contextmanager
def no_tf32() -> Iterator[None]:
    """Compute in float32 what is float32: GPUs round convs to TF32 by default, and products where somebody asked."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    with contextlib.ExitStack() as undo:
        # Each in the way that it was last set in, for torch refuses the older one where the newer was used.
        try:
            undo.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        except RuntimeError:
            undo.callback(setattr, matmul, "fp32_precision", matmul.fp32_precision)
            matmul.fp32_precision = "ieee"
        try:
            undo.callback(setattr, cudnn, "allow_tf32", cudnn.allow_tf32)
            cudnn.allow_tf32 = False
        except RuntimeError:
            undo.callback(setattr, cudnn.conv, "fp32_precision", cudnn.conv.fp32_precision)
            cudnn.conv.fp32_precision = "ieee"
        yield


def _build_shift_basis(grid: Grid, device: torch.device, dtype: torch.dtype) -> Tensor:
    axes = []
    for k, size, dilation, before in zip(grid.kernel, grid.size, grid.dilation, grid.before, strict=True):
        place = torch.arange(grid.side * k, device=device)
        shift = torch.arange(size, device=device) * dilation - before
        moves = place[:, None] + shift[:, None, None] == place  # (tap, to, from)
        axes.append(moves.to(dtype).view(size, grid.side, k, grid.side, k))
    basis = functools.reduce(lambda left, right: torch.tensordot(left, right, dims=0), axes)
    # Per direction the axes are (tap, to cell, to offset, from cell, from offset): sort them by kind.
    order = [5 * direction + kind for kind in range(5) for direction in range(len(axes))]
    return basis.permute(order).reshape(grid.taps, grid.positions**2)


_shift_bases: dict[tuple[object, ...], Tensor] = {}


def shift_basis(grid: Grid, like: Tensor) -> Tensor:
    """The matrices ``B_t``, one flattened per row: ``B_t[i, j] = 1`` where tap ``t`` carries grid position j to i.

    Layers of one geometry share the tensor: it is built once per device and dtype, those of ``like``.

    Shape:
        - result: ``(taps, n²)``
    """
    device, dtype = like.device, like.dtype
    key = (grid.kernel, grid.side, grid.size, grid.dilation, device, dtype)
    basis = _shift_bases.get(key) if has_values(like) else None
    if basis is None:
        # No inference tensor, no tracer's fake one and none that autocast has rounded may stay in the cache.
        with torch.inference_mode(False), torch.no_grad(), no_autocast(device):
            basis = _build_shift_basis(grid, device, dtype)
        if type(basis) is Tensor and not torch.compiler.is_compiling():
            _shift_bases[key] = basis
    return basis


def super_matrix(super_kernel: Tensor, grid: Grid) -> Tensor:
    """Write super kernels as matrices on flattened grids, ``S = Σ_t s[t] · B_t``.

    Shape:
        - super_kernel: ``(m, s_1, ..., s_d)``
        - result: ``(m, n, n)``
    """
    taps = super_kernel.reshape(-1, grid.taps)  # not flatten, for which torch has no batched backward
    return (taps @ shift_basis(grid, super_kernel)).view(-1, grid.positions, grid.positions)


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for a device."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)  # meta knows no autocast


def autocast_dtype(weight: Tensor) -> torch.dtype:
    """The dtype to associate a weight in: its own, or autocast's where that would cast it."""
    casts = weight.is_floating_point() and weight.dtype != torch.float64 and autocasts(weight.device)
    return torch.get_autocast_dtype(weight.device.type) if casts else weight.dtype


def associates_eagerly() -> bool:
    """Whether a node of our own may be used: neither compiling, tracing nor inside torch.func, which see
    through operations only."""
    tracing = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    return not (tracing or torch._C._are_functorch_transforms_active())


def _matmul_way(x: Tensor, super_kernel: Tensor, grid: Grid, share: Share, residual: Tensor | None) -> Tensor:
    matrix = super_matrix(super_kernel, grid)
    if share == "output":  # one matrix per input channel, the same for all groups
        out = torch.bmm(matrix, x.permute(2, 1, 0)).permute(2, 1, 0)
        return out if residual is None else residual + out
    matrix = matrix.expand(grid.groups, -1, -1)
    # Fused, the sum costs no pass of its own.
    return torch.bmm(matrix, x) if residual is None else torch.baddbmm(residual, matrix, x)


def _direct_way(x: Tensor, super_kernel: Tensor, grid: Grid, share: Share, residual: Tensor | None) -> Tensor:
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

# The matrix product needs the shift basis, taps · n² numbers that stay in memory, and reads all of it for every S.
_MAX_BASIS = 1 << 23


def choose_way(grid: Grid, share: Share) -> Way:
    """Choose between the matrix product and the literal super convolution by counting multiplications.

    With ``m`` distinct super kernels the product costs ``m·n²·taps`` to build ``S`` and ``G·n²·ci`` to apply it, the
    convolution ``G·n·ci·taps`` of dearer ones. So the convolution wins where matrices are large against the channels
    that share them: a 7×7 stem (196×196 and 3 channels), a side of 8 (576×576), and, for its memory, kernels of
    5×5×5 (1000×1000). A dense super kernel is a common convolution already and always takes the direct way.
    """
    if share == "none" or grid.taps * grid.positions**2 > _MAX_BASIS:
        return "direct"
    matrices = math.prod(grid.super_shape(share)) // grid.taps
    work = grid.groups * grid.channels
    product = grid.positions * (matrices * grid.taps + work)
    return "matmul" if product < _DIRECT_PENALTY[share] * grid.taps * work else "direct"


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
    return (_matmul_way if way == "matmul" else _direct_way)(x, super_kernel, grid, share, residual)


def grid_layer_norm(x: Tensor, gain: Tensor, bias: Tensor, grid: Grid, eps: float = 1e-5, layers: int = 1) -> Tensor:
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
    normal = torch.batch_norm(columns, None, None, None, None, True, 0.0, eps, False)
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
    common = way == "matmul" and share == "input" and super_kernel.shape[0] == 1 and norm is None
    if common and associates_eagerly():
        from .fused import fused_associate

        return fused_associate(weight, super_kernel.squeeze(0), grid, skip)
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
