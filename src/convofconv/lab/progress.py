"""A bar over all work on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def watched() -> bool:
    """Whether somebody looks at the output."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def progress_bar(total: int, what: str) -> Any:
    """A tqdm bar that disappears when it is closed; its ``disable`` tells whether somebody looks at it."""
    return tqdm(total=total, desc=what, disable=not watched(), leave=False, dynamic_ncols=True)
