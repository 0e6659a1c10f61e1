"""Where the demo's images come from: the digits that are built in, or whatever a folder holds."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import ConfigError
from ..data.cifar import CIFAR, find_cifar
from ..data.class_folders import split_folder
from ..data.digit_images import digit_images
from ..data.labelled import LabelledImages
from ..data.visible import folders_in


@dataclasses.dataclass(frozen=True)
class FoundImages:
    """Where images come from; ``test`` is ``None`` where there is one pool that the user has not split."""

    name: str
    classes: tuple[str, ...]
    train: LabelledImages
    test: LabelledImages | None = None


def digits() -> FoundImages:
    """The digits of :func:`digit_images` as grey images."""
    images, labels = digit_images()
    pool = LabelledImages(labels.tolist(), functools.partial(_digit, images))
    return FoundImages("handwritten digits (MNIST)", tuple("0123456789"), pool)


def _digit(images: NDArray[np.uint8], number: int) -> Image.Image:
    return Image.fromarray(images[number])


def find_images(path: Path, size: int) -> FoundImages:
    """Find out what the folder ``path`` holds: CIFAR, ``train`` and ``val`` with a folder per class, or such folders.

    Args:
        path: the folder.
        size: the images will be scaled down to about this size, if they are larger.

    Raises:
        ConfigError: it is missing or holds none of these, or a class or split is empty.
    """
    if not path.is_dir():
        raise ConfigError(f"{path}: {'not a folder' if path.exists() else 'no such folder'}; give a folder of images")
    for name in CIFAR:
        if cifar := find_cifar(path, name):
            return FoundImages(name, cifar.classes, cifar.train, cifar.test)
    name = path.resolve().name
    if folders_in(path / "train"):
        if not (path / "val").is_dir():
            raise ConfigError(f"{path}: there is a folder train but no folder val beside it")
        (classes, train), (_, val) = (split_folder(path / "train", path / split, size) for split in ("train", "val"))
        return FoundImages(name, classes, train, val)
    if not folders_in(path):
        raise ConfigError(f"{path}: no class folders; put the images of each class into a folder of its own in there")
    return FoundImages(name, *split_folder(path, path, size))
