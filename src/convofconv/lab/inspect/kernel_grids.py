"""The kernels of a conv in the groups that the association sees: basic, effective, their difference, super kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from ...errors import ConfigError, ShapeError, did_you_mean, listing, similar
from ...functional.grid import Grid
from ...maps import SpatialAssociation
from ...maps.kernel_map import Conv
from ...maps.registered import convs, kernel_maps, kernel_size, weight_maps
from ...torch_private import ConvTransposeNd, has_values

#: What stands in :attr:`KernelGrids.members` where an incomplete group lacks a kernel.
EMPTY = -1


@dataclasses.dataclass(frozen=True, eq=False)
class KernelGrids:
    """The kernels of one conv in groups, copies in float32 at least, on the conv's device.

    Args:
        layer: the conv's name.
        grid: geometry of the grids (:class:`convofconv.functional.grid.Grid`).
        members: which kernel stands where in each group, row by row; :data:`EMPTY` where none does.
        basic: what is trained, the parametrization's original; of a plain conv its weight.
        effective: what the conv uses, behind all its maps.
        super_kernels: those of each group as they are applied, one after another (``depth``). Planes are 1 for
            ``share="input"`` and ``"both"``, the input channels for ``"output"``, and all pairs (output channel of
            the super convolution, input channel) for ``"none"``. ``None`` where nothing is associated.
        share: over what a super kernel is shared, ``None`` where nothing is associated.
        skip: whether the basic kernels are added to the super convolution's result.
        conv_groups: groups of the convolution.

    Shape:
        - members: ``(G, sa^d)``
        - basic, effective: ``(co, ci / conv_groups, k_1, ..., k_d)``
        - super_kernels: ``(G, depth, planes, s_1, ..., s_d)``
    """

    layer: str
    grid: Grid
    members: Tensor
    basic: Tensor
    effective: Tensor
    super_kernels: Tensor | None = None
    share: str | None = None
    skip: bool = False
    conv_groups: int = 1

    @property
    def associated(self) -> bool:
        """Whether the kernels are associated; others are only laid out alike."""
        return self.super_kernels is not None

    @property
    def difference(self) -> Tensor:
        """What the maps change, effective − basic kernels."""
        return self.effective - self.basic

    def laid_out(self, kernels: Tensor) -> Tensor:
        """Lay kernels out as grids, ξ (poster, step 1); empty cells are zeros.

        Shape:
            - kernels: ``(co, channels, k_1, ..., k_d)``
            - result: ``(G, channels, sa · k_1, ..., sa · k_d)``

        Raises:
            ShapeError: these are not the kernels of this conv.
        """
        if kernels.shape[0] != self.grid.shape[0] or tuple(kernels.shape[2:]) != self.grid.kernel:
            raise ShapeError(
                f"{self.layer} has {self.grid.shape[0]} kernels of size {self.grid.kernel}, got a tensor of shape "
                f"{tuple(kernels.shape)}"
            )
        d, side = len(self.grid.kernel), self.grid.side
        padded = torch.cat([kernels, kernels.new_zeros(1, *kernels.shape[1:])])  # EMPTY is its last one
        cells: Tensor = padded[self.members].movedim(1, 2).unflatten(2, [side] * d)  # (G, channels, cells..., taps...)
        interleave = [axis for i in range(2, 2 + d) for axis in (i, i + d)]
        return cells.permute(0, 1, *interleave).reshape(*cells.shape[:2], *[side * size for size in self.grid.kernel])

    def numbers(self) -> dict[str, Any]:
        """Geometry, members and norms as plain values."""
        basic, effective, difference = (
            kernels.flatten(1).norm(dim=1) for kernels in (self.basic, self.effective, self.difference)
        )
        whole = float(basic.norm())
        return {
            "layer": self.layer,
            "shape": list(self.grid.shape),
            "groups": self.grid.groups,
            "side": self.grid.side,
            "empty_cells": int((self.members == EMPTY).sum()),
            "conv_groups": self.conv_groups,
            "associated": self.associated,
            "share": self.share,
            "depth": self.super_kernels.shape[1] if self.super_kernels is not None else None,
            "super_kernel_size": list(self.grid.size) if self.associated else None,
            "super_kernel_dilation": list(self.grid.dilation) if self.associated else None,
            "members": self.members.tolist(),
            "norms": {"basic": basic.tolist(), "effective": effective.tolist(), "difference": difference.tolist()},
            "relative_change": float(difference.norm()) / whole if whole else None,
        }


def kernel_grids(
    model: nn.Module, layer: str = "", *, like: KernelGrids | None = None, grid_side: int = 2
) -> KernelGrids:
    """The kernels of one conv as its association groups them (poster, steps 0 and 1).

    Args:
        model: a network, converted or not, or a conv itself.
        layer: the conv's name in the network; empty for ``model`` itself.
        like: lay out the kernels of a conv that is not associated as these are.
        grid_side: kernels per side of a group where the conv is not associated and there is no ``like``.

    Raises:
        ConfigError: the model has no such conv, or its kernels are not finite numbers.
        ShapeError: ``like`` has kernels of another shape.

    Examples:
        >>> from convofconv import convert
        >>> grids = kernel_grids(convert(nn.Sequential(nn.Conv2d(3, 6, 3))), "0")
        >>> grids.members.tolist(), grids.laid_out(grids.effective).shape, grids.super_kernels.shape
        ([[0, 1, 2, 3], [4, 5, -1, -1]], torch.Size([2, 3, 6, 6]), torch.Size([2, 1, 1, 3, 3]))
    """
    conv = find_conv(model, layer)
    name = layer or type_before_parametrizations(conv).__name__
    basic, effective = basic_kernels(conv), _values(conv.weight)
    if not (effective.isfinite().all() and basic.isfinite().all()):
        raise ConfigError(f"{name}: its kernels are not all finite numbers; the training has diverged")
    association = association_of(conv)
    if association is not None:
        return KernelGrids(
            name,
            association.grid,
            _members(association.grid, association.order, effective.device),
            basic,
            effective,
            _super_kernels(association),
            association.config.share,
            association.config.skip,
            conv.groups,
        )
    if like is None:
        if grid_side < 1:
            raise ConfigError(f"grid_side must be at least 1, got {grid_side}")
        grid = Grid.build(tuple(effective.shape), grid_side, 0, dilated=False)
        return KernelGrids(
            name, grid, _members(grid, None, effective.device), basic, effective, conv_groups=conv.groups
        )
    if effective.shape != like.effective.shape:
        raise ShapeError(
            f"{name}: kernels of shape {tuple(effective.shape)} cannot be laid out like those of {like.layer}, whose "
            f"shape is {tuple(like.effective.shape)}"
        )
    return KernelGrids(name, like.grid, like.members.to(effective.device), basic, effective, conv_groups=conv.groups)


def grids_side_by_side(models: Mapping[str, nn.Module], layer: str) -> dict[str, KernelGrids]:
    """The kernels of one layer of several networks: plain and folded ones are laid out as the first converted one.

    Raises:
        ConfigError: there is no network, or one has no such conv.
        ShapeError: the layer has other shapes in a plain and in a converted network.

    Examples:
        >>> from convofconv import convert
        >>> models = {"plain": nn.Sequential(nn.Conv2d(3, 9, 3)), "coc": convert(nn.Sequential(nn.Conv2d(3, 9, 3)))}
        >>> [grids.associated for grids in grids_side_by_side(models, "0").values()]
        [False, True]
    """
    if not models:
        raise ConfigError("no network is given whose kernels could be laid out")
    associated = (model for model in models.values() if association_of(find_conv(model, layer)) is not None)
    first = next(associated, None)
    like = None if first is None else kernel_grids(first, layer)
    return {name: kernel_grids(model, layer, like=like) for name, model in models.items()}


def associated_layers(model: nn.Module) -> tuple[str, ...]:
    """Names of the convs whose kernels are associated, in the model's order."""
    return tuple(name for name, conv in convs(model) if association_of(conv) is not None)


def layers_with_kernels(model: nn.Module) -> tuple[str, ...]:
    """:func:`associated_layers`; where there is none, names of all convs with more than one tap."""
    return associated_layers(model) or tuple(
        name for name, conv in convs(model) if not isinstance(conv, ConvTransposeNd) and set(kernel_size(conv)) != {1}
    )


def find_conv(model: nn.Module, layer: str) -> Conv:
    """The conv of that name.

    Raises:
        ConfigError: there is none, it is a transposed one, or it has no values yet.
    """
    found = dict(convs(model))
    if layer not in found:
        if not found:
            raise ConfigError(f"the {type(model).__name__} has no conv whose kernels could be looked at")
        module = dict(model.named_modules()).get(layer) if layer else None
        what = f"there is no layer {layer!r}" if layer else "no layer is named"
        what = f"{layer!r} is a {type(module).__name__}, no conv" if module is not None else what
        raise ConfigError(what + (did_you_mean(similar(layer, found, 3)) or f"; the convs are {listing(found)}"))
    conv = found[layer]
    if isinstance(conv, ConvTransposeNd):
        raise ConfigError(f"{layer!r} is a transposed conv, whose kernels are not associated; choose another layer")
    if not all(has_values(parameter) for parameter in conv.parameters()):
        raise ConfigError(f"{layer!r} has no values yet, only shapes (meta device); load its weights first")
    return conv


def association_of(conv: nn.Module) -> SpatialAssociation | None:
    """The association of a conv's kernels, or ``None``."""
    return next((kernel_map for kernel_map in kernel_maps(conv) if isinstance(kernel_map, SpatialAssociation)), None)


def basic_kernels(conv: Conv) -> Tensor:
    """What is trained: the original of the parametrization, where there is one of the weight's shape."""
    return _values(_original(conv))


@torch.no_grad()
def effective_kernels(conv: Conv, basic: Tensor) -> Tensor:
    """What a conv would use if its basic kernels were these: all its maps, one after another.

    Shape:
        - basic: as the conv's weight, whose dtype and device are taken
        - result: as ``basic``, in float32 at least
    """
    kernels = basic.to(_original(conv))
    for kernel_map in weight_maps(conv) or ():
        kernels = kernel_map(kernels)
    return kernels.to(torch.promote_types(kernels.dtype, torch.float32))


def _original(conv: Conv) -> Tensor:
    original = getattr(weight_maps(conv), "original", None)
    return original if isinstance(original, Tensor) else conv.weight


@torch.no_grad()
def _values(tensor: Tensor) -> Tensor:
    wide = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
    return wide.clone(memory_format=torch.contiguous_format)


def _members(grid: Grid, order: Tensor | None, device: torch.device) -> Tensor:
    order = torch.arange(grid.shape[0], device=device) if order is None else order
    blocks = order.view(grid.blocks, grid.block_channels)
    return nn.functional.pad(blocks, (0, grid.missing), value=EMPTY).view(grid.groups, grid.cells)


@torch.no_grad()
def _super_kernels(association: SpatialAssociation) -> Tensor:
    kernels, grid = _values(association.effective_super_kernel()), association.grid
    if association.config.share == "input":
        return kernels.movedim(0, 1).unsqueeze(2)
    planes = kernels.flatten(1, kernels.dim() - len(grid.size) - 1)
    return planes.expand(grid.groups, *planes.shape)
