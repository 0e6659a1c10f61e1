"""The 95 % confidence interval of a mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

Interval = tuple[float, float]


def t_interval(values: Sequence[float]) -> Interval | None:
    """The interval of Student's t; ``None`` for fewer than two values, or equal ones, whose spread is unknown.

    Examples:
        >>> t_interval([70.0, 71.0, 72.0])  # 71 ± 4.303 · 1 / √3
        (68.515..., 73.484...)
    """
    if len(values) < 2 or np.ptp(values) == 0:
        return None
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    return float(low), float(high)


def plus_minus(values: Sequence[float], digits: int = 0) -> str:
    """The mean with half the width of its interval, where there is one.

    Examples:
        >>> plus_minus([70.0, 71.0, 72.0], digits=1), plus_minus([70.0])
        ('71.0 ± 2.5', '70')
    """
    interval = t_interval(values)
    half = f" ± {(interval[1] - interval[0]) / 2:.{digits}f}" if interval else ""
    return f"{np.mean(values):.{digits}f}{half}"
