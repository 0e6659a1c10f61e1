"""Digit scenes for detection: the scenes that segmentation learns from, with the box and the mask of every digit."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from ...errors import ConfigError
from .datasets import SCENES, split_digits
from .loading import seed_of
from .objects import Objects, ObjectSplit, Picture
from .pictures import digit_images
from .scenes import CLASSES, SIDE, compose_scene


def read_digit_scenes(split: str) -> ObjectSplit:
    """A split of the digit scenes; boxes enclose exactly the pixels of a digit that can be seen.

    Raises:
        ConfigError: there is no such split.
    """
    if split not in SCENES:
        raise ConfigError(f"digit_scenes has no split {split}; data.*_split can be {' or '.join(SCENES)}")
    images, digits = digit_images()
    members = split_digits(split)
    pictures = tuple(Picture(number, SIDE, SIDE) for number in range(SCENES[split]))
    read = functools.partial(_read, images[members], digits[members], list(SCENES).index(split))
    return ObjectSplit(CLASSES, {label: label for label in range(1, len(CLASSES))}, pictures, read)


def _read(
    glyphs: NDArray[np.uint8], digits: NDArray[np.int64], stream: int, picture: Picture
) -> tuple[Image.Image, Objects]:
    scene = compose_scene(glyphs, digits, seed_of(stream, picture.id))
    masks = np.asfortranarray(np.moveaxis(scene.masks, 0, -1).astype(np.uint8))
    count = len(scene.labels)
    objects = Objects(
        picture,
        scene.boxes,
        scene.labels,
        scene.masks.sum((1, 2)).astype(np.float32),
        np.zeros(count, dtype=bool),
        np.arange(1, count + 1),
        tuple(coco_mask.encode(masks)),
    )
    return Image.fromarray(scene.image), objects
