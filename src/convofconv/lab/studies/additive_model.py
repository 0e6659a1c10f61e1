"""One spread for all variants of a network, where two variants alone have too few seeds to estimate theirs.

A paired t-test of three seeds has two degrees of freedom and sees next to nothing. All runs of v variants in one model,
score = variant + seed + noise, have v − 1 times as many: the analysis of a randomized block design, seeds as blocks.
It takes the noise to be the same for all variants, and a seed to move all of them alike. Noise often is not the same,
so the spread that the runs of a pair have themselves counts where it is larger.

Source: Montgomery, Design and Analysis of Experiments, chapter 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy import stats

from .statistics import ALPHA, SAME, Comparison, Summary, t_test


class AdditiveModel:
    """Least squares of the effects of variants and seeds, and the noise that is left.

    Args:
        scores: by variant and seed; some variants may lack some seeds.

    Attributes:
        freedom: degrees of freedom of the noise.
        deviation: its standard deviation; ``None`` where the runs are too few.
        spreads: what each variant's own runs scatter by, of those with two or more.

    Examples:
        >>> model = AdditiveModel({"plain": {0: 70.0, 1: 71.0, 2: 72.0}, "coc": {0: 71.0, 1: 73.0, 2: 75.0}})
        >>> round(model.deviation, 4), model.freedom  # that of the differences, 1, over √2
        (0.7071, 2)
    """

    def __init__(self, scores: Mapping[str, Mapping[int, float]]) -> None:
        self._scores = scores
        self._names = [name for name, mine in scores.items() if mine]
        runs = [(number, seed) for number, name in enumerate(self._names) for seed in sorted(scores[name])]
        seeds = sorted({seed for _, seed in runs})
        columns = [[number == mine for mine, _ in runs] for number in range(len(self._names))]
        columns += [[seed == mine for _, mine in runs] for seed in seeds[1:]]
        design = np.array(columns, dtype=float).reshape(len(columns), len(runs)).T
        values = np.array([scores[self._names[number]][seed] for number, seed in runs])
        inverse = np.linalg.pinv(design)
        self._seeds = len(seeds)
        self._effects = inverse @ values
        self._determined = inverse @ design  # leaves those combinations of effects alone that the runs determine
        self._covariance = inverse @ inverse.T  # of the effects, over the variance of the noise
        residuals = values - design @ self._effects
        self.freedom = len(runs) - int(np.linalg.matrix_rank(design)) if runs else 0
        measured = self.freedom > 0 and np.ptp(residuals) > SAME
        self.deviation = math.sqrt(np.sum(residuals**2) / self.freedom) if measured else None
        # A run's share in the degrees of freedom, for a fit takes more of the noise out of some than out of others.
        shares = 1 - np.sum(design * inverse.T, axis=1)
        of_variant = np.array([number for number, _ in runs])
        self._squares, self._shares = (
            {name: float(np.sum(each[of_variant == number])) for number, name in enumerate(self._names)}
            for each in (residuals**2, shares)
        )
        self.spreads = {
            name: math.sqrt(self._squares[name] / self._shares[name])
            for name in self._names
            if self.deviation is not None and len(scores[name]) > 1 and self._shares[name] > SAME
        }

    def compare(self, baseline: str) -> dict[str, Comparison]:
        """All variants with one of them, by the noise of all runs, or that of the pair's own runs if it is larger.

        Variants that have fewer than two seeds together are not tested. With two variants on the same seeds this is the
        paired t-test.

        Examples:
            >>> model = AdditiveModel({"plain": {0: 70.0, 1: 71.0, 2: 72.0}, "coc": {0: 71.0, 1: 73.0, 2: 75.0}})
            >>> round(model.compare("plain")["coc"].p_value, 4)
            0.0742
        """
        return {name: self._compare(name, baseline) for name in self._scores if name != baseline}

    def _compare(self, variant: str, baseline: str) -> Comparison:
        pairs = len(set(self._scores[variant]) & set(self._scores.get(baseline, {})))
        if not pairs:
            return Comparison(0, None)
        contrast = np.zeros(len(self._effects))
        contrast[[self._names.index(variant), self._names.index(baseline)]] = 1, -1
        difference = float(contrast @ self._effects)
        if self.deviation is None or pairs < 2:
            return Comparison(pairs, difference)
        pooled = self.deviation * math.sqrt(contrast @ self._covariance @ contrast)
        error = max(pooled, math.hypot(self._own_error(variant), self._own_error(baseline)))
        own = math.hypot(self.spreads.get(variant, 0.0), self.spreads.get(baseline, 0.0))
        return t_test(pairs, difference, max(math.sqrt(2) * self.deviation, own), error, self.freedom)

    def _own_error(self, variant: str) -> float:
        """Standard error of a variant's mean by its own runs; 0 where it cannot be estimated."""
        return self.spreads.get(variant, 0.0) / math.sqrt(len(self._scores[variant]))

    def mean(self, variant: str) -> Summary:
        """A variant's mean over all seeds, those included that it lacks, with an interval to compare variants by.

        Differences of such means are the differences of :meth:`compare`. The interval leaves out what the seeds do to
        all variants: Loftus and Masson, *Using confidence intervals in within-subject designs*, 1994. There is no such
        mean where no chain of variants with common seeds leads from the variant to some seed.

        Examples:
            >>> model = AdditiveModel({"plain": {0: 70.0, 1: 72.0}, "coc": {0: 73.0}})
            >>> round(model.mean("coc").mean, 2)  # a point more on the average seed than on seed 0
            74.0
        """
        if not self._scores[variant]:
            return Summary(0, None, None, None)
        contrast = np.zeros(len(self._effects))
        contrast[self._names.index(variant)] = 1
        contrast[len(self._names) :] = 1 / self._seeds
        mean, runs = float(contrast @ self._effects), len(self._scores[variant])
        if not np.allclose(contrast @ self._determined, contrast):
            return Summary(runs, None, None, None)
        if self.deviation is None:
            return Summary(runs, mean, None, None)
        pooled = self.deviation * math.sqrt(contrast @ self._covariance @ contrast)
        reach = float(stats.t.isf(ALPHA / 2, self.freedom)) * max(pooled, self._own_error(variant))
        return Summary(runs, mean, self.spreads.get(variant), (mean - reach, mean + reach))

    def widest(self) -> tuple[str, float] | None:
        """The variant that scatters most beyond the others, and how likely one of them would if all scattered alike.

        Each variant's variance is tested against that of all others by F, corrected by Bonferroni; ``None`` with fewer
        than three variants, for the residuals of two mirror each other.
        """
        chances = {}
        for name in self.spreads:
            mine, others = self._shares[name], self.freedom - self._shares[name]
            rest = sum(self._squares.values()) - self._squares[name]
            if others > SAME and rest > SAME:
                ratio = (self._squares[name] / mine) / (rest / others)
                chances[name] = float(stats.f.sf(ratio, mine, others))
        if len(chances) < 3:
            return None
        name = min(chances, key=lambda one: chances[one])
        return name, min(1.0, len(chances) * chances[name])
