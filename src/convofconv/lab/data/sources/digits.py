"""Handwritten digits with labels, built in."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...recipe.schema import DataRecipe
from ..digit_images import digit_images, split_digits
from ..splits import Sample, Split, check_split
from . import Source


def _read(recipe: DataRecipe, split: str) -> Split:
    check_split(recipe.name, split, ("train", "val"))
    images, labels = digit_images()
    order: list[int] = split_digits(split).tolist()
    return Split(tuple("0123456789"), order, functools.partial(_sample, images, labels.tolist()))


def _sample(images: NDArray[np.uint8], labels: Sequence[int], number: int) -> Sample:
    return Image.fromarray(images[number]).convert("RGB"), labels[number]


SOURCE = Source({"label": _read})
