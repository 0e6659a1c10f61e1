"""The paper's spatial association as a kernel map."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ..config import Config, Init, resolve_config
from ..errors import ConfigError, ShapeError
from ..functional.association import associate, super_convolve
from ..functional.grid import Grid, from_groups, to_groups
from ..functional.grouping import random_order, similar_order
from ..functional.memory_format import match_layout
from ..functional.precision import in_float64
from ..functional.super_matrix import choose_way
from ..torch_private import has_values, is_tracing, writes
from .kernel_layer_norm import KernelLayerNorm
from .kernel_map import Conv, KernelMap, Stack, conv_shape
from .standardization import standardize


class SpatialAssociation(KernelMap):
    r"""The paper's spatial association α of a layer's kernels, with learned super kernels.

    :math:`\alpha(W) = W + \xi^{-1}(s * \xi(W))`, see :mod:`convofconv.functional.association` (poster, steps 0-3).

    Args:
        weight_shape: shape of the weight, ``(co, ci / groups, k_1, ..., k_d)``.
        config: the hyper-parameters or the name of a preset.
        groups: groups of the convolution, used with ``config.within_conv_groups``.
        weight: the kernels to be grouped, needed for ``config.grouping="similar"``.

    Attributes:
        super_kernel: ``(depth, m, s_1, ..., s_d)``, with ``m`` the number of groups ``G`` (``share="input"``), of input
            channels (``"output"``), 1 (``"both"``) or ``ci²`` (``"none"``).
        gain: ``(depth, f, 1, ..., 1)``, the scale of the ``f`` filters of standardized super kernels that no norm
            follows, else ``None``; ``f = m``, but ``ci`` for ``"none"``.
        norm_weight, norm_bias: ``(G, sa^d, k_1, ..., k_d)`` with ``config.grid_norm``, else ``None``.
        order: ``(co,)``, which kernel stands at which place when they are divided into groups, else ``None`` (for
            ``config.grouping="consecutive"``). It is chosen when the map is built and then stays, since super kernels
            are learnt for these groups; checkpoints keep it. On the meta device it has no values yet.

    Shape:
        - weight: ``(co, ci / groups, k_1, ..., k_d)``
        - result: as ``weight``

    Raises:
        ConfigError: a super kernel of a single tap shall be standardized, or similar kernels grouped without a weight.
        ShapeError: the weight has another shape, dtype or device than the map was built for, or ``order`` is none.

    Examples:
        >>> association = SpatialAssociation((8, 3, 3, 3))
        >>> association.super_kernel.shape
        torch.Size([1, 2, 3, 3])
    """

    linear = True
    parameter_groups: ClassVar[Mapping[str, str]] = {
        "super_kernel": "super kernels",
        **dict.fromkeys(("gain", "norm_weight", "norm_bias"), "norms and biases"),
    }

    order: Tensor | None
    gain: nn.Parameter | None
    norm_weight: nn.Parameter | None
    norm_bias: nn.Parameter | None

    def __init__(
        self,
        weight_shape: Sequence[int],
        config: Config | str = "poster",
        groups: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config = config = resolve_config(config)
        self.start_mode: Init = config.init
        shape = conv_shape(weight_shape, "SpatialAssociation")
        blocks = groups if config.within_conv_groups else 1
        self.grid = grid = Grid.build(shape, config.grid_side, config.extra_width, config.dilated, blocks)
        self.way = choose_way(grid, config.share)
        filters, *per_filter = grid.super_shape(config.share)
        if config.standardize_super_kernel and math.prod(per_filter) == 1:
            raise ConfigError(
                f"a super kernel of one tap (kernel size {grid.kernel}, extra_width {config.extra_width}) cannot be "
                "standardized; set extra_width to 2 or more, or standardize_super_kernel=False"
            )
        if config.grouping == "similar" and weight is None:
            raise ConfigError(
                'grouping="similar" compares the kernels of a weight, not only its shape: pass weight=, or build the '
                "map with SpatialAssociation.for_conv or convofconv.convert"
            )

        def parameter(wanted: bool, *shape: int) -> nn.Parameter | None:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) if wanted else None

        affine = (grid.groups, grid.cells, *grid.kernel)
        # d + 2 axes in every way of sharing: Module.to(memory_format=torch.channels_last) takes five for a video's.
        kernels = filters * math.prod(per_filter) // grid.taps
        self.super_kernel = nn.Parameter(torch.empty(config.depth, kernels, *grid.size, device=device, dtype=dtype))
        # Standardizing fixes the scale of a super kernel; where no norm with a gain of its own follows, this one does.
        lone = config.standardize_super_kernel and not config.grid_norm
        self.gain = parameter(lone, config.depth, filters, *[1] * len(grid.size))
        self.norm_weight = parameter(config.grid_norm, *affine)
        self.norm_bias = parameter(config.grid_norm, *affine)
        if config.grouping == "consecutive":
            self.order = None  # not an empty buffer: maps without buffers are looked through faster in every forward
        else:
            self.register_buffer("order", self._choose_order(weight))
        self._checked_order: tuple[int, int] | None = None
        self.reset_parameters()

    @classmethod
    def for_conv(cls, conv: Conv, config: Config) -> SpatialAssociation:
        weight = conv.weight
        return cls(tuple(weight.shape), config, conv.groups, weight.device, weight.dtype, weight)

    @classmethod
    def companions(cls, config: Config) -> tuple[type[KernelMap], ...]:
        return (KernelLayerNorm,) if config.kernel_norm else ()

    def settings(self) -> dict[str, object]:
        return dataclasses.asdict(self.config)

    @classmethod
    def from_settings(cls, conv: Conv, settings: dict[str, Any]) -> SpatialAssociation:
        return cls.for_conv(conv, Config(**settings))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new super kernels: kaiming-normal, fan-out (released configuration), then ``config.init``.

        ``"identity"`` sets to zero what makes α the identity and still lets every gradient through: the norm's weight,
        the gain or the super kernel, of the last super convolution only (all of a stack at zero is a dead saddle);
        without the skip every super kernel becomes a one at its centre.

        The order of the kernels stays; only where it has no values (after ``to_empty``) it becomes the consecutive one.
        """
        if self.order is not None and has_values(self.order) and not _is_order(self.order):
            self.order.copy_(torch.arange(len(self.order)))
        with _whole(self.super_kernel) as drawn:
            stacked = self._filters(drawn)
            if self.config.init == "identity" and not self.config.normalized:
                stacked = stacked[:-1]  # the last one is about to be overwritten: leave the random stream alone
            for layer in stacked:
                as_conv = layer if self.config.share == "none" else layer.unsqueeze(1)
                nn.init.kaiming_normal_(as_conv, mode="fan_out")
        if self.norm_weight is not None and self.norm_bias is not None:
            nn.init.ones_(self.norm_weight)
            nn.init.zeros_(self.norm_bias)
        if self.gain is not None:
            nn.init.ones_(self.gain)
        if self.config.init == "identity":
            self.start_from_identity()

    @torch.no_grad()
    def start_from_identity(self) -> None:
        """Make α the identity in a way that lets every parameter learn (see :meth:`reset_parameters`)."""
        if self.config.skip:
            for parameter in self._switches():
                with _whole(parameter) as switch:
                    switch[-1 if self.norm_weight is None else ...] = 0
            return
        with _whole(self.super_kernel) as kernels:
            kernels.copy_(self._ones_at_centre(kernels))

    def _ones_at_centre(self, like: Tensor) -> Tensor:
        """Super kernels that leave every kernel as it is, where there is no skip."""
        kernels = torch.zeros_like(like)
        at_centre: tuple[Any, ...] = (..., *self.grid.centre)
        centre = self._filters(kernels)[at_centre]
        if self.config.share == "none":
            centre = torch.diagonal(centre, dim1=-2, dim2=-1)
        centre.fill_(1)
        return kernels

    def _switches(self) -> list[nn.Parameter]:
        """What makes α the identity, given the skip, when it is zero; except for the norm's, the last of a stack."""
        if self.norm_weight is not None and self.norm_bias is not None:
            return [self.norm_weight, self.norm_bias]
        return [self.super_kernel if self.gain is None else self.gain]

    def _is_identity(self) -> bool:
        """Whether α is the identity for certain, known without computing it."""
        if self.config.skip:
            return not any((switch[-1] if self.norm_weight is None else switch).any() for switch in self._switches())
        return not self.config.normalized and torch.equal(self.super_kernel, self._ones_at_centre(self.super_kernel))

    def _choose_order(self, weight: Tensor | None) -> Tensor:
        device = self.super_kernel.device
        if not has_values(self.super_kernel):
            return torch.arange(self.grid.shape[0], device=device)
        if weight is not None and self.config.grouping == "similar":
            return similar_order(weight, self.grid).to(device)
        return random_order(self.grid).to(device)

    def _to_places(self, weight: Tensor) -> Tensor:
        if self.order is None:
            return weight
        self._check_order(self.order)
        # A copy, for DDP writes into buffers before every forward, and the backward of the one before needs this one.
        return weight.index_select(0, self.order.clone())

    def _check_order(self, order: Tensor) -> None:
        """Refuse an order that something has averaged like any buffer; asks the device only where it was written.

        Averages are loaded or evaluated, while DDP, which writes the same order before every forward, trains: there
        the first look is enough.
        """
        if is_tracing() or not has_values(order) or order.is_inference():
            return
        seen = (id(order), writes(order))
        if self.training and self._checked_order is not None and self._checked_order[0] == seen[0]:
            return
        if seen != self._checked_order:
            if not _is_order(order):
                raise ShapeError(
                    "the order of the kernels is none any more: something has averaged or rounded it (a moving average "
                    "of integer buffers?). Leave buffers out of averages, or copy them"
                )
            self._checked_order = seen

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._checked_order = None

    def _from_places(self, weight: Tensor) -> Tensor:
        return weight if self.order is None else weight.index_select(0, self.order.argsort())

    def batch_key(self) -> Hashable | None:
        c = self.config
        if self.order is not None or c.share != "input" or "effective_super_kernel" in vars(self):
            return None
        return self.grid, self.way, c.depth, c.skip, c.standardize_super_kernel, c.grid_norm

    @classmethod
    def batched(cls, maps: Sequence[SpatialAssociation], kernels: Tensor, stack: Stack) -> Tensor:
        def by_depth(parameters: Sequence[Tensor]) -> Tensor:  # (depth, layers · m, ...)
            stacked: Tensor = stack(parameters).unflatten(0, (len(maps), -1))
            return stacked.movedim(0, 1).flatten(1, 2)

        first, norm = maps[0], None
        supers = by_depth([m.super_kernel for m in maps])
        gain = None if first.gain is None else by_depth([cast(Tensor, m.gain) for m in maps])
        if first.norm_weight is not None:
            norm = (
                stack([cast(Tensor, m.norm_weight) for m in maps]),
                stack([cast(Tensor, m.norm_bias) for m in maps]),
            )
        supers = first._effective(supers, gain)
        # To an association, layers are blocks of output channels that no grid crosses.
        grid, skip = _grid_of_several(first.grid, len(maps)), first.config.skip
        return associate(kernels, supers, grid, skip=skip, norm=norm, way=first.way, layers=len(maps))

    def effective_super_kernel(self) -> Tensor:
        """The super kernels as they are applied: standardized and scaled where configured.

        Shape:
            ``(depth, *grid.super_shape(share))``
        """
        return self._effective(self.super_kernel, self.gain)

    def _effective(self, super_kernel: Tensor, gain: Tensor | None) -> Tensor:
        filters = self._filters(super_kernel)
        if not self.config.standardize_super_kernel:
            return filters
        normal = standardize(filters.flatten(0, 1)).view(filters.shape)
        return normal if gain is None else gain.view(*filters.shape[:2], *[1] * (filters.dim() - 2)) * normal

    def _filters(self, kernels: Tensor) -> Tensor:
        """Super kernels as filters: dense ones have one axis more, like a convolution's weight."""
        return kernels.unflatten(1, (self.grid.channels, -1)) if self.config.share == "none" else kernels

    def forward(self, weight: Tensor) -> Tensor:
        norm = None
        if self.norm_weight is not None and self.norm_bias is not None:
            norm = (self.norm_weight, self.norm_bias)
        super_kernel = self.effective_super_kernel()
        share, skip = self.config.share, self.config.skip
        placed = self._to_places(weight)
        out = associate(placed, super_kernel, self.grid, share=share, skip=skip, norm=norm, way=self.way)
        return out if self.order is None else match_layout(self._from_places(out), weight)

    @torch.no_grad()
    def right_inverse(self, weight: Tensor) -> Tensor:
        """Basic kernels whose association is ``weight``, by solving the linear system per group in float64.

        Raises:
            NotImplementedError: α has no computable inverse: a norm over the grids is active, or the super kernel is
                dense. (The exception is the one that torch's parametrizations expect.)
            ShapeError: α is singular.
        """
        if not has_values(weight) or self._is_identity():
            return weight
        system = self._linear_system()
        target = in_float64(to_groups(self._to_places(weight), self.grid))
        by_channel = self.config.share == "output"
        target = target.permute(2, 1, 0) if by_channel else target
        basic, info = torch.linalg.solve_ex(system, target)
        if info.any():
            raise ShapeError(
                "the association is singular: no basic kernels give this weight; "
                "call reset_parameters() of the map for other super kernels"
            )
        basic = basic.permute(2, 1, 0) if by_channel else basic
        return match_layout(self._from_places(from_groups(basic.to(weight), self.grid)), weight)

    @torch.no_grad()
    def condition_number(self) -> float:
        """How much solving for basic kernels (:meth:`right_inverse`) may amplify errors, the worst of all groups.

        Raises:
            NotImplementedError: α has no computable inverse.
        """
        return float(torch.linalg.cond(self._linear_system()).max())

    def _linear_system(self) -> Tensor:
        """α as float64 matrices on flattened groups, ``(m, n, n)``; missing kernels map to themselves."""
        if self.config.grid_norm or self.config.share == "none":
            raise NotImplementedError("α with a grid norm or a dense super kernel cannot be inverted")
        grid = self.grid
        super_kernels = in_float64(self.effective_super_kernel())
        present = to_groups(torch.ones(grid.shape, dtype=torch.float64, device=super_kernels.device), grid)[..., :1]
        if self.config.share == "output":  # one matrix serves all groups: it is right only if none is incomplete
            if grid.missing:
                raise NotImplementedError('α with share="output" and an incomplete group is not inverted')
            present = present[:1]
        product = torch.eye(grid.positions, dtype=torch.float64, device=present.device)
        for s in super_kernels:
            product = present * (_super_matrix(s, grid) @ (present * product))
        keep = 1.0 if self.config.skip else 1 - present
        return product + keep * torch.eye(grid.positions, dtype=torch.float64, device=present.device)

    def remarks(self, conv: Conv, maps: Sequence[KernelMap]) -> tuple[str, ...]:
        grid, notes = self.grid, []
        if grid.missing:
            where = "every conv group" if grid.blocks > 1 else "the layer"
            notes.append(f"the last grid of {where} holds {grid.cells - grid.missing} of {grid.cells} kernels")
        within = self.order is None and (conv.out_channels // conv.groups) % grid.cells == 0
        if conv.groups > 1 and grid.blocks == 1 and not within:
            notes.append("grids straddle conv groups (within_conv_groups=True keeps them inside)")
        if self.config.kernel_norm and not any(isinstance(m, KernelLayerNorm) for m in maps):
            notes.append("no kernel norm: no normalisation layer follows")
        return tuple(notes)

    def extra_repr(self) -> str:
        c, grid = self.config, self.grid
        size, dilation = "×".join(map(str, grid.size)), "×".join(map(str, grid.dilation))
        parts = [
            f"{grid.groups} groups of {'×'.join([str(grid.side)] * len(grid.kernel))} kernels",
            f"super kernel {size}" + (f" dilation {dilation}" if max(grid.dilation) > 1 else ""),
            f"share={c.share!r}",
        ]
        parts += [f"depth={c.depth}"] if c.depth > 1 else []
        parts += ["skip=False"] if not c.skip else []
        parts += [f"grouping={c.grouping!r}"] if self.order is not None else []
        parts += [
            f"{flag}=True"
            for flag in ("standardize_super_kernel", "grid_norm", "within_conv_groups")
            if getattr(c, flag)
        ]
        return ", ".join(parts)


@functools.cache
def _grid_of_several(grid: Grid, layers: int) -> Grid:
    """The grids of several layers, one layer's behind another's."""
    shape = (layers * grid.shape[0], *grid.shape[1:])
    return dataclasses.replace(grid, shape=shape, blocks=layers * grid.blocks)


def _super_matrix(super_kernel: Tensor, grid: Grid) -> Tensor:
    """``super_matrix`` without the memory that it keeps: a convolution of unit grids."""
    several, n = len(super_kernel), grid.positions
    units = torch.eye(n, dtype=super_kernel.dtype, device=super_kernel.device).expand(several, n, n)
    shape = (several * grid.cells, n, *grid.kernel)
    return super_convolve(units, super_kernel, dataclasses.replace(grid, shape=shape, blocks=1), "input", "direct")


@contextmanager
def _whole(parameter: nn.Parameter) -> Iterator[Tensor]:
    """A parameter whose parts can be written to; of one that FSDP has sharded, what the first process writes counts."""
    if not hasattr(parameter, "full_tensor"):
        yield parameter
        return
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = parameter
    values = sharded.full_tensor()
    yield values
    sharded.copy_(distribute_tensor(values, sharded.device_mesh, sharded.placements))


def _is_order(order: Tensor) -> bool:
    return torch.equal(order.sort().values, torch.arange(len(order), device=order.device))
