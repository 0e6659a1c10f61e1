"""How the runs were trained: what differs first, then what is the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ...recipe.recipe_files import flat
from ..parts.rendering import join
from ..parts.section import Section
from ..parts.tables import NOTHING, folded_away, note, table
from ..reported_runs import ReportedRun


def section(runs: Sequence[ReportedRun]) -> Section:
    """Every key of the recipes."""
    recipes = [flat(run.recipe) for run in runs]
    keys = sorted({key for recipe in recipes for key in recipe}, key=_order)
    different = [key for key in keys if any(recipe.get(key) != recipes[0].get(key) for recipe in recipes)]
    common = [key for key in keys if key not in different]
    rows = [[key, *(_shown(recipe.get(key)) for recipe in recipes)] for key in different]
    same = table(
        "What is the same in all runs", ["key", "value"], [[k, _shown(recipes[0][k])] for k in common], texts=True
    )
    if different:
        shown = table("What differs between the runs", ["key", *(run.name for run in runs)], rows, texts=True)
    else:
        shown = note(
            "Nothing differs between the runs." if len(runs) > 1 else "One run, with nothing to compare it to."
        )
    body = join(shown, folded_away(f"What is the same in all runs: {len(common)} keys", same))
    return Section(
        "Configuration",
        body,
        {
            "different": {
                key: {run.name: recipe.get(key) for run, recipe in zip(runs, recipes, strict=True)} for key in different
            },
            "common": {key: recipes[0][key] for key in common},
        },
    )


def _order(key: str) -> tuple[int, str]:
    """What a run is about, before the rest in the order of the alphabet."""
    first = ("task", "method", "preset", "training.seed")
    return (first.index(key) if key in first else len(first), key)


def _shown(value: Any) -> str:
    if value in (None, "", [], {}):
        return NOTHING
    return value if isinstance(value, str) else json.dumps(value)
