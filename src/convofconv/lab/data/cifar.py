"""CIFAR-10 and CIFAR-100, whole or a subset, in the folders of their python versions."""

from __future__ import annotations

import dataclasses
import functools
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from ...errors import ConfigError, listing
from ..recipe.schema import DataRecipe
from .download import fetch_unless_there
from .labelled import LabelledImages
from .splits import Split, check_split

#: torchvision's classes know the files. They insist on the originals' md5 sums, and subsets are welcome here.
CIFAR: dict[str, Any] = {"CIFAR-10": CIFAR10, "CIFAR-100": CIFAR100}


@dataclasses.dataclass(frozen=True)
class Cifar:
    """What a folder of CIFAR holds."""

    classes: tuple[str, ...]
    train: LabelledImages
    test: LabelledImages


def read_cifar(original: str, recipe: DataRecipe, split: str) -> Split:
    """A split of a recipe's data.

    Args:
        original: name in :data:`CIFAR`.
        recipe: of the data.
        split: ``"train"`` or ``"test"``.

    Raises:
        ConfigError: there is no such split, the folder is missing or broken, or cannot be fetched.
    """
    check_split(recipe.name, split, ("train", "test"))
    assert recipe.root is not None  # a recipe without one is refused
    root, dataset = recipe.root, CIFAR[original]
    there = functools.partial(cifar_folder, root, original)
    fetch_unless_there(recipe, there, functools.partial(dataset, root, download=True))
    found = find_cifar(root, original)
    if found is None:
        raise ConfigError(
            f"{root}: no {original} there; it needs the folder {dataset.base_folder} of the python version of "
            f"{original}, or set data.download to fetch it"
        )
    return (found.train if split == "train" else found.test).split(found.classes)


def find_cifar(path: Path, name: str) -> Cifar | None:
    """CIFAR-10 or CIFAR-100, whole or a subset, if ``path`` is its folder or holds it.

    Raises:
        ConfigError: a file of it is broken.
    """
    folder = cifar_folder(path, name)
    return _read_folder(name, folder) if folder else None


def cifar_folder(path: Path, name: str) -> Path | None:
    """The folder of CIFAR-10 or CIFAR-100, if ``path`` is it or holds it."""
    dataset = CIFAR[name]
    for folder in (path, path / dataset.base_folder):
        if (folder / dataset.meta["filename"]).is_file() and (folder / dataset.test_list[0][0]).is_file():
            return folder
    return None


def _read_folder(name: str, folder: Path) -> Cifar:
    dataset = CIFAR[name]
    files = [file for file, _ in dataset.train_list]
    found = [file for file in files if (folder / file).is_file()]
    if not found:
        raise ConfigError(f"{folder}: not a readable CIFAR folder (no {' or '.join(files)})")
    try:
        classes = tuple(map(str, _unpickle(folder / dataset.meta["filename"])[dataset.meta["key"]]))
        train, test = (_batches(folder, names) for names in (found, [dataset.test_list[0][0]]))
    except Exception as error:  # unpickling raises nearly anything
        raise ConfigError(f"{folder}: not a readable CIFAR folder ({type(error).__name__}: {error})") from error
    if len(found) < len(files):
        missing = [file for file in files if file not in found]
        warnings.warn(
            f"{folder}: {listing(missing)} missing, training has the {len(train.labels)} images of the others",
            stacklevel=3,
        )
    return Cifar(classes, train, test)


def _batches(folder: Path, names: Sequence[str]) -> LabelledImages:
    batches = [_unpickle(folder / name) for name in names]
    planes = np.concatenate([batch["data"] for batch in batches]).astype(np.uint8, copy=False)
    labels = [int(label) for one in batches for label in one["labels" if "labels" in one else "fine_labels"]]
    images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images and {len(labels)} labels in {', '.join(names)}")
    return LabelledImages(labels, functools.partial(_image, np.ascontiguousarray(images)))


def _unpickle(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's remarks on the years-old pickles are none of the user's business
        content: dict[str, Any] = _Arrays(stream, encoding="latin1").load()
    return content


def _image(images: NDArray[np.uint8], number: int) -> Image.Image:
    return Image.fromarray(images[number])


class _Arrays(pickle.Unpickler):
    """Reads what CIFAR's files hold, arrays and lists; a pickle may call any function, and nobody has checked these."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.partition(".")[0], name) not in _OF_ARRAYS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of an array")
        return super().find_class(module, name)


_OF_ARRAYS = {
    *(("numpy", name) for name in ("_reconstruct", "_frombuffer", "scalar", "ndarray", "dtype")),
    ("_codecs", "encode"),
}
