"""Digit scenes for detection: the scenes that segmentation learns from, with the box and the mask of every digit."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from .datasets import SCENES, scene_reader
from .objects import Objects, ObjectSplit, Picture
from .scenes import CLASSES, SIDE, Scene


def read_digit_scenes(split: str) -> ObjectSplit:
    """A split of the digit scenes; boxes enclose exactly the pixels of a digit that can be seen.

    Raises:
        ConfigError: there is no such split.
    """
    draw = scene_reader(split)
    pictures = tuple(Picture(number, SIDE, SIDE) for number in range(SCENES[split]))
    categories = {label: label for label in range(1, len(CLASSES))}
    return ObjectSplit(CLASSES, categories, pictures, functools.partial(_read, draw))


def _read(draw: Callable[[int], Scene], picture: Picture) -> tuple[Image.Image, Objects]:
    scene = draw(picture.id)
    masks = np.asfortranarray(np.moveaxis(scene.masks, 0, -1).astype(np.uint8))
    count = len(scene.labels)
    objects = Objects(
        picture,
        scene.boxes.astype(np.float64),
        scene.labels,
        scene.masks.sum((1, 2)).astype(np.float64),
        np.zeros(count, dtype=bool),
        np.arange(1, count + 1),
        tuple(coco_mask.encode(masks)),
    )
    return Image.fromarray(scene.image), objects
