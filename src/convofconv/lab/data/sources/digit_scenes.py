"""Scenes composed of handwritten digits, built in, with the class of every pixel or the boxes and masks of every digit.

The splits have no digit in common.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from ...recipe.schema import DataRecipe
from .. import scenes
from ..digit_images import digit_images, split_digits
from ..loading import seed_of
from ..object_splits import ObjectSplit
from ..objects import ImageEntry, Objects
from ..splits import Sample, Split, check_split
from . import Source

#: Scenes in every split.
_SCENES = {"train": 400, "val": 100}


def _read_masks(recipe: DataRecipe, split: str) -> Split:
    return Split(scenes.CLASSES, range(_SCENES[split]), functools.partial(_masked, _drawing(recipe, split)))


def _read_objects(recipe: DataRecipe, split: str) -> ObjectSplit:
    """Boxes enclose exactly the pixels of a digit that can be seen."""
    draw = _drawing(recipe, split)
    images = tuple(ImageEntry(number, scenes.SIDE, scenes.SIDE) for number in range(_SCENES[split]))
    categories = {label: label for label in range(1, len(scenes.CLASSES))}
    return ObjectSplit(scenes.CLASSES, categories, images, functools.partial(_with_objects, draw))


def _drawing(recipe: DataRecipe, split: str) -> Callable[[int], scenes.Scene]:
    """What draws the scenes of a split by number, with the digits of that split alone."""
    check_split(recipe.name, split, tuple(_SCENES))
    images, labels = digit_images()
    members = split_digits(split)
    return functools.partial(_draw, images[members], labels[members], list(_SCENES).index(split))


def _draw(glyphs: NDArray[np.uint8], digits: NDArray[np.int64], stream: int, number: int) -> scenes.Scene:
    return scenes.compose_scene(glyphs, digits, seed_of(stream, number))


def _masked(draw: Callable[[int], scenes.Scene], number: int) -> Sample:
    scene = draw(number)
    return Image.fromarray(scene.image), scene.semantic()


def _with_objects(draw: Callable[[int], scenes.Scene], image: ImageEntry) -> tuple[Image.Image, Objects]:
    scene = draw(image.id)
    masks = np.asfortranarray(np.moveaxis(scene.masks, 0, -1).astype(np.uint8))
    count = len(scene.labels)
    objects = Objects(
        image,
        scene.boxes.astype(np.float64),
        scene.labels,
        scene.masks.sum((1, 2)).astype(np.float64),
        np.zeros(count, dtype=bool),
        np.arange(1, count + 1),
        tuple(coco_mask.encode(masks)),
    )
    return Image.fromarray(scene.image), objects


SOURCE = Source({"mask": _read_masks, "boxes": _read_objects, "objects": _read_objects})
