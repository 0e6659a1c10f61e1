"""Recipes on the command line: where they are found, and every value of one as an option."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
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
    values: dict[str, Any] = {name: options[name] for name in ("task", "method", "preset")}
    for section, cls in _SECTIONS.items():
        given = dict(options[section].items())
        if section == "data" and given["root"] is not None:
            given["root"] = Path(given["root"]).expanduser()
        values[section] = cls(**given)
    return Path(str(options.recipe[0])).stem, Recipe(**values)
