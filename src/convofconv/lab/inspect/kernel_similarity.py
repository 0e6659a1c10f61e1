"""Are the kernels of a group more alike than those of different groups, and yet complementary? (Claim C9.)

Source: the poster says that patterns learnt in CoC "are always similar yet complementary within each spatial
association". Three numbers per pair of kernels make that precise, each between 0 and 1:

- *similarity*: the cosine with the best sign and the best shift, ``max_o |Σ_x w(x + o) · v(x)| / (‖w‖ ‖v‖)`` with zeros
  around the kernels and all shifts ``o`` of up to ``k - 1`` per axis. A pattern that has moved within the window is the
  same pattern, and what a shift pushes out of the window costs similarity.
- *support overlap*: ``Σ_x min(p(x), q(x))`` of the energies per tap ``p(x) ∝ Σ_c w(c, x)²``, each with sum 1. Kernels
  that are complementary in space look at different taps: their overlap is small.
- *spectrum overlap*: the same of the power spectra ``Σ_c |ŵ(c, f)|²`` at ``2k - 1`` frequencies per axis, which know
  nothing of shifts and signs. Kernels that are complementary in frequency have a small one.

Pairs of one group are set against pairs of different groups. The pairs of a layer are not independent of one another,
so the effect size (Cohen's d) describes, and only a null can test (:mod:`.kernel_nulls`): the association itself makes
neighbours alike, in untrained networks too.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import torch
from torch import Tensor

from ...errors import ConfigError, ShapeError
from .kernel_grids import EMPTY, KernelGrids

#: The measures by name.
MEASURES = ("similarity", "support_overlap", "spectrum_overlap")
#: Groups that are compared at most: all of 512 kernels in groups of four.
MOST_GROUPS = 128
#: Numbers in a transformed copy at a time.
_CHUNK = 1 << 22


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A measure within groups against between groups; ``None`` where there are no such pairs.

    Args:
        within: mean over pairs of one group.
        between: mean over pairs of different groups.
        difference: within − between.
        effect_size: Cohen's d, the difference in pooled standard deviations of single pairs.
        within_pairs: how many there are.
        between_pairs: how many there are.
    """

    within: float | None
    between: float | None
    difference: float | None
    effect_size: float | None
    within_pairs: int
    between_pairs: int


@dataclasses.dataclass(frozen=True)
class KernelSimilarity:
    """How alike the kernels of a layer are, within its groups and between them.

    Args:
        similarity: of best cosines.
        support_overlap: of energies per tap.
        spectrum_overlap: of power spectra.
        groups: how many were compared.
        of_groups: of how many.
        zero_kernels: kernels without energy among them, which have no similarity and are left out.
    """

    similarity: Contrast
    support_overlap: Contrast
    spectrum_overlap: Contrast
    groups: int
    of_groups: int
    zero_kernels: int

    def numbers(self) -> dict[str, Any]:
        """All numbers as plain values."""
        return dataclasses.asdict(self)


def kernel_similarity(
    kernels: Tensor, members: Tensor, *, most_groups: int = MOST_GROUPS, seed: int = 0
) -> KernelSimilarity:
    """Compare the kernels of a layer within its groups and between them (claim C9).

    Args:
        most_groups: of more groups, so many are drawn with ``seed``, and all pairs of their kernels compared.

    Shape:
        - kernels: ``(co, ci, k_1, ..., k_d)``
        - members: ``(G, cells)``, of :class:`~.kernel_grids.KernelGrids`

    Raises:
        ConfigError: ``most_groups`` is below 2.
        ShapeError: ``members`` are not places of these kernels.

    Examples:
        >>> kernels = torch.eye(4).view(4, 1, 2, 2)[[0, 1, 0, 1]]  # single taps: all shifted copies of one another
        >>> found = kernel_similarity(kernels, torch.tensor([[0, 1], [2, 3]]))
        >>> found.similarity.within, found.support_overlap.within, found.support_overlap.between
        (1.0, 0.0, 0.5)
    """
    if most_groups < 2:
        raise ConfigError(f"most_groups must be at least 2, for groups are compared; got {most_groups}")
    if kernels.dim() < 3 or members.dim() != 2 or int(members.max()) >= len(kernels):
        raise ShapeError(
            f"members of shape {tuple(members.shape)}, up to {int(members.max())}, are no groups of kernels of shape "
            f"{tuple(kernels.shape)}"
        )
    chosen = _choose(members, most_groups, seed).to(kernels.device)
    present = chosen != EMPTY
    group = torch.arange(len(chosen), device=kernels.device)[:, None].expand_as(chosen)[present]
    kernels = kernels[chosen[present]]
    alive = kernels.flatten(1).any(1)
    kernels, group = kernels[alive], group[alive]
    first, second = torch.triu_indices(len(group), len(group), offset=1, device=group.device)
    same = group[first] == group[second]
    pairs = first * len(group) + second  # of a flat matrix: one index is faster than two
    similarity, support, spectrum = (
        _contrast(measure(kernels).flatten()[pairs], same)
        for measure in (best_cosines, support_overlaps, spectrum_overlaps)
    )
    return KernelSimilarity(similarity, support, spectrum, len(chosen), len(members), int((~alive).sum()))


def layer_similarity(
    grids: KernelGrids, *, most_groups: int = MOST_GROUPS, seed: int = 0
) -> dict[str, KernelSimilarity]:
    """:func:`kernel_similarity` of the basic and of the effective kernels of a layer, for the same groups.

    Examples:
        >>> from .kernel_grids import kernel_grids
        >>> list(layer_similarity(kernel_grids(torch.nn.Conv2d(3, 8, 3))))
        ['basic', 'effective']
    """
    return {
        name: kernel_similarity(kernels, grids.members, most_groups=most_groups, seed=seed)
        for name, kernels in (("basic", grids.basic), ("effective", grids.effective))
    }


def best_cosines(kernels: Tensor) -> Tensor:
    """Cosines of all pairs of kernels with the best sign and the best shift, zeros around the kernels.

    A zero kernel has cosine 0 with every one.

    Shape:
        - kernels: ``(n, ci, k_1, ..., k_d)``
        - result: ``(n, n)``
    """
    unit = torch.nn.functional.normalize(kernels.flatten(1)).view(kernels.shape)
    unit = unit.movedim(1, -1).contiguous()  # windows are copied in long runs
    best = unit.new_zeros(len(unit), len(unit))
    for shift in itertools.product(*(range(1 - k, k) for k in kernels.shape[2:])):
        if shift < (0,) * len(shift):
            continue  # the product of the opposite shift is the transposed one
        ahead, behind = unit, unit
        for axis, step in enumerate(shift, start=1):
            overlap = unit.shape[axis] - abs(step)
            ahead = ahead.narrow(axis, max(step, 0), overlap)
            behind = behind.narrow(axis, max(-step, 0), overlap)
        torch.maximum(best, (ahead.flatten(1) @ behind.flatten(1).T).abs_(), out=best)
    return torch.maximum(best, best.T).clamp_(max=1)


def support_overlaps(kernels: Tensor) -> Tensor:
    """Overlaps of the energies per tap of all pairs of kernels, ``Σ_x min(p(x), q(x))``.

    Shape:
        - kernels: ``(n, ci, k_1, ..., k_d)``
        - result: ``(n, n)``
    """
    return _overlaps(kernels.square().sum(1).flatten(1))


def spectrum_overlaps(kernels: Tensor) -> Tensor:
    """Overlaps of the power spectra of all pairs of kernels, at ``2k - 1`` frequencies per axis.

    Shape:
        - kernels: ``(n, ci, k_1, ..., k_d)``
        - result: ``(n, n)``
    """
    taps, channels = kernels.shape[2:].numel(), kernels.shape[1]
    units = torch.eye(taps, dtype=kernels.dtype, device=kernels.device).view(taps, *kernels.shape[2:])
    waves = torch.fft.rfftn(units, [2 * k - 1 for k in kernels.shape[2:]], tuple(range(1, units.dim())))
    waves[..., 1:] *= 2**0.5  # the half that is not there has the same power
    waves = torch.view_as_real(waves).view(taps, -1)
    # A product: on windows this small it is many times faster than the fast transform.
    parts = kernels.flatten(2).split(max(1, _CHUNK // (channels * waves.shape[1])))
    powers = [(part @ waves).square().sum(1).unflatten(1, (-1, 2)).sum(2) for part in parts]
    return _overlaps(torch.cat(powers))


def _overlaps(energies: Tensor) -> Tensor:
    shares = torch.nn.functional.normalize(energies, p=1.0)
    return (1 - torch.cdist(shares, shares, p=1.0) / 2).clamp_(0, 1)  # Σ min(p, q) = 1 − ½ Σ |p − q|


def _choose(members: Tensor, most: int, seed: int) -> Tensor:
    if len(members) <= most:
        return members
    drawn = torch.randperm(len(members), generator=torch.Generator().manual_seed(seed))[:most]
    return members[drawn.sort().values.to(members.device)]


def _contrast(values: Tensor, same: Tensor) -> Contrast:
    values = values.double()
    within, between = values[same], values[~same]
    n, m = len(within), len(between)
    mean = float(within.mean()) if n else None
    other = float(between.mean()) if m else None
    if mean is None or other is None:
        return Contrast(mean, other, None, None, n, m)
    squares = float((within - mean).square().sum() + (between - other).square().sum())
    pooled = (squares / (n + m - 2)) ** 0.5 if n + m > 2 else 0.0
    return Contrast(mean, other, mean - other, (mean - other) / pooled if pooled > 1e-12 else None, n, m)
