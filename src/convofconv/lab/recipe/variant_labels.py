"""Short names for recipes that are compared: their method, and what else they differ in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .comparing import FREE, different_keys
from .recipe_files import flat

_SEED = "training.seed"


def shortest_names(folders: Sequence[Path]) -> list[str]:
    """The ends of paths, as short as they are different.

    Examples:
        >>> shortest_names([Path("runs/a/seed0"), Path("runs/b/seed0")])
        ['a/seed0', 'b/seed0']
    """
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def variant_labels(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Labels of recipes: alike for those that differ by seed alone, and for no others.

    Args:
        recipes: plain values by a name of the run, which is the label where nothing short is.

    Examples:
        >>> variant_labels({"a": {"method": "coc"}, "b": {"method": "plain"}})
        {'a': 'coc', 'b': 'plain'}
    """
    groups: list[list[str]] = []
    for name, recipe in recipes.items():
        alike = (group for group in groups if not different_keys(recipes[group[0]], recipe, (_SEED,)))
        if group := next(alike, None):
            group.append(name)
        else:
            groups.append([name])
    first = [flat(recipes[group[0]]) for group in groups]
    keys = [key for key in first[0] if key not in ("method", _SEED) and not key.startswith(FREE)]
    differing = [key for key in keys if any(recipe.get(key) != first[0][key] for recipe in first)]
    for number in range(4):
        labels = [_label(recipe, differing[:number]) for recipe in first]
        if len(set(labels)) == len(labels):
            break
    else:
        labels = [group[0] for group in groups]
    return {name: label for label, group in zip(labels, groups, strict=True) for name in group}


def _label(recipe: Mapping[str, Any], keys: Sequence[str]) -> str:
    """The method, and the values of these keys."""
    values = [recipe.get(key) for key in keys]
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    ends = [key.rpartition(".")[2] for key in keys]
    return ", ".join([recipe["method"], *(f"{end} {text}" for end, text in zip(ends, texts, strict=True))])
