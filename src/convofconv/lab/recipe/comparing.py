"""Recipes as plain values, how two of them differ, and what may."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from .recipe_files import flat
from .schema import Recipe

#: What may change between the start of a run and its resuming, because it does not decide the result.
FREE = ("data.root", "data.download", "data.workers", "training.eval_batch", "training.checkpoint_steps", "machine.")


def different_keys(theirs: Mapping[str, Any], mine: Mapping[str, Any], free: tuple[str, ...] = ()) -> list[str]:
    """What differs between two recipes and decides a result, as text; keys that one lacks have their default there."""
    default = flat(plain_values(Recipe()))
    before, now = {**default, **flat(theirs)}, {**default, **flat(mine)}
    return [
        f"{key}={before.get(key)!r} there, {now.get(key)!r} here"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and not key.startswith((*FREE, *free))
    ]


def plain_values(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe), default=str))
    return values
