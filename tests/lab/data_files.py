"""Small data sets written to disk for the tests of the lab's data."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from convofconv.lab.data import splits
from convofconv.lab.found_by_name import find_task

if TYPE_CHECKING:
    from convofconv.lab.data.build_data import DataSets, EvaluationData
    from convofconv.lab.recipe.schema import DataRecipe

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def read_split(recipe: DataRecipe, split: str) -> splits.Split:
    """A split with masks of the data sources that give them, with labels of others."""
    return splits.read_split(recipe, split, "mask" if recipe.name in ("voc", "digit_scenes") else "label")


def build_data(recipe: DataRecipe, task: str, seed: int) -> DataSets:
    """The data sets of a task."""
    return find_task(task).build_data(recipe, seed)


def build_evaluation(recipe: DataRecipe, task: str, split: str) -> EvaluationData:
    """One split of them."""
    return find_task(task).build_evaluation(recipe, split)


def write_image_folder(root: Path, splits: dict[str, dict[str, int]]) -> Path:
    """Grey images, ``splits[split][class]`` of them; every file of another size."""
    for split, classes in splits.items():
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("L", (20 + i, 30 - i), 10 * i).save(root / split / name / f"{i}.png")
    return root


def write_voc(root: Path, splits: dict[str, Sequence[str]], year: str = "2012", highest: int = 20) -> Path:
    """Images of 20×12 whose masks count up from 0 to ``highest``, with a last column of void."""
    folder = root / "VOCdevkit" / f"VOC{year}"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    palette = [(37 * i) % 256 for i in range(768)]
    for split, names in splits.items():
        (folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            mask = (np.arange(12 * 20).reshape(12, 20) % (highest + 1)).astype(np.uint8)
            mask[:, -1] = 255
            image = Image.fromarray(mask)
            image.putpalette(palette)
            image.save(folder / "SegmentationClass" / f"{name}.png")
            Image.new("RGB", (20, 12), (200, 100, 0)).save(folder / "JPEGImages" / f"{name}.jpg")
    return root


def write_cifar10(root: Path, names: Sequence[str] = ("cat", "dog", "emu", "fox")) -> Path:
    """20 images for training in five files, 8 for testing; the first channel of an image is its number."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    training = [(f"data_batch_{number + 1}", 4 * number, 4) for number in range(5)]
    for file, first, count in (*training, ("test_batch", 100, 8)):
        data = np.zeros((count, 3, 1024), np.uint8)
        data[:, 0] = np.arange(first, first + count)[:, None]
        entry = {"data": data.reshape(count, 3072), "labels": [i % len(names) for i in range(first, first + count)]}
        (folder / file).write_bytes(pickle.dumps(entry))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(names)}))
    return root
