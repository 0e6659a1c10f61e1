"""VOC's layout: images, masks, and lists of the names in every split."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from torchvision.datasets import VOCSegmentation

from ....errors import ConfigError, listing
from ...recipe.schema import DataRecipe
from ..decoding import check_palettes, open_pair, read_lines
from ..download import fetch_unless_there
from ..splits import Sample, Split, evenly
from ..visible import is_hidden
from . import Source

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table",
    "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv/monitor",
)  # fmt: skip

_LOOKED_AT = 20  # masks of a split whose colours are compared


def _read(recipe: DataRecipe, split: str) -> Split:
    assert recipe.root is not None  # a recipe without one is refused
    root = recipe.root
    there = functools.partial(_find_folder, root, recipe.year)
    fetch_unless_there(recipe, there, functools.partial(VOCSegmentation, root, recipe.year, "train", download=True))
    folder = there()
    if folder is None:
        raise ConfigError(
            f"{root}: no folder VOCdevkit/VOC{recipe.year} in it; check data.root and data.year, or set data.download"
        )
    # torchvision's class would read these lists too, but refuses any split that is not in the original download.
    listed = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not listed.is_file():
        others = sorted(path.stem for path in listed.parent.glob("*.txt") if not is_hidden(path.name))
        raise ConfigError(f"{listed}: no such file; there are the splits {listing(others) or '(none)'}")
    names = [name for name in read_lines(listed) if not is_hidden(Path(name).name)]
    pairs = [(folder / "JPEGImages" / f"{name}.jpg", _mask_file(folder, name)) for name in names]
    if missing := [path for pair in pairs for path in pair if not path.is_file()]:
        raise ConfigError(f"{listed}: files of this split are missing, {listing(missing, 3)}")
    check_palettes(evenly([mask for _, mask in pairs], _LOOKED_AT))
    return Split(_classes(folder, recipe.classes), range(len(pairs)), functools.partial(_sample, pairs, recipe.classes))


def _find_folder(root: Path, year: str) -> Path | None:
    """The folder with ImageSets: root may hold VOCdevkit (2011's original has a folder more), or be a part of it."""
    inside = ("VOCdevkit/VOC{}", "TrainVal/VOCdevkit/VOC{}", "VOC{}")
    folders = [root / path.format(year) for path in inside] + ([root] if root.name == f"VOC{year}" else [])
    return next((folder for folder in folders if folder.is_dir()), None)


def _mask_file(folder: Path, name: str) -> Path:
    """VOC's own mask, or one of the augmented set, which is kept in a folder of its own."""
    own, augmented = (folder / place / f"{name}.png" for place in ("SegmentationClass", "SegmentationClassAug"))
    return augmented if augmented.is_file() and not own.is_file() else own


def _classes(folder: Path, classes: int) -> tuple[str, ...]:
    """Names from a classes.txt with one a line, in the folder or above; else VOC's own, or numbers.

    Without the file nothing says how many classes there are; a mask with a higher number is refused when it is read.
    """
    for place in (folder, folder.parent, folder.parent.parent):
        if (file := place / "classes.txt").is_file():
            return tuple(read_lines(file))
    return CLASSES if classes == len(CLASSES) else tuple(f"class {number}" for number in range(classes))


def _sample(pairs: Sequence[tuple[Path, Path]], classes: int, number: int) -> Sample:
    return open_pair(*pairs[number], classes)


SOURCE = Source({"mask": _read}, keys=("root", "download", "year"), layout="images and masks in VOC's layout")
