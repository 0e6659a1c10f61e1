"""Numbers as text, and comparisons in words."""

from __future__ import annotations

from .analysis import Contrast, Network
from .statistics import ALPHA, Interval, Summary

#: Stands where there is no number.
NOTHING = "–"


def points(value: float | None, sign: bool = False) -> str:
    """A score or a difference with two decimals.

    Examples:
        >>> points(70.126), points(-0.5, sign=True), points(-0.001, sign=True), points(None)
        ('70.13', '−0.50', '0.00', '–')
    """
    if value is None:
        return NOTHING
    rounded = round(value, 2) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{rounded:{'+' if sign and rounded else ''}.2f}".replace("-", "−")


def probability(p: float | None) -> str:
    """A p-value with two digits that count.

    Examples:
        >>> probability(0.0123), probability(0.5), probability(0.0001), probability(None)
        ('0.012', '0.50', '< 0.001', '–')
    """
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:#.2g}"


def between(interval: Interval | None, sign: bool = False) -> str:
    """A confidence interval.

    Examples:
        >>> between((-0.2, 1.6), sign=True)
        '−0.20 to +1.60'
    """
    return NOTHING if interval is None else f"{points(interval[0], sign)} to {points(interval[1], sign)}"


def spread(summary: Summary) -> str:
    """Mean and standard deviation.

    Examples:
        >>> spread(Summary(2, 70.5, 0.7071, None)), spread(Summary(1, 70.5, None, None))
        ('70.50 ± 0.71', '70.50')
    """
    return points(summary.mean) + ("" if summary.deviation is None else f" ± {points(summary.deviation)}")


def duration(seconds: float) -> str:
    """A time in its two largest units.

    Examples:
        >>> duration(42), duration(754), duration(12345)
        ('42 s', '12 min 34 s', '3 h 26 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    return "{} h {} min".format(*divmod(round(seconds / 60), 60))


def count(number: int, noun: str) -> str:
    """A number of things.

    Examples:
        >>> count(1, "run"), count(2, "run")
        ('1 run', '2 runs')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def finding(contrast: Contrast) -> str:
    """What a comparison of at least one pair of runs found, as a sentence."""
    variant, baseline, comparison = f"**{contrast.variant}**", contrast.baseline, contrast.comparison
    difference = comparison.difference
    assert difference is not None
    if comparison.pairs == 1:
        return f"{variant}: {points(difference, sign=True)} points against {baseline} on one seed; that allows no test."
    if contrast.p_holm is None or comparison.interval is None:
        return (
            f"{variant}: exactly {points(difference, sign=True)} points against {baseline} on each of "
            f"{comparison.pairs} seeds; without spread there is no test."
        )
    sure = _p(contrast.p_holm)
    if contrast.family > 1:
        sure += f" after Holm over {contrast.family} comparisons"
    low, high = comparison.interval
    if contrast.found:
        how, gain = ("better", (low, high)) if difference > 0 else ("worse", (-high, -low))
        return (
            f"{variant} is {how} than {baseline} by {points(abs(difference))} points "
            f"(95 % CI {between(gain)}, {sure}, {comparison.pairs} pairs)."
        )
    if comparison.p_value is not None and comparison.p_value < ALPHA:
        sure = f"{_p(comparison.p_value)} alone but {sure}"
    return (
        f"{variant}: no difference from {baseline} was found ({points(difference, sign=True)} points, 95 % CI "
        f"{between((low, high), sign=True)}, {sure}); with {comparison.pairs} seeds it could have seen "
        f"{points(contrast.detectable)} points."
    )


def _p(value: float) -> str:
    text = probability(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def summary_of(network: Network, baseline: str) -> str:
    """What the comparisons of a family found, in a line."""
    family = [contrast for (_, other), contrast in network.contrasts.items() if other == baseline]
    groups = {
        "better": [c for c in family if c.found and (c.comparison.difference or 0) > 0],
        "worse": [c for c in family if c.found and (c.comparison.difference or 0) < 0],
        "no difference found": [c for c in family if c.p_holm is not None and not c.found],
        "not tested": [c for c in family if c.p_holm is None],
    }
    parts = [f"{what}: {', '.join(c.variant for c in found)}" for what, found in groups.items() if found]
    return f"Against **{baseline}** – {'; '.join(parts)}."
