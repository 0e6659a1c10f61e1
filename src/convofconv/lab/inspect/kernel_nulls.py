"""What similarity in groups, and energy like a super kernel's, would be there by the association alone.

The association mixes the kernels of a group, so its kernels are alike and reflect their super kernel in *untrained*
networks too. Dealing the effective kernels to groups anew takes that away and "finds" similarity everywhere: it is the
wrong null. Here the basic kernels are dealt or drawn anew, and what has been learnt besides them, the super kernels and
all maps behind, is applied to them:

- ``"permuted"``: the layer's own basic kernels, dealt anew to all places of all groups. It asks whether neighbours have
  learnt from one another, and keeps what every kernel is by itself: scale, energy at its centre, smoothness.
- ``"normal"``: kernels of independent normal numbers with the layer's standard deviation: it also asks whether anything
  was learnt.
- ``"kaiming"``: kernels as torch's convs start (kaiming-uniform, a = √5).

Where kernels are independent and alike in distribution, p-values of ``"permuted"`` are uniform whatever the super
kernels are; those of the others are if the kernels come from just that distribution. ``grouping="similar"`` has grouped
kernels that were alike from the start: there a small p-value shows the grouping, not the training.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from ...errors import ConfigError
from ...maps.kernel_map import Conv
from .kernel_energy import energy_correlation
from .kernel_grids import association_of, basic_kernels, effective_kernels, find_conv, kernel_grids
from .kernel_similarity import MEASURES, kernel_similarity

Null = Literal["permuted", "normal", "kaiming"]
Alternative = Literal["greater", "less"]
#: Numbers of a layer's kernels by name; ``None`` where one is undefined.
Statistic = Callable[[Tensor], Mapping[str, float | None]]

#: What the claims say of each number: kernels of a group are similar, yet complementary (C9), and reflect their super
#: kernel (C10).
CLAIMED: Mapping[str, Alternative] = {
    "similarity": "greater",
    "support_overlap": "less",
    "spectrum_overlap": "less",
    "energy": "greater",
}
#: Groups that a draw compares at most: with more, comparing pairs takes far longer than the association itself.
MOST_GROUPS = 32


@dataclasses.dataclass(frozen=True)
class NullTest:
    """A number of a layer against what it is under a null; ``None`` where it is undefined.

    Args:
        observed: the layer's own.
        null_mean, null_deviation: of the draws.
        effect_size: z, (observed − mean) / deviation.
        p_greater: rank-based, (1 + draws that are as large or larger) / (draws + 1).
        p_less: the same for as small or smaller.
        draws: how many gave a number.
        null: what was drawn.
    """

    observed: float | None
    null_mean: float | None
    null_deviation: float | None
    effect_size: float | None
    p_greater: float | None
    p_less: float | None
    draws: int
    null: str

    def p_value(self, alternative: Alternative) -> float | None:
        """The one-sided p-value."""
        return self.p_greater if alternative == "greater" else self.p_less

    def numbers(self) -> dict[str, Any]:
        """All numbers as plain values."""
        return dataclasses.asdict(self)


def claim_tests(
    model: nn.Module,
    layer: str = "",
    *,
    null: Null = "permuted",
    draws: int = 99,
    seed: int = 0,
    most_groups: int = MOST_GROUPS,
) -> dict[str, NullTest]:
    """Test claims C9 and C10 on the effective kernels of one layer; :data:`CLAIMED` says what the claims expect.

    The numbers are those of :func:`~.kernel_similarity.kernel_similarity`, within − between groups, and of
    :func:`~.kernel_energy.energy_correlation`, own.

    Args:
        model, layer: a network and its layer, as in :func:`~.kernel_grids.kernel_grids`.
        draws: the smallest possible p-value is ``1 / (draws + 1)``.
        seed: of the draws, and of the groups that are compared.
        most_groups: how many groups are compared at most, the same ones in every draw.

    Raises:
        ConfigError: nothing is associated in this layer, or the model has no such conv.

    Examples:
        >>> from convofconv import CoC2d
        >>> claim_tests(CoC2d(3, 16, 3), draws=9)["similarity"].draws
        9
    """
    conv = find_conv(model, layer)
    if association_of(conv) is None:
        raise ConfigError(f"{layer or 'the conv'} is not associated (or folded already): its groups have no null")
    grids = kernel_grids(model, layer)

    def statistic(kernels: Tensor) -> dict[str, float | None]:
        contrasts = kernel_similarity(kernels, grids.members, most_groups=most_groups, seed=seed)
        found: dict[str, float | None] = {name: getattr(contrasts, name).difference for name in MEASURES}
        return {**found, "energy": energy_correlation(grids, kernels).own}

    return null_tests(conv, statistic, null=null, draws=draws, seed=seed)


def null_tests(
    conv: Conv, statistic: Statistic, *, null: Null = "permuted", draws: int = 99, seed: int = 0
) -> dict[str, NullTest]:
    """Test numbers of a conv's effective kernels against those of permuted or redrawn basic kernels.

    A plain conv has no maps: its kernels themselves are permuted or drawn.

    Args:
        conv: a conv, converted or not.
        statistic: gives numbers by name, of effective kernels ``(co, ci, k_1, ..., k_d)``.
        seed: of the draws, which come from a generator of their own.

    Raises:
        ConfigError: the null is unknown, or there are no draws.
    """
    if null not in get_args(Null):
        raise ConfigError(f"null must be one of {', '.join(get_args(Null))}; got {null!r}")
    if draws < 1:
        raise ConfigError(f"draws must be at least 1, got {draws}")
    basic, generator = basic_kernels(conv), torch.Generator().manual_seed(seed)
    observed = statistic(effective_kernels(conv, basic))
    drawn: dict[str, list[float]] = {name: [] for name in observed}
    for _ in range(draws):
        again = effective_kernels(conv, _draw(conv, basic, null, generator))
        for name, value in statistic(again).items():
            if value is not None:
                drawn[name].append(value)
    return {name: compare_with_null(value, drawn[name], null) for name, value in observed.items()}


def compare_with_null(observed: float | None, drawn: Sequence[float], null: str) -> NullTest:
    """Rank a number among draws of its null.

    Examples:
        >>> test = compare_with_null(3.0, [0.0, 1.0, 2.0], "permuted")
        >>> test.p_greater, test.p_less, test.effect_size
        (0.25, 1.0, 2.0)
    """
    if observed is None or not drawn:
        return NullTest(observed, None, None, None, None, None, len(drawn), null)
    values, n = np.asarray(drawn), len(drawn)
    mean = float(values.mean())
    deviation = float(values.std(ddof=1)) if n > 1 else None
    p_greater, p_less = ((1 + int(ranks.sum())) / (n + 1) for ranks in (values >= observed, values <= observed))
    z = (observed - mean) / deviation if deviation else None
    return NullTest(observed, mean, deviation, z, p_greater, p_less, n, null)


def combine_tests(tests: Iterable[NullTest], alternative: Alternative, method: str = "stouffer") -> float | None:
    """One p-value of several independent tests, of layers or of seeds, by :func:`scipy.stats.combine_pvalues`.

    A rank-based p-value is the upper end of its step, 1 among them, of which Stouffer's method makes minus infinity.
    Combined are the middles of the steps, whose mean is ½ where there is nothing.

    Args:
        tests: undefined ones are left out.
        method: as scipy names it. ``"stouffer"`` weighs evidence for and against alike; ``"fisher"`` finds a single
            small p-value among many.

    Examples:
        >>> tests = [compare_with_null(9.0, [float(i) for i in range(9)], "permuted")] * 2  # twice p = 0.1
        >>> round(combine_tests(tests, "greater"), 3), combine_tests([], "greater")
        (0.01, None)
    """
    p_values = [(test.p_value(alternative), test.draws) for test in tests]
    middles = [p - 0.5 / (draws + 1) for p, draws in p_values if p is not None]
    return float(stats.combine_pvalues(middles, method).pvalue) if middles else None


def _draw(conv: Conv, basic: Tensor, null: Null, generator: torch.Generator) -> Tensor:
    if null == "permuted":
        return basic[_places(conv, len(basic), generator).to(basic.device)]
    numbers = torch.empty(basic.shape, dtype=basic.dtype)
    if null == "normal":
        numbers.normal_(float(basic.mean()), float(basic.std(correction=0)), generator=generator)
    else:
        nn.init.kaiming_uniform_(numbers, a=math.sqrt(5), generator=generator)
    return numbers.to(basic.device)


def _places(conv: Conv, kernels: int, generator: torch.Generator) -> Tensor:
    """A new kernel for every place; one of the same conv group where each of these has several grids.

    Kernels of one conv group see the same input, so that they may be alike whatever their grid is.
    """
    association, runs = association_of(conv), 1
    if association is not None and kernels // conv.groups > association.grid.cells:
        runs = conv.groups
    size = kernels // runs
    return torch.cat([run * size + torch.randperm(size, generator=generator) for run in range(runs)])
