"""The images of the demo: a balanced choice of every class, written as the image folder that its recipes read."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms import v2

from ...errors import ConfigError, listing
from ..data.labelled import LabelledImages
from ..progress import progress_bar
from ..recipe.schema import DataRecipe
from .found_images import FoundImages, digits, find_images
from .settings import DemoSettings

#: The choice and the split of images are the same for all trainings, whatever their seeds.
_CHOICE_SEED = 0

#: One colour of an image: mean, and mean of the squares.
_Moments = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ChosenImages:
    """What was written, and how many of it.

    Args:
        name: of the data set.
        classes: names of the classes.
        train_images: how many to train on.
        test_images: how many to test on.
        recipe: reads them.
    """

    name: str
    classes: tuple[str, ...]
    train_images: int
    test_images: int
    recipe: DataRecipe

    def __str__(self) -> str:
        height, width = self.recipe.crop
        return (
            f"{self.name}, {len(self.classes)} classes, {height}×{width}: {self.train_images:,} images for training, "
            f"{self.test_images:,} for testing"
        )


def write_images(settings: DemoSettings, folder: Path) -> ChosenImages:
    """Write an even choice of every class, of one size, into ``folder/train`` and ``folder/val``.

    Raises:
        ConfigError: the data is missing or not understood, an image cannot be read, a class or split is empty, there
            is a single class, or fewer images are asked for than there are classes.
    """
    source = digits() if settings.data is None else find_images(settings.data, settings.size)
    classes = len(source.classes)
    if classes < 2:
        raise ConfigError(f"{settings.data}: only one class, {source.classes[0]}; there must be two at least")
    if settings.train_images < classes:
        raise ConfigError(
            f"train-images must be at least the number of classes, {classes}; got {settings.train_images}"
        )
    generator = torch.Generator().manual_seed(_CHOICE_SEED)
    if source.test is None:
        test, share = source.train, 0.5 if settings.data is None else 0.2
        train_order, test_order = _split(source, share, generator)
    else:
        test = source.test
        train_order, test_order = (_even_order(part.labels, generator) for part in (source.train, test))
    train_order, test_order = train_order[: settings.train_images], test_order[: settings.test_images]
    with progress_bar(len(train_order) + len(test_order), "reading images") as bar:
        size = None if settings.data is None else settings.size
        moments, shape = _write(folder / "train", source.train, train_order, size, bar.update)
        _write(folder / "val", test, test_order, size, bar.update)
    mean, squares = (np.mean(values, axis=0) for values in zip(*moments, strict=True))
    std = np.sqrt((squares - mean**2).clip(1e-6))  # all images may be of one colour
    recipe = DataRecipe("image_folder", folder, classes=classes, crop=shape, mean=tuple(mean), std=tuple(std))
    return ChosenImages(source.name, source.classes, len(train_order), len(test_order), recipe)


def _write(
    folder: Path, images: LabelledImages, order: Sequence[int], size: int | None, advance: Callable[[], object]
) -> tuple[list[_Moments], tuple[int, int]]:
    """Write the images of ``order``; with a ``size``, scaled to it on the shorter side and cut square.

    Returns:
        The moments of every image, and the height and width of all.
    """
    square = v2.Compose([v2.Resize(size), v2.CenterCrop(size)]) if size else v2.Identity()
    moments = []
    for number, index in enumerate(order):
        image = square(images.read(index)).convert("RGB")
        # The names of classes may be none for folders.
        of_class = folder / f"{images.labels[index]:05}"
        of_class.mkdir(parents=True, exist_ok=True)
        image.save(of_class / f"{number:07}.png")
        values = np.asarray(image) / 255
        moments.append((values.mean((0, 1)), (values**2).mean((0, 1))))
        advance()
    return moments, (image.height, image.width)


def _even_order(labels: Sequence[int], generator: torch.Generator) -> list[int]:
    """A shuffled order of which every beginning holds as many images of each class as can be."""
    return [index for _, _, index in _ranked(labels, generator)]


def _split(source: FoundImages, share: float, generator: torch.Generator) -> tuple[list[int], list[int]]:
    """Even orders of two parts of a pool: one to train on, and ``share`` of every class to test on."""
    counts = collections.Counter(source.train.labels)
    if single := [source.classes[label] for label, count in counts.items() if count < 2]:
        raise ConfigError(f"a single image of {listing(single)}: a class needs two at least, one of them for testing")
    testing = {label: max(1, round(share * count)) for label, count in counts.items()}
    ranked = _ranked(source.train.labels, generator)
    return [i for rank, label, i in ranked if rank >= testing[label]], [
        i for rank, label, i in ranked if rank < testing[label]
    ]


def _ranked(labels: Sequence[int], generator: torch.Generator) -> list[tuple[int, int, int]]:
    """``(rank, label, index)`` of all images, the rank drawn within each class, in ascending order."""
    seen: collections.Counter[int] = collections.Counter()
    ranked = []
    for index in torch.randperm(len(labels), generator=generator).tolist():
        label = labels[index]
        ranked.append((seen[label], label, index))
        seen[label] += 1
    return sorted(ranked)
