"""The data sets of the lab, split by split, before augmentation: pictures with a label or a mask, by number."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100, VOCSegmentation

from ...errors import ConfigError, listing
from ..recipe.schema import DataRecipe
from . import scenes
from .decoding import Mask, check_palettes, open_pair
from .loading import seed_of
from .pictures import Pictures, cifar_folder, digit_images, find_cifar, split_folder
from .visible import folders_in, is_hidden

ItemT = TypeVar("ItemT")

#: An RGB picture, and its label or its mask.
Sample = tuple[Image.Image, int | Mask]

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table",
    "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv/monitor",
)  # fmt: skip

#: Scenes in the splits of digit_scenes.
SCENES = {"train": 400, "val": 100}

_LOOKED_AT = 20  # masks of a split whose colours are compared
_DIGITS_SEED = 0  # the digits are split the same way whatever the seed of a training


@dataclasses.dataclass(frozen=True)
class Split:
    """Pictures with labels or masks.

    Args:
        classes: what the numbers mean.
        order: the numbers of the pictures that belong to the split.
        read: gives the picture of a number.
    """

    classes: tuple[str, ...]
    order: Sequence[int]
    read: Callable[[int], Sample]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Sample:
        return self.read(self.order[index])


def read_split(recipe: DataRecipe, split: str) -> Split:
    """Find a split of the recipe's data set, limited to the recipe's number of pictures.

    Raises:
        ConfigError: a folder or file is missing or broken, there is no such split, the split or one of its classes is
            empty, or the data has other than ``recipe.classes`` classes.
    """
    found = _READERS[recipe.name](recipe, split)
    if len(found.classes) != recipe.classes:
        raise ConfigError(
            f"data.classes must be {len(found.classes)}, the number of classes of {recipe.name} "
            f"({listing(found.classes)}); got {recipe.classes}"
        )
    if not found.order:
        raise ConfigError(f"{recipe.root}: no pictures in the split {split}")
    return dataclasses.replace(found, order=evenly(found.order, recipe.limit))


def evenly(items: Sequence[ItemT], limit: int) -> Sequence[ItemT]:
    """As many of the items as the limit says, spread over all of them; every one for 0."""
    count = len(items)
    return [items[number * count // limit] for number in range(limit)] if 0 < limit < count else items


def split_digits(split: str) -> NDArray[np.int64]:
    """Numbers of the embedded digits in a split: of every digit, 80 % train, the others val."""
    labels = digit_images()[1]
    rng = np.random.default_rng(_DIGITS_SEED)
    chosen = []
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(labels == digit))
        cut = len(members) // 5
        chosen.append(members[:cut] if split == "val" else members[cut:])
    return np.sort(np.concatenate(chosen))


def scene_reader(split: str) -> Callable[[int], scenes.Scene]:
    """What draws the digit scenes of a split by number, with the digits of that split alone.

    Raises:
        ConfigError: there is no such split.
    """
    _refuse_unknown("digit_scenes", split, tuple(SCENES))
    images, labels = digit_images()
    members = split_digits(split)
    return functools.partial(_draw_scene, images[members], labels[members], list(SCENES).index(split))


def _digits(recipe: DataRecipe, split: str) -> Split:
    _refuse_unknown(recipe.name, split, ("train", "val"))
    images, labels = digit_images()
    order: list[int] = split_digits(split).tolist()
    return Split(tuple("0123456789"), order, functools.partial(_read_array, images, labels.tolist()))


def _digit_scenes(recipe: DataRecipe, split: str) -> Split:
    read = functools.partial(_read_scene, scene_reader(split))
    return Split(scenes.CLASSES, range(SCENES[split]), read)


def _cifar(recipe: DataRecipe, split: str) -> Split:
    _refuse_unknown(recipe.name, split, ("train", "test"))
    root = _root(recipe)
    name, original = {"cifar10": ("CIFAR-10", CIFAR10), "cifar100": ("CIFAR-100", CIFAR100)}[recipe.name]
    there = functools.partial(cifar_folder, root, name)
    _fetch_unless_there(recipe, there, functools.partial(original, root, download=True))
    source = find_cifar(root, name)
    if source is None:
        raise ConfigError(
            f"{root}: no {name} there; it needs the folder {original.base_folder} of the python version of {name}, or "
            "set data.download to fetch it"
        )
    pictures = source.train if split == "train" else source.test
    assert pictures is not None
    return Split(source.classes, range(len(pictures.labels)), functools.partial(_read_labelled, pictures))


def _image_folder(recipe: DataRecipe, split: str) -> Split:
    root = _root(recipe)
    train, folder = (root / name for name in (recipe.train_split, split))
    for needed in (train, folder):
        if not needed.is_dir():
            raise ConfigError(
                f"{needed}: no such folder; data.root needs a folder per split, with one per class in it, and there "
                f"are {listing(folders_in(root)) or '(none)'}"
            )
    classes, pictures = split_folder(train, folder)
    return Split(classes, range(len(pictures.labels)), functools.partial(_read_labelled, pictures))


def _voc(recipe: DataRecipe, split: str) -> Split:
    root = _root(recipe)
    there = functools.partial(_voc_folder, root, recipe.year)
    _fetch_unless_there(recipe, there, functools.partial(VOCSegmentation, root, recipe.year, "train", download=True))
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
    names = [name for name in _lines(listed) if not is_hidden(Path(name).name)]
    pairs = [(folder / "JPEGImages" / f"{name}.jpg", _voc_mask(folder, name)) for name in names]
    if missing := [path for pair in pairs for path in pair if not path.is_file()]:
        raise ConfigError(f"{listed}: files of this split are missing, {listing(missing, 3)}")
    check_palettes(evenly([mask for _, mask in pairs], _LOOKED_AT))
    read = functools.partial(_read_masked, pairs, recipe.classes)
    return Split(_voc_classes(folder, recipe.classes), range(len(pairs)), read)


def _voc_mask(folder: Path, name: str) -> Path:
    """VOC's own mask, or one of the augmented set, which is kept in a folder of its own."""
    own, augmented = (folder / place / f"{name}.png" for place in ("SegmentationClass", "SegmentationClassAug"))
    return augmented if augmented.is_file() and not own.is_file() else own


def _voc_folder(root: Path, year: str) -> Path | None:
    """The folder with ImageSets: root may hold VOCdevkit (2011's original has a folder more), or be a part of it."""
    inside = ("VOCdevkit/VOC{}", "TrainVal/VOCdevkit/VOC{}", "VOC{}")
    folders = [root / path.format(year) for path in inside] + ([root] if root.name == f"VOC{year}" else [])
    return next((folder for folder in folders if folder.is_dir()), None)


def _voc_classes(folder: Path, classes: int) -> tuple[str, ...]:
    """Names from a classes.txt with one a line, in the folder or above; else VOC's own, or numbers.

    Without the file nothing says how many classes there are; a mask with a higher number is refused when it is read.
    """
    for place in (folder, folder.parent, folder.parent.parent):
        if (file := place / "classes.txt").is_file():
            return tuple(_lines(file))
    return VOC_CLASSES if classes == len(VOC_CLASSES) else tuple(f"class {number}" for number in range(classes))


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _root(recipe: DataRecipe) -> Path:
    assert recipe.root is not None  # a recipe without one is refused
    return recipe.root


def _fetch_unless_there(recipe: DataRecipe, there: Callable[[], object], fetch: Callable[[], object]) -> None:
    """Fetch data if it may be and is missing: one of several processes does, the others wait for it."""
    if not recipe.download:
        return
    root = _root(recipe)
    refusal = f"data.download: {recipe.name} could not be fetched into {root}"
    lock = FileLock(root / ".download.lock")
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        if there():  # in a folder that is only to be read
            return
        raise ConfigError(f"{refusal} ({error})") from error
    try:
        if not there():
            fetch()
    except Exception as error:  # of the network, the disk, or a wrong checksum
        raise ConfigError(f"{refusal} ({error})") from error
    finally:
        lock.release()


def _refuse_unknown(name: str, split: str, known: Sequence[str]) -> None:
    if split not in known:
        raise ConfigError(f"{name} has no split {split}; data.*_split can be {' or '.join(known)}")


# Readers of one sample are functions of the module, for lambdas cannot be sent to worker processes.


def _read_array(images: NDArray[np.uint8], labels: Sequence[int], number: int) -> Sample:
    return Image.fromarray(images[number]).convert("RGB"), labels[number]


def _read_labelled(pictures: Pictures, number: int) -> Sample:
    return pictures.read(number), pictures.labels[number]


def _read_masked(pairs: Sequence[tuple[Path, Path]], classes: int, number: int) -> Sample:
    return open_pair(*pairs[number], classes)


def _draw_scene(glyphs: NDArray[np.uint8], digits: NDArray[np.int64], stream: int, number: int) -> scenes.Scene:
    return scenes.compose_scene(glyphs, digits, seed_of(stream, number))


def _read_scene(draw: Callable[[int], scenes.Scene], number: int) -> Sample:
    scene = draw(number)
    return Image.fromarray(scene.image), scene.semantic()


_READERS: dict[str, Callable[[DataRecipe, str], Split]] = {
    "digits": _digits,
    "digit_scenes": _digit_scenes,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "image_folder": _image_folder,
    "voc": _voc,
}
