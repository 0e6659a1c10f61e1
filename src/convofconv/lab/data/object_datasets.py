"""The data sets of detection, split by split: which a recipe names, and whether they can be trained and measured on."""

from __future__ import annotations

import dataclasses

from ...errors import ConfigError, listing
from ..recipe.schema import DataRecipe
from .coco import read_coco
from .datasets import evenly
from .objects import ObjectSplit
from .scene_objects import read_digit_scenes


def read_objects(recipe: DataRecipe, split: str, masks: bool) -> ObjectSplit:
    """Find a split of the recipe's data set, limited to the recipe's number of pictures.

    COCO's layout: pictures in ``root/SPLIT``, what is in them in ``root/annotations/instances_SPLIT.json``.

    Args:
        recipe: of the data.
        split: name of the split.
        masks: read masks; without, the data needs none.

    Raises:
        ConfigError: see :func:`~convofconv.lab.data.coco.read_coco`; or there is no such split, or the data has other
            than ``recipe.classes`` classes.
    """
    if recipe.name == "coco":
        assert recipe.root is not None  # a recipe without one is refused
        file = recipe.root / "annotations" / f"instances_{split}.json"
        if not file.is_file():
            others = sorted(path.stem.removeprefix("instances_") for path in file.parent.glob("instances_*.json"))
            raise ConfigError(
                f"{file}: the annotation file cannot be read, there is none; there are the splits "
                f"{listing(others) or '(none)'}"
            )
        found = read_coco(file, recipe.root / split, masks)
    else:
        found = read_digit_scenes(split)
    if len(found.classes) != recipe.classes:
        raise ConfigError(
            f"data.classes must be {len(found.classes)}, the background included, for {split} of {recipe.name} "
            f"({listing(found.classes)}); got {recipe.classes}"
        )
    return dataclasses.replace(found, pictures=evenly(found.pictures, recipe.limit))


def with_objects(split: ObjectSplit, name: str) -> ObjectSplit:
    """Only the pictures with something to learn from.

    A picture without would drown the others: RetinaNet's loss is a mean over every picture's own objects.

    Raises:
        ConfigError: there is none.

    Source:
        filter_empty_gt of mmdetection; torchvision's detection references leave them out too
    """
    pictures = tuple(picture for picture in split.pictures if picture.id not in split.empty)
    if not pictures:
        raise ConfigError(f"the {len(split)} pictures of the split {name} have no objects to learn from")
    return dataclasses.replace(split, pictures=pictures)


def check_has_objects(split: ObjectSplit, name: str) -> None:
    """Refuse a split in which there is nothing to find; reads pictures up to the first with an object.

    Raises:
        ConfigError: it has crowds at most.
    """
    if all(split[number][1].crowd.all() for number in range(len(split))):
        raise ConfigError(f"the {len(split)} pictures of the split {name} have no objects but crowds at most")
