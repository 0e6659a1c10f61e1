"""What `coc` runs: data, training and figures around the core. Needs the extra ``[lab]``.

The core never imports anything from here. :func:`load_run` gives the network of a run that ``coc fit`` trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .predict.finished_run import load_run

__all__ = ["load_run"]


def __getattr__(name: str) -> object:
    """Import what is public when it is first used: ``coc --help`` passes here."""
    if name in __all__:
        from .predict.finished_run import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
