"""The network of a run, as the folder of the run alone describes it: nothing here needs its data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import ConfigError, listing
from ..files.run_folder import RunFolder, read_values
from ..models.network import build_network
from ..recipe.recipe_files import recipe_of
from ..recipe.schema import Recipe, find_source


def run_at(path: Path) -> RunFolder | None:
    """The run in the folder ``path``, or the one that the file ``path`` is of; ``None`` for any other file.

    Raises:
        ConfigError: it is the folder of no run.
    """
    folder = RunFolder(path if path.is_dir() else path.parent)
    if folder.recipe.is_file():
        return folder
    if path.is_dir():
        raise ConfigError(f"{path}: no run has begun in this folder, it has no {folder.recipe.name}")
    return None


def checkpoint_of(folder: RunFolder) -> Path:
    """The file of a run with its best network as it was trained.

    Raises:
        ConfigError: it has none.
    """
    files = (folder.best, folder.converted, folder.last)
    for file in files:
        if file.is_file():
            return file
    raise ConfigError(f"{folder.path}: there is no {listing(file.name for file in files)}, the run has no weights yet")


def recipe_to_build(values: Mapping[str, Any], path: Path) -> Recipe:
    """A run's recipe without what its training alone needed: first weights and the data set.

    Args:
        values: of the recipe.
        path: any folder that exists, to stand for that of the data set, which may be on another machine.

    Raises:
        ConfigError: a key is unknown or a value impossible here.
    """
    root = str(path) if "root" in find_source(values["data"]["name"]).keys else None
    data = {**values["data"], "root": root}
    model = {**values["model"], "weights": "", "freeze_norm": False}
    return recipe_of({**values, "data": data, "model": model})


def read_recipe_of(folder: RunFolder) -> Recipe:
    """The recipe that a run was started with, see :func:`recipe_to_build`.

    Raises:
        ConfigError: the file is damaged, or of another version.
    """
    return recipe_to_build(read_values(folder.recipe, "data", "model"), folder.path)


def build_network_of(recipe: Recipe, plain: bool) -> nn.Module:
    """Build the network of such a recipe with random weights: as it was trained, or ``plain``."""
    return build_network(dataclasses.replace(recipe, method="plain") if plain else recipe, recipe.data.classes)
