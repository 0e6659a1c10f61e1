"""Recipes where they lie: found, read, overridden and built; the same way for the command line, runs and studies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from ...errors import ConfigError, did_you_mean, listing, similar
from ..files.atomic import read_yaml
from ..files.run_folder import RunFolder
from .schema import Recipe

#: Recipes that come with the package.
FOLDER = Path(__file__).parent / "built_in"
#: Keys that ``--print_config`` writes too, though they decide no result: they are given to the command.
_OF_COMMANDS = ("out", "resume", "profile")
#: The sections of a recipe, and by dotted key the defaults of all that has a value.
_SECTIONS: dict[str, Any] = {
    field.name: field.default_factory for field in fields(Recipe) if is_dataclass(field.default_factory)
}
_DEFAULTS = {field.name: field.default for field in fields(Recipe) if field.name not in _SECTIONS} | {
    f"{section}.{field.name}": field.default for section, kind in _SECTIONS.items() for field in fields(kind)
}


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path to one, the folder of a run, or the name of one that comes with the package.

    Raises:
        ConfigError: there is none of them.
    """
    if (of_run := RunFolder(Path(name)).recipe).is_file():
        return of_run
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ConfigError(f"{name}: no such recipe file")
        return Path(name)
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = [recipe.stem for recipe in sorted(FOLDER.glob("*.yaml"))]
        hint = did_you_mean(similar(name, known, most=3)) or "; coc recipes lists them"
        if Path(name).is_dir():
            hint = f", and in the folder of that name no run has begun, it has no {RunFolder(Path(name)).recipe.name}"
        raise ConfigError(f"no recipe is called {name}{hint}")
    return path


def list_recipes() -> str:
    """Name and first line of every recipe that comes with the package."""
    paths = sorted(FOLDER.glob("*.yaml"))
    width = max(len(path.stem) for path in paths)
    lines = []
    for path in paths:
        comment = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        lines.append(f"{path.stem:{width}}  {comment}")
    return "\n".join(lines)


def read_recipe(path: Path) -> dict[str, Any]:
    """The values of a recipe's file, without keys that have none and those that ``--print_config`` writes besides.

    Raises:
        ConfigError: it holds something else; the message names the file.
    """
    values = read_yaml(path, "a recipe")
    given = {key: value for key, value in values.items() if value is not None and key not in _OF_COMMANDS}
    dotted = [key for key in map(str, given) if key.partition(".")[0] in _SECTIONS and "." in key]
    values = {key: value for key, value in given.items() if key not in dotted}
    try:
        for key in dotted:
            if key in flat(values) or any(known.startswith(f"{key}.") for known in flat(values)):
                raise ConfigError(f"{key} is given twice")
            _put(values, key, given[key])
        _check_keys(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return values


def recipe_from(name: str, settings: Mapping[str, Any], data: Path | None = None) -> Recipe:
    """The recipe of a name or file, with settings by dotted key laid over it, as the command line would give it.

    Args:
        name: of the recipe, or a path to one.
        settings: by dotted key.
        data: folder that takes the place of ``data`` at the beginning of the recipe's ``data.root``, which becomes an
            absolute path; ``None`` to leave it as it is.

    Raises:
        ConfigError: a key is unknown or a value impossible; the message names the key.
    """
    values = read_recipe(find_recipe(name))
    for key, value in settings.items():
        _put(values, key, value)
    root = Path(values.get("data", {}).get("root") or "")
    if data is not None and root.parts:
        inside = data.joinpath(*root.parts[1:]) if root.parts[0] == "data" else root
        values["data"]["root"] = str(inside.expanduser().resolve())
    try:
        return recipe_of(values)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """The recipe of plain values, those that a run has recorded for example; what is not there has its default.

    Raises:
        ConfigError: a key is unknown or a value impossible here, a folder that is missing for example.
    """
    _check_keys(values)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe, fail_untyped=True)
    try:
        return recipe_of_options(parser.parse_object(dict(values)))
    except ArgumentError as error:
        raise ConfigError(" ".join(str(error).split())) from error


def recipe_of_options(options: Namespace) -> Recipe:
    """The recipe of options that a parser has found to be of the right types.

    Raises:
        ConfigError: a value is impossible.
    """
    given = options.as_dict()
    sections = {name: kind(**given[name]) for name, kind in _SECTIONS.items()}
    return Recipe(**{field.name: sections.get(field.name, given[field.name]) for field in fields(Recipe)})


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            out.update(flat(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = value
    return out


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key in nested values."""
    *sections, entry = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{key}: {section} has keys and values, got {values!r}")
    values[entry] = value


def _check_keys(values: Mapping[str, Any]) -> None:
    """Refuse unknown keys, a value where a recipe has keys, and null where it has a value (YAML's for nothing).

    Raises:
        ConfigError: the message names the keys.
    """
    known = {*_DEFAULTS, *_SECTIONS}
    of_sections = {section: values[section] for section in _SECTIONS if isinstance(values.get(section), Mapping)}
    given = {f"{section}.{key}" for section, entries in of_sections.items() for key in entries} | {*map(str, values)}
    for key in sorted(given - known):
        raise ConfigError(f"{key}: a recipe has no such key{did_you_mean(similar(key, known))}")
    for key in values.keys() & {*_SECTIONS, "association"}:
        if not isinstance(values[key], Mapping):
            raise ConfigError(f"{key} has keys and values, got {values[key]!r}")
    if empty := [
        key for key, value in flat(values).items() if value is None and _DEFAULTS.get(key) not in (None, MISSING)
    ]:
        raise ConfigError(f"{listing(empty)}: null is no value there; leave it out for its default")
