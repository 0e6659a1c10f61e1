"""The poster's mosaic as tensors: every group's kernels beside their super kernel, of several networks side by side.

Source: the poster's figure "What kernels are learnt under the spatial association?".

A network has the columns *super kernel*, *basic*, *effective* and *difference* (effective − basic; those two look alike
otherwise); one that is not associated has *kernels* alone. A row is a group. Each column has a colour scale of its own,
from −``limit`` to ``limit``, the largest magnitude that is shown in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ...errors import ConfigError, ShapeError
from .kernel_grids import KernelGrids

Choose = Literal["even", "first"]
#: Which of a kernel's input channels are shown: ``"rgb"`` (three, as colours), ``"components"`` (three principal
#: components over them, as colours), the number of one channel, or ``"auto"``.
View = Literal["auto", "rgb", "components"] | int
#: Groups that are shown if nothing else is asked for.
MOST_GROUPS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class MosaicColumn:
    """One column of one network.

    Args:
        network: its name.
        kind: ``"kernels"``, ``"super kernel"``, ``"basic"``, ``"effective"`` or ``"difference"``.
        tiles: one per group; values, not yet colours, NaN where a cell is empty.
        cell: height and width of one kernel in a tile.
        limit: the end of the colour scale.
        note: what the header says besides.

    Shape:
        - tiles: ``(groups, height, width)``, or ``(groups, height, width, 3)`` for red, green and blue
    """

    network: str
    kind: str
    tiles: Tensor
    cell: tuple[int, int]
    limit: float
    note: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class KernelMosaic:
    """The kernels of one layer of one or several networks, as columns of tiles.

    Args:
        layer: its name.
        view: what of the input channels is shown, in words.
        choose: how groups were chosen, in words.
        groups: by network, the numbers of the groups that are shown, from 0.
        of_groups: by network, how many groups it has.
        columns: from left to right.
    """

    layer: str
    view: str
    choose: str
    groups: Mapping[str, tuple[int, ...]]
    of_groups: Mapping[str, int]
    columns: tuple[MosaicColumn, ...]

    @property
    def title(self) -> str:
        """What is shown, and how much of it."""
        counts = {name: f"{len(shown)} of {self.of_groups[name]} groups" for name, shown in self.groups.items()}
        if len(set(counts.values())) == 1:
            text = next(iter(counts.values()))
        else:
            text = ", ".join(f"{name} {count}" for name, count in counts.items())
        every = all(len(shown) == self.of_groups[name] for name, shown in self.groups.items())
        return f"Kernels of layer {self.layer}: {text}{'' if every else f' ({self.choose})'}\n{self.view}"

    def numbers(self) -> dict[str, Any]:
        """What is shown, as plain values, without the tiles."""
        return {
            "layer": self.layer,
            "view": self.view,
            "choose": self.choose,
            "groups": {name: list(shown) for name, shown in self.groups.items()},
            "of_groups": dict(self.of_groups),
            "columns": [{"network": c.network, "kind": c.kind, "limit": c.limit} for c in self.columns],
        }


def kernel_mosaic(
    networks: Mapping[str, KernelGrids], *, most_groups: int = MOST_GROUPS, choose: Choose = "even", view: View = "auto"
) -> KernelMosaic:
    """Put together the mosaic of one layer of one or several networks.

    Args:
        networks: the layer's kernels by the network's name, of :func:`~.kernel_grids.grids_side_by_side`.
        most_groups: how many groups are shown at most.
        choose: which: ``"even"``, evenly spaced from the first to the last; ``"first"``, the first ones.
        view: ``"auto"`` shows three input channels as colours, one as it is, and of others principal components. These
            have one basis for all that the mosaic compares, from the energy of all taps of all networks' kernels, basic
            and effective ones, each network counting alike; nothing is centred, so zero stays grey.

    Raises:
        ConfigError: no network is given, or a setting is impossible for this layer.
        ShapeError: networks whose layer has different input channels shall have one basis or channel.

    Examples:
        >>> from convofconv import CoC2d
        >>> from .kernel_grids import kernel_grids
        >>> mosaic = kernel_mosaic({"coc": kernel_grids(CoC2d(3, 64, 7))})
        >>> mosaic.title.splitlines()[0], [column.kind for column in mosaic.columns]
        ('Kernels of layer CoC2d: 8 of 16 groups (evenly spaced)', ['super kernel', 'basic', 'effective', 'difference'])
    """
    if not networks:
        raise ConfigError("no network is given whose kernels could be shown")
    if most_groups < 1:
        raise ConfigError(f"most_groups must be at least 1, got {most_groups}")
    if choose not in ("even", "first"):
        raise ConfigError(f"choose must be 'even' or 'first', got {choose!r}")
    basis, words = _basis(networks, view)
    groups = {name: _chosen(grids.grid.groups, most_groups, choose) for name, grids in networks.items()}
    columns = [column for name, grids in networks.items() for column in _columns(name, grids, groups[name], basis)]
    layer = next(iter(networks.values())).layer
    how = "evenly spaced" if choose == "even" else "the first ones"
    return KernelMosaic(layer, words, how, groups, {n: g.grid.groups for n, g in networks.items()}, tuple(columns))


def _chosen(groups: int, most: int, choose: Choose) -> tuple[int, ...]:
    shown = min(groups, most)
    if choose == "first" or shown == 1:
        return tuple(range(shown))
    return tuple(round(i * (groups - 1) / (shown - 1)) for i in range(shown))


def _basis(networks: Mapping[str, KernelGrids], view: View) -> tuple[Tensor, str]:
    """What input channels are multiplied with to be shown, ``(channels, 1 or 3)``, and what it is in words."""
    counts = {name: grids.grid.channels for name, grids in networks.items()}
    channels, first = next(iter(counts.values())), next(iter(networks.values()))
    if len(set(counts.values())) > 1:
        raise ShapeError(
            f"{first.layer} has different numbers of input channels ("
            + ", ".join(f"{name}: {count}" for name, count in counts.items())
            + "), so its kernels cannot be shown side by side; draw one figure per network"
        )
    like = first.effective
    units = torch.eye(channels, dtype=like.dtype, device=like.device)
    if view == "auto":
        view = 0 if channels == 1 else "rgb" if channels == 3 else "components"
    if isinstance(view, int) and not isinstance(view, bool):
        if not 0 <= view < channels:
            raise ConfigError(f"view={view}: {first.layer} has input channels 0 to {channels - 1}")
        return units[:, [view]], f"input channel {view} of {channels}" if channels > 1 else "the one input channel"
    if view == "rgb":
        if channels != 3:
            raise ConfigError(
                f'view="rgb" shows three input channels, and {first.layer} has {channels}; '
                'give the number of one, or view="components"'
            )
        return units, "red, green and blue: the three input channels; grey is 0"
    if view != "components":
        raise ConfigError(f'view must be "auto", "rgb", "components" or the number of a channel, got {view!r}')
    return _principal_components(networks, units)


def _principal_components(networks: Mapping[str, KernelGrids], units: Tensor) -> tuple[Tensor, str]:
    channels = len(units)
    energy = units.new_zeros(channels, channels, dtype=torch.float64)
    for grids in networks.values():
        for kernels in (grids.basic, grids.effective):
            taps = kernels.movedim(1, -1).reshape(-1, channels).double()
            energy += (taps.T @ taps / taps.square().sum().clamp_min(1e-30)).to(energy.device)
    values, vectors = torch.linalg.eigh(energy)
    basis = vectors.flip(1)[:, :3]
    # The sign of an eigenvector is arbitrary: its largest entry is positive, so that figures can be repeated.
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    basis = torch.nn.functional.pad(basis * largest.sign(), (0, 3 - basis.shape[1]))  # two channels have no third
    share = float(values.flip(0)[:3].sum() / values.sum().clamp_min(1e-30))
    words = f"red, green and blue: the first {min(3, channels)} principal components of {channels} input channels, "
    return basis.to(units), words + f"one basis for all columns ({share:.0%} of the energy); grey is 0"


def _columns(network: str, grids: KernelGrids, groups: tuple[int, ...], basis: Tensor) -> list[MosaicColumn]:
    chosen = torch.tensor(groups)
    height, width = (1, *grids.grid.kernel)[-2:]
    cell = (height, width)

    def column(kind: str, kernels: Tensor) -> MosaicColumn:
        seen = torch.einsum("oc...,cv->ov...", kernels, basis.to(kernels))
        empty = grids.laid_out(torch.ones_like(seen[:, :1])) == 0
        tiles = grids.laid_out(seen).masked_fill(empty, torch.nan)[chosen.to(seen.device)]
        tiles = _flat(tiles.movedim(1, -1).cpu())
        tiles = tiles.squeeze(-1) if tiles.shape[-1] == 1 else tiles
        return MosaicColumn(network, kind, tiles, cell, float(tiles.nan_to_num().abs().max()))

    if not grids.associated:
        return [column("kernels", grids.effective)]
    return [
        _super_column(network, grids, chosen),
        column("basic", grids.basic),
        column("effective", grids.effective),
        column("difference", grids.difference),
    ]


def _super_column(network: str, grids: KernelGrids, chosen: Tensor) -> MosaicColumn:
    kernels, grid = grids.super_kernels, grids.grid
    assert kernels is not None
    kernels = kernels[chosen.to(kernels.device)].cpu()
    size = "×".join(map(str, grid.size))
    dilation = "×".join(map(str, grid.dilation if len({*grid.dilation}) > 1 else grid.dilation[:1]))
    notes = [f"{size} taps", *([f"dilation {dilation}"] if max(grid.dilation) > 1 else [])]
    if kernels.shape[2] > 1:
        notes.append(f"RMS of {kernels.shape[2]} planes")
        kernels = kernels.square().mean(2, keepdim=True).sqrt()
    if kernels.shape[1] > 1:
        notes.append(f"{kernels.shape[1]} in a stack")
    flat = _flat(kernels.squeeze(2).flatten(0, 1).unsqueeze(-1)).squeeze(-1).unflatten(0, kernels.shape[:2])
    tiles = torch.cat(list(flat.unbind(1)), -1)  # those of a stack side by side, the first one applied left
    limit = float(tiles.abs().max())
    return MosaicColumn(network, "super kernel", tiles, (flat.shape[-2], flat.shape[-1]), limit, "\n".join(notes))


def _flat(tiles: Tensor) -> Tensor:
    """Tiles of any number of axes as images: a 1-d one is a line; planes of a 3-d one stand side by side.

    Shape:
        - tiles: ``(groups, size_1, ..., size_d, values)``
        - result: ``(groups, height, width, values)``
    """
    if tiles.dim() == 3:
        return tiles.unsqueeze(1)
    return tiles if tiles.dim() == 4 else tiles.transpose(1, 2).flatten(2, 3)
