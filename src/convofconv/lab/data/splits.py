"""A split of a data set before augmentation: images with a label or a mask, by number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

from ...errors import ConfigError, listing
from ..recipe.schema import DataRecipe, find_source
from .decoding import VOID, Mask

ItemT = TypeVar("ItemT")

#: An RGB image, and its label or its mask.
Sample = tuple[Image.Image, int | Mask]


@dataclasses.dataclass(frozen=True)
class Split:
    """Images with labels or masks.

    Args:
        classes: what the numbers mean.
        order: the numbers of the images that belong to the split.
        read: gives the image of a number; no lambda, which cannot be sent to worker processes.
    """

    classes: tuple[str, ...]
    order: Sequence[int]
    read: Callable[[int], Sample]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Sample:
        return self.read(self.order[index])


def read_split(recipe: DataRecipe, split: str, target: str) -> Split:
    """Find a split of the recipe's data set, limited to the recipe's number of images.

    Args:
        recipe: of the data.
        split: name of the split.
        target: what belongs to an image, ``"label"`` or ``"mask"``.

    Raises:
        ConfigError: a folder or file is missing or broken, there is no such split, the split or one of its classes is
            empty, or the data has other than ``recipe.classes`` classes.
    """
    found: Split = find_source(recipe.name).reads[target](recipe, split)
    if len(found.classes) != recipe.classes:
        raise ConfigError(
            f"data.classes must be {len(found.classes)}, the number of classes of {recipe.name} "
            f"({listing(found.classes)}); got {recipe.classes}"
        )
    if not found.order:
        raise ConfigError(f"{recipe.root}: no images in the split {split}")
    return dataclasses.replace(found, order=evenly(found.order, recipe.limit))


def evenly(items: Sequence[ItemT], limit: int) -> Sequence[ItemT]:
    """As many of the items as the limit says, spread over all of them; every one for 0."""
    count = len(items)
    return [items[number * count // limit] for number in range(limit)] if 0 < limit < count else items


def check_split(name: str, split: str, known: Sequence[str]) -> None:
    """Refuse a split that the data set of a name does not have.

    Raises:
        ConfigError: the message names those that it has.
    """
    if split not in known:
        raise ConfigError(f"{name} has no split {split}; data.*_split can be {' or '.join(known)}")


def check_masks_show_objects(train: Split) -> None:
    """Refuse masks of class 0 and void alone: a network would learn nothing else, and be right everywhere.

    So it is where 255 stands for the object. Objects may be rare, so all masks are looked at, up to the first with one.

    Raises:
        ConfigError: no mask has an object.
    """
    void = False
    for index in np.random.default_rng(0).permutation(len(train)).tolist():
        try:
            mask = np.asarray(train[index][1])
        except ConfigError:  # is raised again when training reads it
            return
        if ((mask > 0) & (mask < VOID)).any():
            return
        void |= bool((mask == VOID).any())
    last = len(train.classes) - 1
    wanted = f"1, {train.classes[1]}" if last == 1 else f"1 to {last}"
    reason = (
        f", and some have pixels of {VOID}, which are void and not learned from; if those are the object, write its "
        "class in their place"
    )
    raise ConfigError(
        f"data.root: of {len(train)} training masks none has a pixel of class {wanted}"
        f"{reason if void else '; there is nothing to learn'}"
    )
