"""COCO's layout: images in ``root/SPLIT``, what is in them in ``root/annotations/instances_SPLIT.json``."""

from __future__ import annotations

import functools

from ....errors import ConfigError, listing
from ...recipe.schema import DataRecipe
from ..coco_annotations import read_coco
from ..object_splits import ObjectSplit
from . import Source


def _read(masks: bool, recipe: DataRecipe, split: str) -> ObjectSplit:
    assert recipe.root is not None  # a recipe without one is refused
    file = recipe.root / "annotations" / f"instances_{split}.json"
    if not file.is_file():
        others = sorted(path.stem.removeprefix("instances_") for path in file.parent.glob("instances_*.json"))
        raise ConfigError(
            f"{file}: the annotation file cannot be read, there is none; there are the splits "
            f"{listing(others) or '(none)'}"
        )
    return read_coco(file, recipe.root / split, masks)


SOURCE = Source(
    {"boxes": functools.partial(_read, False), "objects": functools.partial(_read, True)},
    keys=("root",),
    layout="images and annotations in COCO's layout",
)
