"""A layer's effective kernels as a function of its basic kernels, in float64, to be differentiated."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ...config import Config
from ...errors import ConfigError, did_you_mean, listing, similar
from ...functional.grid import Grid
from ...functional.precision import in_float64
from ...maps import SpatialAssociation
from ...maps.kernel_map import Conv, KernelMap
from ...maps.registered import convs, kernel_maps, weight_maps


@dataclasses.dataclass(frozen=True)
class KernelFunction:
    """``W ↦ W'`` of one conv, in float64 on the CPU; the identity of a plain one.

    Args:
        layer: name of the conv.
        weight: basic kernels, ``(co, ci / groups, k_1, ..., k_d)``.
        maps: copies of the layer's kernel maps.
        members: which kernels every group holds, in the order of its grid; without an association those that the
            poster's grid would hold.
    """

    layer: str
    weight: Tensor
    maps: tuple[KernelMap, ...]
    members: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, layer: str, conv: Conv) -> KernelFunction:
        """That of a conv, with its parameters as they are now.

        Raises:
            ConfigError: another library has changed how the weight is computed.
        """
        registered, maps = weight_maps(conv), kernel_maps(conv)
        if registered is not None and len(maps) != len(registered):
            other = listing(type(one).__name__ for one in registered if not isinstance(one, KernelMap))
            raise ConfigError(
                f"{layer}: its weight is computed by {other} too, which is no kernel map; remove that first "
                "(torch.nn.utils.parametrize.remove_parametrizations)"
            )
        weight = conv.weight if registered is None else registered.original
        assert isinstance(weight, Tensor)
        mine = tuple(copy.deepcopy(one).cpu().double() for one in maps)
        return cls(layer, in_float64(weight.detach()).cpu(), mine, _members(weight, maps))

    def __call__(self, weight: Tensor) -> Tensor:
        """Effective kernels of basic ones; differentiable."""
        for kernel_map in self.maps:
            weight = kernel_map(weight)
        return weight

    @property
    def association(self) -> SpatialAssociation | None:
        """The first association of the layer, if it has one."""
        return next((one for one in self.maps if isinstance(one, SpatialAssociation)), None)

    def check_group(self, group: int) -> None:
        """Refuse a group that the layer does not have.

        Raises:
            ConfigError: the message says which ones it has.
        """
        if not 0 <= group < len(self.members):
            raise ConfigError(f"{self.layer} has no group {group}; its groups are 0 to {len(self.members) - 1}")


def kernel_functions(model: nn.Module, layers: Iterable[str] | None = None) -> list[KernelFunction]:
    """Those of the named convs, or of all that are converted; of all convs where none is.

    Raises:
        ConfigError: the network has no conv of that name, or none at all.
    """
    known: dict[str, Conv] = {name or "(root)": conv for name, conv in convs(model)}
    if not known:
        raise ConfigError("this network has no conv layers")
    if layers is None:
        layers = [name for name, conv in known.items() if kernel_maps(conv)] or list(known)
    chosen = list(layers)
    for name in chosen:
        if name not in known:
            hint = did_you_mean(similar(name, known)) or f"; its conv layers are {listing(known)}"
            raise ConfigError(f"no conv layer is called {name!r}{hint}")
    return [KernelFunction.of(name, known[name]) for name in chosen]


def evenly(count: int, most: int | None) -> tuple[int, ...]:
    """At most so many of ``count`` things, evenly spread.

    Examples:
        >>> evenly(3, 4), evenly(10, 4)
        ((0, 1, 2), (0, 3, 6, 9))
    """
    if most is None or count <= most:
        return tuple(range(count))
    if most == 1:
        return (0,)
    return tuple(round(i * (count - 1) / (most - 1)) for i in range(most))


def _members(weight: Tensor, maps: Sequence[KernelMap]) -> tuple[tuple[int, ...], ...]:
    association = next((one for one in maps if isinstance(one, SpatialAssociation)), None)
    if association is None:
        poster = Config()
        grid = Grid.build(tuple(weight.shape), poster.grid_side, poster.extra_width, poster.dilated)
        order = None
    else:
        grid, order = association.grid, association.order
    kernels = torch.arange(len(weight)) if order is None else order.cpu()
    blocks = kernels.split(grid.block_channels)
    return tuple(tuple(part.tolist()) for block in blocks for part in block.split(grid.cells))
