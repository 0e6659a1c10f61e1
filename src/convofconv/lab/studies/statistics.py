"""How sure a study's numbers are: summaries, comparisons paired by seed, and the correction for many of them.

Everything is a t statistic over training seeds, by scipy: it says what another seed may give, not what
another data set may.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import integrate, optimize, special, stats

#: What counts as significant.
ALPHA = 0.05
#: How likely a difference that a comparison "could have seen" is seen.
POWER = 0.8
#: Values closer than this are the same: they have five decimals, and their differences rounding errors.
SAME = 1e-9

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Summary:
    """Values of one kind, one per seed.

    Args:
        n: how many there are.
        mean: ``None`` for no value.
        deviation: sample standard deviation (over n − 1); ``None`` for fewer than two values.
        interval: 95 % confidence interval of the mean (t); ``None`` for fewer than two values, or equal ones, whose
            spread is unknown.
    """

    n: int
    mean: float | None
    deviation: float | None
    interval: Interval | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A variant against a baseline, paired by seed.

    With fewer than two pairs, or the same difference in every pair, there is no spread to measure a difference by: what
    needs one is ``None``.

    Args:
        pairs: seeds that both have.
        difference: mean of variant − baseline; ``None`` for no pair. In one model of all runs it is adjusted for seeds
            that one of them lacks.
        deviation: standard deviation of differences of single runs; ``None`` for fewer than two pairs.
        interval: 95 % confidence interval of the mean difference (t), or ``None``.
        p_value: of the two-sided t-test, or ``None``.
        d_z: Cohen's d_z, difference / deviation, or ``None``.
        g_z: Hedges' g_z, d_z without its bias in small samples, or ``None``; two pairs have none either, for d_z has no
            expectation there.
        error: standard error of the difference, or ``None``.
        freedom: degrees of freedom of the deviation.
    """

    pairs: int
    difference: float | None
    deviation: float | None = None
    interval: Interval | None = None
    p_value: float | None = None
    d_z: float | None = None
    g_z: float | None = None
    error: float | None = None
    freedom: int = 0


def summarize(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and confidence interval of values.

    Examples:
        >>> summarize([70.0, 71.0, 72.0])  # 71 ± 4.303 · 1 / √3
        Summary(n=3, mean=71.0, deviation=1.0, interval=(68.515..., 73.484...))
        >>> summarize([70.0])
        Summary(n=1, mean=70.0, deviation=None, interval=None)
    """
    n = len(values)
    if n < 2:
        return Summary(n, float(values[0]) if n else None, None, None)
    mean = float(np.mean(values))
    if np.ptp(values) < SAME:
        return Summary(n, mean, 0.0, None)
    low, high = stats.t.interval(1 - ALPHA, n - 1, loc=mean, scale=stats.sem(values))
    return Summary(n, mean, float(np.std(values, ddof=1)), (float(low), float(high)))


def compare(variant: Mapping[int, float], baseline: Mapping[int, float]) -> Comparison:
    """Compare scores by seed; only seeds that both have count.

    Args:
        variant: scores by seed.
        baseline: scores by seed.

    Examples:
        >>> comparison = compare({0: 71.0, 1: 73.0, 2: 75.0, 3: 99.0}, {0: 70.0, 1: 71.0, 2: 72.0})
        >>> comparison.pairs, comparison.difference, round(comparison.p_value, 4)
        (3, 2.0, 0.0742)
    """
    differences = [variant[seed] - baseline[seed] for seed in sorted(set(variant) & set(baseline))]
    summary = summarize(differences)
    if summary.mean is None or not summary.deviation:
        return Comparison(summary.n, summary.mean, summary.deviation)
    return t_test(summary.n, summary.mean, summary.deviation, summary.deviation / math.sqrt(summary.n), summary.n - 1)


def t_test(pairs: int, difference: float, deviation: float, error: float, freedom: int) -> Comparison:
    """A comparison by its t-test.

    Args:
        pairs: seeds that both have.
        difference: that was estimated.
        deviation: standard deviation of differences of single runs.
        error: standard error of the difference.
        freedom: degrees of freedom of both.
    """
    d_z = difference / deviation
    low, high = stats.t.interval(1 - ALPHA, freedom, loc=difference, scale=error)
    return Comparison(
        pairs,
        difference,
        deviation,
        (float(low), float(high)),
        p_value=float(2 * stats.t.sf(abs(difference) / error, freedom)),
        d_z=d_z,
        g_z=d_z * hedges_correction(freedom) if freedom > 1 else None,
        error=error,
        freedom=freedom,
    )


def unpaired(scores: Sequence[Sequence[float]]) -> float | None:
    """The p-value of Welch's t-test of two variants, which knows nothing of seeds; ``None`` without a spread.

    It shows whether a finding depends on the pairing.

    Examples:
        >>> round(unpaired([[71.0, 73.0, 75.0], [70.0, 71.0, 72.0]]), 4)  # t = 2 / √(4/3 + 1/3)
        0.2209
    """
    if min(map(len, scores)) < 2 or any(np.ptp(values) < SAME for values in scores):
        return None
    return float(stats.ttest_ind(*scores, equal_var=False).pvalue)


def rank_correlation(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float] | None:
    """Spearman's rank correlation of two lists of scores, and its p-value; ``None`` if one of them is constant.

    The p-value is the two-sided one of Student's t, good for ten scores or more.

    Examples:
        >>> rho, p = rank_correlation([1.0, 2.0, 3.0, 4.0, 5.0], [55.1, 55.0, 56.0, 57.0, 58.0])
        >>> round(rho, 3), round(p, 3)  # 1 − 6 · 2 / (5 · 24)
        (0.9, 0.037)
    """
    if np.ptp(ours) < SAME or np.ptp(theirs) < SAME:
        return None
    found = stats.spearmanr(ours, theirs)
    return float(found.statistic), float(found.pvalue)


def average(comparisons: Sequence[Comparison]) -> Summary:
    """The mean of comparisons on different networks, which are its units, each counting the same.

    The interval is by t over networks. Where networks agree by chance better than their own seeds let them, it is as
    wide as the seeds' spread makes it: the larger of the two standard errors counts. There is none with fewer than
    three networks, or where one has no spread.

    Examples:
        >>> agreeing = [Comparison(4, difference, error=1.0) for difference in (0.25, 0.5, 0.75)]
        >>> average(agreeing).mean, average(agreeing).interval  # 0.5 ± 4.303 · 1 / √3
        (0.5, (-1.984..., 2.984...))
    """
    differences = [comparison.difference for comparison in comparisons if comparison.difference is not None]
    over = summarize(differences)
    errors = [comparison.error for comparison in comparisons if comparison.error]
    if over.n < 3 or over.mean is None or over.deviation is None or len(errors) < len(comparisons):
        return dataclasses.replace(over, interval=None)
    error = max(over.deviation / math.sqrt(over.n), math.hypot(*errors) / over.n)
    low, high = stats.t.interval(1 - ALPHA, over.n - 1, loc=over.mean, scale=error)
    return dataclasses.replace(over, interval=(float(low), float(high)))


def hedges_correction(freedom: int) -> float:
    """The factor that takes the bias off a standardized difference, Γ(f/2) / (√(f/2) · Γ((f−1)/2)).

    Args:
        freedom: degrees of freedom f of its standard deviation.

    Source: Hedges, Distribution theory for Glass's estimator of effect size and related estimators, 1981.

    Examples:
        >>> round(hedges_correction(4), 4)
        0.7979
    """
    return float(special.poch((freedom - 1) / 2, 0.5)) / math.sqrt(freedom / 2)


def corrected_interval(comparison: Comparison, family: int) -> Interval | None:
    """The interval that holds the truth of all of so many comparisons together with 95 %, by Bonferroni.

    Examples:
        >>> corrected_interval(compare({0: 71.0, 1: 73.0, 2: 75.0}, {0: 70.0, 1: 71.0, 2: 72.0}), family=2)
        (-1.58..., 5.58...)
    """
    if comparison.difference is None or comparison.error is None:
        return None
    reach = float(stats.t.isf(ALPHA / family / 2, comparison.freedom)) * comparison.error
    return comparison.difference - reach, comparison.difference + reach


def detectable_difference(error: float, freedom: int, family: int = 1) -> float:
    """The smallest true difference that a t-test, one of a family, would find with 80 % power.

    The test is at 5 % over the number of comparisons, as Holm's method has it where no other comparison finds anything.

    Args:
        error: standard error of the difference; for n pairs the standard deviation of their differences over √n.
        freedom: its degrees of freedom, n − 1 for n pairs.
        family: number of comparisons that are corrected together.

    Examples:
        >>> error = 0.5 / math.sqrt(5)
        >>> round(detectable_difference(error, 4), 2), round(detectable_difference(error, 4, family=17), 2)
        (0.84, 1.81)
    """
    return error * _detectable_shift(freedom, family)


@functools.cache
def _detectable_shift(freedom: int, family: int) -> float:
    limit = float(stats.t.isf(ALPHA / family / 2, freedom))

    def missing_power(shift: float) -> float:
        # Over what the deviation is estimated as; scipy's own noncentral t has no numbers for shifts as large as these.
        def found(quantile: float) -> float:
            needed = limit * math.sqrt(special.chdtri(freedom, 1 - quantile) / freedom)
            return float(special.ndtr(shift - needed) + special.ndtr(-shift - needed))

        return float(integrate.quad(found, 0, 1, limit=200)[0]) - POWER

    return float(optimize.brentq(missing_power, 0, 10 * limit))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct the p-values of a family of comparisons by Holm's method; ``None``, for no test, stays.

    Examples:
        >>> [p and round(p, 3) for p in holm([0.01, None, 0.04, 0.03])]
        [0.03, None, 0.06, 0.06]
    """
    tested = np.array([p for p in p_values if p is not None])
    order = np.argsort(tested)
    corrected = np.empty_like(tested)
    # The smallest of n counts n times, the next n - 1 times, and none less than the one before it.
    corrected[order] = np.maximum.accumulate(tested[order] * np.arange(len(tested), 0, -1)).clip(max=1)
    left = iter(corrected.tolist())
    return [None if p is None else next(left) for p in p_values]
