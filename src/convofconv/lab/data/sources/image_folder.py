"""Images in a folder per class, in a folder per split."""

from __future__ import annotations

from ....errors import ConfigError, listing
from ...recipe.schema import DataRecipe
from ..class_folders import split_folder
from ..splits import Split
from ..visible import folders_in
from . import Source


def _read(recipe: DataRecipe, split: str) -> Split:
    assert recipe.root is not None  # a recipe without one is refused
    train, folder = (recipe.root / name for name in (recipe.train_split, split))
    for needed in (train, folder):
        if not needed.is_dir():
            raise ConfigError(
                f"{needed}: no such folder; data.root needs a folder per split, with one per class in it, and there "
                f"are {listing(folders_in(recipe.root)) or '(none)'}"
            )
    classes, images = split_folder(train, folder)
    return images.split(classes)


SOURCE = Source(
    {"label": _read},
    keys=("root",),
    layout="a folder per class, DIR/train/CLASS/ and DIR/val/CLASS/",
    any_size=True,
)
