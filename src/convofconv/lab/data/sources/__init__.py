"""Data sources, one file each: what ``data.name`` of a recipe can be.

A source is found by the name of its file, which has a ``SOURCE``; nothing else lists it. It is imported only when a
recipe asks for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set, or the layout of a folder that holds one.

    Args:
        reads: by target, what belongs to an image, a function of the recipe's data and the name of a split. For
            ``"label"`` and ``"mask"`` it gives a :class:`~convofconv.lab.data.splits.Split`; for ``"boxes"`` and
            ``"objects"``, which also have masks, an :class:`~convofconv.lab.data.object_splits.ObjectSplit`. Both must
            be picklable, for worker processes. A split that is missing or broken raises a ``ConfigError``.
        keys: those of ``root``, ``download`` and ``year`` that say something to it; without ``root`` it is built in.
        layout: what the folder looks like, in a few words, for advice to whoever has data of their own.
        any_size: whether labelled images may be of different sizes, so that the first one says nothing of the others.
    """

    reads: Mapping[str, Callable[..., Any]]
    keys: tuple[str, ...] = ()
    layout: str = ""
    any_size: bool = False
