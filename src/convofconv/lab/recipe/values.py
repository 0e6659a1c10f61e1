"""Recipes as plain values: built from them, written as them, compared by them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from ...errors import ConfigError, did_you_mean, listing, similar
from .schema import Recipe

#: What may change between the start of a run and its resuming, because it does not decide the result.
_FREE = ("data.root", "data.download", "data.workers", "training.eval_batch", "training.checkpoint_steps", "machine.")


def different_keys(theirs: Mapping[str, Any], mine: Mapping[str, Any], free: tuple[str, ...] = ()) -> list[str]:
    """What differs between two recipes and decides a result, as text; keys that one lacks have their default there."""
    default = flat(plain_values(Recipe()))
    before, now = {**default, **flat(theirs)}, {**default, **flat(mine)}
    return [
        f"{key}={before.get(key)!r} there, {now.get(key)!r} here"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and not key.startswith((*_FREE, *free))
    ]


def plain_values(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe), default=str))
    return values


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """The recipe of plain values, those of :func:`plain_values` for example; what is not among them has its default.

    Raises:
        ConfigError: a key is unknown or a value impossible here, a folder that is missing for example.
    """
    check_keys(values)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe, fail_untyped=True)
    try:
        options = parser.parse_object(dict(values))
    except ArgumentError as error:
        raise ConfigError(" ".join(str(error).split())) from error
    return Recipe(**vars(parser.instantiate(options)))


def check_keys(values: Mapping[str, Any]) -> None:
    """Refuse unknown keys, a value where a recipe has keys, and null where it has a value (YAML's for nothing).

    Raises:
        ConfigError: the message names the keys.
    """
    plain = plain_values(Recipe())
    sections = {key: entries for key, entries in plain.items() if isinstance(entries, dict) and entries}
    known = {*plain, *(f"{section}.{key}" for section, entries in sections.items() for key in entries)}
    given = {f"{section}.{key}" for section in sections for key in _entries(values.get(section))} | {*map(str, values)}
    for key in sorted(given - known):
        raise ConfigError(f"{key}: a recipe has no such key{did_you_mean(similar(key, known))}")
    for key in values.keys() & {key for key, value in plain.items() if isinstance(value, dict)}:
        if not isinstance(values[key], Mapping):
            raise ConfigError(f"{key} has keys and values, got {values[key]!r}")
    default = flat(plain)
    if empty := [key for key, value in flat(values).items() if value is None and default.get(key) is not None]:
        raise ConfigError(f"{listing(empty)}: null is no value there; leave it out for its default")


def _entries(section: Any) -> list[Any]:
    return list(section) if isinstance(section, Mapping) else []


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            out.update(flat(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = value
    return out
