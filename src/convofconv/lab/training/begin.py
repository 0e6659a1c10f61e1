"""Whether a run may begin or go on in a folder, and what is written down when it does."""

from __future__ import annotations

import json
from pathlib import Path

from ...errors import ConfigError, listing
from ..files.atomic import write_atomic
from ..files.run_folder import RunFolder, read_values
from ..recipe.comparing import different_keys, plain_values
from ..recipe.schema import Recipe

#: What else may change where a finished run is evaluated.
OF_EVALUATION = ("model.max_detections",)


def default_folder(name: str, recipe: Recipe) -> Path:
    """Where a run goes if nothing else is said."""
    return Path("runs") / f"{name}-{recipe.method}-seed{recipe.training.seed}"


def check_folder(folder: RunFolder, recipe: Recipe, resume: bool) -> None:
    """Check that a folder is free for a new run, or that the run in it may be resumed.

    Raises:
        ConfigError: it holds a run of another recipe, or ``resume`` is not asked for, or the run is finished and has no
            checkpoint any more.
    """
    if not folder.began:
        return
    further = f"--model.weights {folder.path} with another --out"
    advice = "choose another --out"
    if read_values(folder.recipe).get("training", {}).get("epochs", 0) < recipe.training.epochs:
        first = "" if folder.results.exists() else f"finish it (coc fit {folder.path} --resume), then "
        advice = f"its schedule ends with its epochs: to train for longer, {first}give {further}"
    check_same_recipe(folder, recipe, advice=advice)
    if not resume:
        weights = f"; {further} trains on from its weights" if folder.results.exists() else ""
        raise ConfigError(f"{folder.path} holds a run already: resume it by --resume, or choose another --out{weights}")
    if not folder.last.exists():
        raise ConfigError(
            f"{folder.path} holds a finished run without {folder.last.name}, there is nothing to resume; choose "
            f"another --out to train anew, or {further} to train on from its weights"
        )


def begin_run(folder: RunFolder, recipe: Recipe) -> None:
    """Write down what is trained here, once data and network are found to fit."""
    if not folder.began:
        write_atomic(folder.recipe, (json.dumps(plain_values(recipe), indent=2) + "\n").encode())


def check_same_recipe(
    folder: RunFolder, recipe: Recipe, free: tuple[str, ...] = (), advice: str = "choose another --out"
) -> None:
    """Refuse to resume a run of another recipe.

    Args:
        folder: of the run.
        recipe: what is asked for.
        free: keys that may differ besides those that decide no result.
        advice: what to do if it is another one.

    Raises:
        ConfigError: something differs that decides the result; the message names the keys.
    """
    if wrong := different_keys(read_values(folder.recipe), plain_values(recipe), free):
        raise ConfigError(f"{folder.path} holds a run of another recipe: {listing(wrong)}; {advice}")
