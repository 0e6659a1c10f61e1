"""Images whose labels are in a CSV file per split: a line of ``root/SPLIT.csv`` has the path of a file and a class."""

from __future__ import annotations

import csv

from convofconv import ConfigError
from convofconv.lab.data.decoding import read_lines
from convofconv.lab.data.labelled import LabelledImages
from convofconv.lab.data.sources import Source
from convofconv.lab.data.splits import Split
from convofconv.lab.recipe.schema import DataRecipe


def _read(recipe: DataRecipe, split: str) -> Split:
    assert recipe.root is not None  # a recipe without one is refused
    files, names = zip(*_rows(recipe, split), strict=True)
    classes = sorted({name for _, name in _rows(recipe, recipe.train_split)})
    images = LabelledImages.in_files([recipe.root / file for file in files], list(map(classes.index, names)))
    return images.split(tuple(classes))


def _rows(recipe: DataRecipe, split: str) -> list[list[str]]:
    file = recipe.root / f"{split}.csv"
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; a split is a CSV file with the path of an image and a class a line")
    return list(csv.reader(read_lines(file)))


SOURCE = Source({"label": _read}, keys=("root",), layout="images and a CSV file per split", any_size=True)
