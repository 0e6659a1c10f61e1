"""What curves over epochs share."""

from __future__ import annotations

from typing import Any


def whole_epochs(axes: Any) -> None:
    """Ticks at whole epochs alone, also where there is only one."""
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
