"""Labelled images in a folder per class, and what is said of those that are left out.

Nothing is decoded here before it is asked for, so a large folder costs no more than its listing.
"""

from __future__ import annotations

import mimetypes
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from ...errors import ConfigError, listing
from .decoding import read_lines
from .labelled import LabelledImages
from .visible import files_below, folders_in, is_hidden

#: Where Tiny-ImageNet gives the classes of its validation images.
_ANNOTATIONS = "val_annotations.txt"


def split_folder(train: Path, split: Path, size: int | None = None) -> tuple[tuple[str, ...], LabelledImages]:
    """The classes, folders in ``train``, and the images in the folders of the same names in ``split``.

    A class without a folder in a split other than the training split is fine, it is only never tested. A split may also
    be a folder ``images`` with the class of each image in ``val_annotations.txt``, as Tiny-ImageNet has it.

    Raises:
        ConfigError: a class is empty in ``train`` or unknown there, or the split is empty.
    """
    classes = folders_in(train)
    if not classes:
        raise ConfigError(f"{train}: no class folders; it needs a folder per class with images in it")
    if (split / _ANNOTATIONS).is_file():
        return tuple(classes), _annotated(split, classes, size)
    if unknown := [name for name in folders_in(split) if name not in classes]:
        raise ConfigError(
            f"{split}: {listing(unknown)} not among the classes in {train}; every class needs a folder in both"
        )
    files = _class_folders(split, classes)
    images = _images(files, classes, size)
    if split == train:
        _refuse_empty(train, classes, images)
    if not images.labels:
        raise ConfigError(f"{split}: no images; it needs a folder per class with images in it")
    _report_left_out(split, files)
    return tuple(classes), images


def _annotated(split: Path, classes: Sequence[str], size: int | None) -> LabelledImages:
    """Images whose classes are in a file: a line each with its name, its class and a box."""
    listed = split / _ANNOTATIONS
    rows = [line.split("\t") for line in read_lines(listed)]
    if short := [row[0] for row in rows if len(row) < 2]:
        raise ConfigError(f"{listed}: no class in the line of {listing(short)}; it needs name and class, with tabs")
    if unknown := [row[1] for row in rows if row[1] not in classes]:
        raise ConfigError(f"{listed}: {listing(dict.fromkeys(unknown))} not among the classes, the folders beside it")
    files = [split / "images" / row[0] for row in rows]
    if missing := [file for file in files if not file.is_file()]:
        raise ConfigError(f"{listed}: images are missing, {listing(missing, 3)}")
    if not files:
        raise ConfigError(f"{listed}: names no images")
    return LabelledImages.in_files(files, [classes.index(row[1]) for row in rows], size)


def _class_folders(path: Path, classes: Sequence[str]) -> dict[str, list[str]]:
    """The files of every class that has a folder in ``path``."""
    return {name: files_below(path / name, follow_links=True) for name in classes if (path / name).is_dir()}


def _images(files: Mapping[str, Sequence[str]], classes: Sequence[str], size: int | None) -> LabelledImages:
    """Those of the files that are images."""
    labels, images = [], []
    for label, name in enumerate(classes):
        own = list(filter(_is_read, files.get(name, ())))
        labels += [label] * len(own)
        images += own
    return LabelledImages.in_files(images, labels, size)


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


def _refuse_empty(path: Path, classes: Sequence[str], images: LabelledImages) -> None:
    found = set(images.labels)
    if empty := [name for i, name in enumerate(classes) if i not in found]:
        raise ConfigError(
            f"{path}: no images in {listing(empty)}; fill or remove each such folder "
            f"(images end in {', '.join(IMG_EXTENSIONS)})"
        )
