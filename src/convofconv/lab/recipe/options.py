"""Recipes on the command line: where they are found, and every value of one as an option."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace  # type: ignore[attr-defined]

from ...errors import ConfigError, did_you_mean, similar
from ..files.atomic import read_yaml
from ..files.run_folder import RunFolder
from .schema import DATA_OF_TASK, KEYS_OF_DATA, DataRecipe, Recipe
from .values import check_keys, flat, recipe_of

#: Recipes that come with the package.
FOLDER = Path(__file__).parent / "built_in"
#: Keys that ``--print_config`` writes too, though they decide no result: they are given to the command.
_OF_COMMANDS = ("out", "resume", "profile")


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


def recipe_first(argv: Sequence[str]) -> list[str]:
    """Rewrite ``fit RECIPE --option ...`` so that options overrule the recipe's file.

    Where the recipe is the folder of a run, the file is what that run was started with, and the run is meant.

    Raises:
        ConfigError: no recipe is named, there is none of that name, nor a run in a folder of that name.
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
    if run.recipe.is_file():
        return [command, "--recipe", str(run.recipe), "--out", str(run.path), *rest[1:]]
    return [command, "--recipe", str(find_recipe(rest[0])), *rest[1:]]


def read_recipe(path: Path) -> dict[str, Any]:
    """The values of a recipe's file, without keys that have none and those that ``--print_config`` writes besides.

    Raises:
        ConfigError: it holds something else; the message names the file.
    """
    values = read_yaml(path, "a recipe")
    given = {key: value for key, value in values.items() if value is not None and key not in _OF_COMMANDS}
    sections = [field.name for field in fields(Recipe)]
    dotted = [key for key in map(str, given) if "." in key and key.partition(".")[0] in sections]
    values = {key: value for key, value in given.items() if key not in dotted}
    try:
        for key in dotted:
            if key in flat(values) or any(known.startswith(f"{key}.") for known in flat(values)):
                raise ConfigError(f"{key} is given twice")
            _put(values, key, given[key])
        check_keys(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return values


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key in nested values."""
    *sections, entry = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{key}: {section} has keys and values, got {values!r}")
    values[entry] = value


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


class _RecipeFile(ActionConfigFile):
    """Reads a recipe's file as studies do."""

    def __call__(self, parser: Any, options: Any, path: Any, option_string: str | None = None) -> None:
        text = json.dumps(read_recipe(Path(path)), default=str)
        try:
            super().__call__(parser, options, text, option_string)  # type: ignore[no-untyped-call]
        except ArgumentError as error:
            raise ConfigError(f"{path}: {error}") from error
        options[self.dest][-1] = path  # in place of the text


def add_recipe_options(parser: ArgumentParser) -> None:
    """Every value of a recipe as an option with a dotted name, its help from the docstrings."""
    parser.add_argument("--recipe", action=_RecipeFile, help="a recipe's file; usually given as RECIPE instead")
    parser.add_class_arguments(Recipe, fail_untyped=True)


def build_recipe(options: Namespace) -> tuple[str, Recipe]:
    """The recipe of parsed options, and its name.

    Raises:
        ConfigError: a value is impossible.
    """
    given, path = options.as_dict(), Path(options.recipe[0])
    file, of_run = read_recipe(path), path == RunFolder(path.parent).recipe
    _check_keys_of_data(given, file, of_run)
    recipe, default, theirs = recipe_of({field.name: given[field.name] for field in fields(Recipe)}), Recipe(), {}
    # A recipe for coc may be trained with another method, to compare; the folder of that run stands for what it was.
    if of_run or "coc" in str(file.get("method")).split("+"):
        theirs = file
    for key in ("preset", "association"):
        wanted = getattr(recipe, key)
        if "coc" not in recipe.method.split("+") and wanted not in (getattr(default, key), theirs.get(key)):
            raise ConfigError(
                f"preset and association are of the method coc, this is {recipe.method}; give --method coc"
            )
    return path.stem, recipe


#: What the folder of a data set that can be read for a task looks like, for messages.
_LAYOUTS = {
    "image_folder": "a folder per class, DIR/train/CLASS/ and DIR/val/CLASS/",
    "voc": "images and masks in VOC's layout",
    "coco": "images and annotations in COCO's layout",
}


def _check_keys_of_data(given: Mapping[str, Any], file: Mapping[str, Any], recorded: bool) -> None:
    """Refuse what says nothing to the data set, except where nobody asks for it here.

    That is what the recipe's file says of another data set than the one that is asked for, and what an earlier version
    recorded in the folder of a run.

    Args:
        given: values of the recipe.
        file: those of its file.
        recorded: whether the file is that of a run.

    Raises:
        ConfigError: the message names the key, and what reads a folder.
    """
    data, theirs = given["data"], file.get("data") or {}
    name, default = data["name"], DataRecipe()
    another = theirs.get("name", default.name) != name
    for key, names in KEYS_OF_DATA.items():
        left_over = (another or recorded) and str(data[key]) == str(theirs.get(key))
        if name in names or left_over or data[key] == getattr(default, key):
            continue
        if key != "root":
            raise ConfigError(f"data.{key} says nothing to {name}; leave it out")
        own = next(other for other in DATA_OF_TASK[given["task"]] if other in _LAYOUTS)
        raise ConfigError(
            f"data.root: {name} is built in and not read from a folder. For {_LAYOUTS[own]}, give --data.name={own} "
            "--data.root=DIR --data.classes=N"
        )
