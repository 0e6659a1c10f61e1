"""Does the energy of a group lie as its super kernel's taps do? (Claim C10.)

Source: the poster says that "the spatial distribution of subpatterns within a group clearly reflects their super
kernel's pattern". What is compared, and why:

- A group's *energy map* is ``E(x) = Σ_c W(c, x)²`` over its grid (``sa · k`` wide): where its sub-patterns are.
- A super kernel does not say where something is, but how far apart: tap ``t`` adds to position ``x`` what is at
  ``x + o(t)``, wherever ``x`` is (``o``: the tap's distance from the centre, times the dilation). So the map and the
  super kernel, which differ in size, are not laid over one another. Compared are numbers per *lag* ``o``: the
  correlation ``R(o)`` of ``E(x)`` with ``E(x + o)`` over all positions that have both, that is whether sub-patterns lie
  ``o`` apart; and the magnitude ``m(o) = √(s(t)² + s(-t)²)`` of the two taps that connect such positions, two because
  ``R(o) = R(-o)``. The centre tap connects nothing and is left out.
- The energy that a tap moves would be no measure: it is ``s(t)²`` times an energy, so it reflects the tap by itself.

The claim's number is the correlation of ``R`` with ``m`` over lags, *own*: the mean over groups. *Others* is the same
of each group with the super kernels of all other groups: what is not the group's own doing (energy at the centre of
every kernel) is in both. Where kernels are broad the border counts against the claim, for a strong tap brings nothing
to it. Again only a null can test (:mod:`.kernel_nulls`): where sub-patterns are small, α alone makes their distances
those of the taps.

Stacked super kernels act as one, their convolution; what the zero padding between them changes at the border is
neglected. Of one with several planes the root of the sum of squares over planes counts.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import torch
from torch import Tensor

from ...errors import ConfigError
from ...functional.grid import Grid
from .kernel_grids import EMPTY, KernelGrids

#: A lag that fewer positions of the grid have is left out, and so is a layer with fewer lags.
_FEWEST_POSITIONS = 4
_FEWEST_LAGS = 3


@dataclasses.dataclass(frozen=True)
class EnergyCorrelation:
    """Correlations of the groups' energy with super kernels; ``None`` where nothing varies that could correlate.

    Args:
        own: mean over groups of the correlation with their own super kernel.
        others: mean over pairs of a group and another group's super kernel; ``None`` where all share one.
        difference: own − others.
        effect_size: Cohen's d of own against others.
        of_groups: own, for each group; ``None`` for incomplete groups and for those in which nothing varies.
        lags: how many distances each correlation is over.
    """

    own: float | None
    others: float | None
    difference: float | None
    effect_size: float | None
    of_groups: tuple[float | None, ...]
    lags: int

    def numbers(self) -> dict[str, Any]:
        """All numbers as plain values."""
        return {**dataclasses.asdict(self), "of_groups": list(self.of_groups)}


def energy_correlation(grids: KernelGrids, kernels: Tensor | None = None) -> EnergyCorrelation:
    """How much the spatial distribution of energy in the groups reflects their super kernels (claim C10).

    Args:
        kernels: the effective ones if left out.

    Shape:
        - kernels: ``(co, channels, k_1, ..., k_d)``

    Raises:
        ConfigError: nothing is associated in this layer.
        ShapeError: these are not kernels of this layer.

    Examples:
        >>> from convofconv import CoC2d
        >>> from .kernel_grids import kernel_grids
        >>> energy_correlation(kernel_grids(CoC2d(3, 16, 3))).own is None  # all super kernels are still zero
        True
    """
    lags, magnitudes = tap_magnitudes(grids)
    maps = energy_maps(grids, grids.effective if kernels is None else kernels)
    at_lags = lag_correlations(maps, lags)
    complete = (grids.members != EMPTY).all(1)
    rows, rows_vary = _standardized(at_lags)
    columns, columns_vary = _standardized(magnitudes)
    valid, shared = complete & rows_vary & columns_vary, grids.share != "input"
    if len(lags) < _FEWEST_LAGS or not valid.any():
        return EnergyCorrelation(None, None, None, None, (None,) * len(maps), len(lags))
    table = rows @ columns.T  # of every group with every super kernel
    own = table.diagonal()[valid]
    others = table[valid][:, valid][~torch.eye(len(own), dtype=torch.bool, device=own.device)]
    of_groups = tuple(float(r) if ok else None for r, ok in zip(table.diagonal(), valid, strict=True))
    mean = float(own.mean())
    if shared or not len(others):
        return EnergyCorrelation(mean, None, None, None, of_groups, len(lags))
    difference = mean - float(others.mean())
    squares = float((own - own.mean()).square().sum() + (others - others.mean()).square().sum())
    pooled = (squares / (len(own) + len(others) - 2)) ** 0.5
    effect = difference / pooled if pooled > 1e-12 else None
    return EnergyCorrelation(mean, float(others.mean()), difference, effect, of_groups, len(lags))


def energy_maps(grids: KernelGrids, kernels: Tensor) -> Tensor:
    """The energy of every group over its grid, summed over input channels.

    Shape:
        - kernels: ``(co, channels, k_1, ..., k_d)``
        - result: ``(G, sa · k_1, ..., sa · k_d)``
    """
    return grids.laid_out(kernels.square().sum(1, keepdim=True)).squeeze(1)


def tap_magnitudes(grids: KernelGrids) -> tuple[list[tuple[int, ...]], Tensor]:
    """How strongly the super kernels connect positions of the grid that lie apart by each lag.

    Returns:
        The lags, one of ``o`` and ``-o``, and the magnitudes ``√(s(o)² + s(-o)²)``.

    Shape:
        - magnitudes: ``(G, lags)``

    Raises:
        ConfigError: nothing is associated in this layer.
    """
    if grids.super_kernels is None:
        raise ConfigError(f"{grids.layer} has no super kernels: its kernels are not associated (or folded already)")
    grid, depth = grids.grid, grids.super_kernels.shape[1]
    power = _as_one(grids).square()
    at: dict[tuple[int, ...], Tensor] = {}
    for index, tap in enumerate(itertools.product(*map(range, power.shape[1:]))):
        lag = tuple(d * t - depth * b for t, d, b in zip(tap, grid.dilation, grid.before, strict=True))
        lag = max(lag, tuple(-o for o in lag))
        if any(lag) and _positions(grid, lag) >= _FEWEST_POSITIONS:
            here = power.flatten(1)[:, index]
            at[lag] = at[lag] + here if lag in at else here
    lags = sorted(at)
    return lags, torch.stack([at[lag] for lag in lags], 1).sqrt() if lags else power.new_zeros(len(power), 0)


def lag_correlations(maps: Tensor, lags: list[tuple[int, ...]]) -> Tensor:
    """Pearson's correlation of maps with themselves, shifted, over all positions that have both; 0 where none varies.

    Shape:
        - maps: ``(G, h_1, ..., h_d)``
        - result: ``(G, lags)``
    """
    columns = []
    for lag in lags:
        here, there = maps, maps
        for axis, step in enumerate(lag, start=1):
            overlap = maps.shape[axis] - abs(step)
            here, there = here.narrow(axis, max(-step, 0), overlap), there.narrow(axis, max(step, 0), overlap)
        (one, _), (other, _) = _standardized(here.flatten(1)), _standardized(there.flatten(1))
        columns.append((one * other).sum(1))
    return torch.stack(columns, 1) if columns else maps.new_zeros(len(maps), 0).double()


def _positions(grid: Grid, lag: tuple[int, ...]) -> int:
    """How many positions of a grid have one at that lag."""
    count = 1
    for k, step in zip(grid.kernel, lag, strict=True):
        count *= max(0, grid.side * k - abs(step))
    return count


def _as_one(grids: KernelGrids) -> Tensor:
    """Stacked super kernels as one, and its planes as one magnitude, ``(G, depth · (s - 1) + 1, ...)``."""
    kernels, grid = grids.super_kernels, grids.grid
    assert kernels is not None
    if grids.share != "input":  # all groups have the same
        kernels = kernels[:1]
    d, depth = len(grid.size), kernels.shape[1]
    dense = grids.share == "none"
    channels = grid.channels if dense else 1
    matrices = kernels.double().unflatten(2, (-1, channels, channels))  # (m, depth, planes, out, in, taps...)
    axes = tuple(range(5, 5 + d))
    if depth > 1:
        sizes = [depth * (s - 1) + 1 for s in grid.size]
        waves = torch.fft.fftn(matrices, sizes, axes).movedim((3, 4), (-2, -1))
        product = waves[:, 0]
        for layer in range(1, depth):
            product = waves[:, layer] @ product
        one = torch.fft.ifftn(product.movedim((-2, -1), (2, 3)), dim=tuple(range(4, 4 + d))).real
    else:
        one = matrices[:, 0]
    magnitude: Tensor = one.square().sum((1, 2, 3)).sqrt()
    return magnitude.expand(grid.groups, *[-1] * d)


def _standardized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of mean 0 and norm 1, zero where they do not vary; and which of them do."""
    rows = rows.double()
    centred = rows - rows.mean(1, keepdim=True) if rows.shape[1] else rows
    norm = centred.norm(dim=1, keepdim=True)
    varies = norm > 1e-9 * rows.norm(dim=1, keepdim=True)
    return torch.where(varies, centred / norm.clamp_min(torch.finfo(norm.dtype).tiny), 0.0), varies.squeeze(1)
