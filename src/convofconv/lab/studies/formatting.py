"""Numbers as text, and a family of comparisons in a line."""

from __future__ import annotations

from .analysis import Network
from .statistics import Interval, Summary

#: Stands where there is no number.
NOTHING = "–"
#: Names of variants without a finding that are listed in a sentence; more are counted.
MOST_NAMES = 9


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


def p_is(p: float) -> str:
    """A p-value in a sentence.

    Examples:
        >>> p_is(0.5), p_is(0.0001)
        ('p = 0.50', 'p < 0.001')
    """
    text = probability(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


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


def count(number: int, noun: str) -> str:
    """A number of things.

    Examples:
        >>> count(1, "run"), count(2, "run")
        ('1 run', '2 runs')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def summary_of(network: Network, baseline: str) -> str:
    """What the comparisons of a family found, in a line."""
    family = [contrast for (_, other), contrast in network.contrasts.items() if other == baseline]
    groups = {
        "better": [c for c in family if c.found and (c.comparison.difference or 0) > 0],
        "worse": [c for c in family if c.found and (c.comparison.difference or 0) < 0],
        "no difference found": [c for c in family if c.p_holm is not None and not c.found],
        "not tested": [c for c in family if c.p_holm is None],
    }
    parts = []
    for what, found in groups.items():
        if len(found) > MOST_NAMES and what not in ("better", "worse"):
            parts.append(f"{what}: {len(found)} variants")
        elif found:
            parts.append(f"{what}: {', '.join(contrast.variant for contrast in found)}")
    return f"Against **{baseline}** – {'; '.join(parts)}."
