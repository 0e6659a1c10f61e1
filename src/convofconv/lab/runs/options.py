"""Recipes on the command line: where they are found, and every value of one as an option."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ..recipe import DataRecipe, MachineRecipe, ModelRecipe, Recipe, TrainingRecipe

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

#: Recipes that come with the package.
FOLDER = Path(__file__).parent.parent / "recipes"
_SECTIONS = {"data": DataRecipe, "model": ModelRecipe, "training": TrainingRecipe, "machine": MachineRecipe}


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path to one, or the name of one that comes with the package.

    Raises:
        ConfigError: there is neither.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ConfigError(f"{name}: no such recipe file")
        return Path(name)
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = [recipe.stem for recipe in sorted(FOLDER.glob("*.yaml"))]
        close = difflib.get_close_matches(name, known)
        hint = f"; did you mean {', '.join(close)}?" if close else "; coc recipes lists them"
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


def recipe_first(argv: Sequence[str]) -> list[str]:
    """Rewrite ``fit RECIPE --option ...`` so that options overrule the recipe's file.

    Raises:
        ConfigError: no recipe is named, or there is none of that name.
    """
    command, *rest = argv
    if any(option in ("-h", "--help") for option in rest):
        return list(argv)
    if not rest or rest[0].startswith("-"):
        raise ConfigError(f"coc {command} needs a recipe right behind it; coc recipes lists those that are built in")
    return [command, "--recipe", str(find_recipe(rest[0])), *rest[1:]]


def recipe_from(name: str, settings: Mapping[str, Any], data: Path | None = None) -> Recipe:
    """The recipe of a name or file, with settings by dotted key laid over it, as the command line would give it.

    Args:
        name: of the recipe, or a path to one.
        settings: by dotted key.
        data: folder that takes the place of ``data`` at the beginning of the recipe's ``data.root``.

    Raises:
        ConfigError: a key is unknown or a value impossible; the message names the key.
    """
    import yaml
    from jsonargparse import ArgumentError, ArgumentParser

    path = find_recipe(name)
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in settings.items():
        section, _, entry = key.rpartition(".")
        (values.setdefault(section, {}) if section else values)[entry] = value
    root = Path(values.get("data", {}).get("root", ""))
    if data is not None and root.parts[:1] == ("data",):
        values["data"]["root"] = str(data.joinpath(*root.parts[1:]).resolve())
    parser = ArgumentParser(exit_on_error=False)
    add_recipe_options(parser)
    try:
        options = parser.parse_object({**values, "recipe": None})
    except ArgumentError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    return _build(options)


def add_recipe_options(parser: ArgumentParser) -> None:
    """Every value of a recipe as an option with a dotted name, its help from the docstrings."""
    import jsonargparse

    config_file: Any = vars(jsonargparse)["ActionConfigFile"]
    parser.add_argument("--recipe", action=config_file, help="a recipe's file; usually given as RECIPE instead")
    parser.add_class_arguments(Recipe, fail_untyped=True)


def build_recipe(options: Namespace) -> tuple[str, Recipe]:
    """The recipe of parsed options, and its name.

    Raises:
        ConfigError: a value is impossible.
    """
    return Path(str(options.recipe[0])).stem, _build(options)


def _build(options: Namespace) -> Recipe:
    values: dict[str, Any] = {name: options[name] for name in ("task", "method", "preset", "association")}
    for section, cls in _SECTIONS.items():
        given = dict(options[section].items())
        if section == "data" and given["root"] is not None:
            given["root"] = Path(given["root"]).expanduser()
        values[section] = cls(**given)
    return Recipe(**values)
