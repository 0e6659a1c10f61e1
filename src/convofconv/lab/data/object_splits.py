"""Images with objects, split by split, and whether there is something to learn or to find in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from PIL import Image

from ...errors import ConfigError, listing
from ..recipe.schema import DataRecipe, find_source
from .objects import ImageEntry, Objects, Target, evaluation_target, training_target
from .splits import evenly


@dataclasses.dataclass(frozen=True)
class ObjectSplit:
    """Images and their objects, by number.

    Args:
        classes: what the labels mean, the background first.
        categories: what the data set itself calls every label, the ids of a COCO file for example.
        images: those that belong to the split.
        read: decodes an image and gives its objects.
        empty: ids of images in which there is nothing to learn from.
    """

    classes: tuple[str, ...]
    categories: Mapping[int, int]
    images: Sequence[ImageEntry]
    read: Callable[[ImageEntry], tuple[Image.Image, Objects]]
    empty: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, Objects]:
        return self.read(self.images[index])


@dataclasses.dataclass(frozen=True)
class TargetSplit:
    """A split as detectors take it: images and targets, to train with or to evaluate by."""

    split: ObjectSplit
    training: bool

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Image.Image, Target]:
        image, objects = self.split[index]
        return image, training_target(objects) if self.training else evaluation_target(objects)


def read_objects(recipe: DataRecipe, split: str, target: str) -> ObjectSplit:
    """Find a split of the recipe's data set, limited to the recipe's number of images.

    Args:
        recipe: of the data.
        split: name of the split.
        target: what belongs to an image, ``"boxes"`` or ``"objects"``, which also have masks.

    Raises:
        ConfigError: a folder or file is missing or broken, there is no such split, or the data has other than
            ``recipe.classes`` classes.
    """
    found: ObjectSplit = find_source(recipe.name).reads[target](recipe, split)
    if len(found.classes) != recipe.classes:
        raise ConfigError(
            f"data.classes must be {len(found.classes)}, the background included, for {split} of {recipe.name} "
            f"({listing(found.classes)}); got {recipe.classes}"
        )
    return dataclasses.replace(found, images=evenly(found.images, recipe.limit))


def with_objects(split: ObjectSplit, name: str) -> ObjectSplit:
    """Only the images with something to learn from.

    An image without would drown the others: RetinaNet's loss is a mean over every image's own objects.

    Raises:
        ConfigError: there is none.

    Source:
        filter_empty_gt of mmdetection; torchvision's detection references leave them out too
    """
    images = tuple(image for image in split.images if image.id not in split.empty)
    if not images:
        raise ConfigError(f"the {len(split)} images of the split {name} have no objects to learn from")
    return dataclasses.replace(split, images=images)


def check_has_objects(split: ObjectSplit, name: str) -> None:
    """Refuse a split in which there is nothing to find; reads images up to the first with an object.

    Raises:
        ConfigError: it has crowds at most.
    """
    if all(split[number][1].crowd.all() for number in range(len(split))):
        raise ConfigError(f"the {len(split)} images of the split {name} have no objects but crowds at most")
