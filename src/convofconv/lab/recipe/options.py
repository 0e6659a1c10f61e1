"""Recipes on the command line: every value of one as an option, and what is refused where somebody asks for it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace  # type: ignore[attr-defined]

from ...errors import ConfigError
from ..files.run_folder import RunFolder
from .recipe_files import find_recipe, read_recipe, recipe_of_options
from .schema import KEYS_OF_SOURCES, DataRecipe, Recipe, find_source, sources_of


def recipe_first(argv: Sequence[str]) -> list[str]:
    """Rewrite ``fit RECIPE --option ...`` so that options override the recipe's file.

    Where the recipe is the folder of a run, the file is what that run was started with, and the run is meant.

    Raises:
        ConfigError: no recipe is named.
    """
    command, *rest = argv
    if any(option in ("-h", "--help") for option in rest):
        return list(argv)
    if not rest or rest[0].startswith("-"):
        raise ConfigError(
            f"coc {command} needs a recipe, or the folder of a run, right behind it; coc recipes lists those that are "
            "built in"
        )
    run = RunFolder(Path(rest[0]))
    out = ["--out", str(run.path)] if run.recipe.is_file() else []
    return [command, "--recipe", *rest[:1], *out, *rest[1:]]


@dataclasses.dataclass(frozen=True)
class _File:
    """A recipe's file as it was read, and whether it is what a run was started with."""

    path: Path
    values: Mapping[str, Any]
    of_run: bool


class _RecipeFile(ActionConfigFile):
    """Reads a recipe's file as studies do."""

    def __call__(self, parser: Any, options: Any, name: Any, option_string: str | None = None) -> None:
        path = find_recipe(name)
        file = _File(path, read_recipe(path), path == RunFolder(path.parent).recipe)
        try:
            text = json.dumps(file.values, default=str)
            super().__call__(parser, options, text, option_string)  # type: ignore[no-untyped-call]
        except ArgumentError as error:
            raise ConfigError(f"{path}: {error}") from error
        options[self.dest][-1] = file  # in place of the text


def add_recipe_options(parser: ArgumentParser) -> None:
    """Every value of a recipe as an option with a dotted name, its help from the docstrings."""
    parser.add_argument("--recipe", action=_RecipeFile, help="a recipe's file; usually given as RECIPE instead")
    parser.add_class_arguments(Recipe, fail_untyped=True)


def build_recipe(options: Namespace) -> tuple[str, Recipe]:
    """The recipe of parsed options, and its name.

    Raises:
        ConfigError: a value is impossible.
    """
    file: _File = options.recipe[0]
    _check_keys_of_data(options, file)
    recipe = recipe_of_options(options)
    # A recipe for coc may be trained with another method, to compare; the folder of that run stands for what it was.
    theirs = file.values if file.of_run or "coc" in str(file.values.get("method")).split("+") else {}
    for key, default in (("preset", Recipe.preset), ("association", {})):
        if "coc" not in recipe.method.split("+") and getattr(recipe, key) not in (default, theirs.get(key)):
            raise ConfigError(
                f"preset and association are of the method coc, this is {recipe.method}; give --method coc"
            )
    return file.path.stem, recipe


def _check_keys_of_data(options: Namespace, file: _File) -> None:
    """Refuse what says nothing to the data source, except where nobody asks for it here.

    That is what the recipe's file says of another source than the one that is asked for, and what an earlier version
    recorded in the folder of a run.

    Raises:
        ConfigError: the message names the key, and what reads a folder.
    """
    data, theirs = options.data, file.values.get("data") or {}
    another = theirs.get("name", DataRecipe.name) != data.name
    for key in KEYS_OF_SOURCES:
        left_over = (another or file.of_run) and str(data[key]) == str(theirs.get(key))
        if left_over or data[key] == getattr(DataRecipe, key) or key in find_source(data.name).keys:
            continue
        if key != "root":
            raise ConfigError(f"data.{key} says nothing to {data.name}; leave it out")
        advice = ""
        if own := next((name for name in sources_of(options.task) if find_source(name).layout), ""):
            advice = f". For {find_source(own).layout}, give --data.name={own} --data.root=DIR --data.classes=N"
        raise ConfigError(f"data.root: {data.name} is built in and not read from a folder{advice}")
