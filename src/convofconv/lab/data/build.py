"""From a recipe to data sets that loaders can read."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import to_image

from ..recipe import DataRecipe
from .augment import Transform, evaluation_transform, training_transform
from .datasets import Split, read_split
from .images import VOID
from .loading import seed_of

#: A normalised picture ``(3, h, w)``, and its label or its mask ``(h, w)`` of int64.
Item = tuple[Tensor, Any]


@dataclasses.dataclass(frozen=True)
class DataSets:
    """What a run trains on, chooses its best epoch by and is tested on; ``test`` may be ``val`` itself."""

    train: Dataset[Item]
    val: Dataset[Item]
    test: Dataset[Item]
    classes: tuple[str, ...]


class TrainingSet(Dataset[Item]):
    """Varied pictures by ``(epoch, index)``: the same key gives the same item in whatever process it is read."""

    def __init__(self, split: Split, transform: Transform, seed: int) -> None:
        self.split, self.transform, self.seed = split, transform, seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would also seed the GPUs, whose state is not put back here.
            torch.default_generator.manual_seed(seed_of(self.seed, epoch, index))
            return _item(self.split, index, self.transform)


class EvaluationSet(Dataset[Item]):
    """Pictures by index, always the same."""

    def __init__(self, split: Split, transform: Transform) -> None:
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Item:
        return _item(self.split, index, self.transform)


def build_data(recipe: DataRecipe, task: str, seed: int) -> DataSets:
    """Find the recipe's data and check all of it that can be checked without decoding every picture.

    Args:
        recipe: what is read and how it is varied.
        task: classification or segmentation.
        seed: of the variations.

    Raises:
        ConfigError: see :func:`~convofconv.lab.data.datasets.read_split`.
    """
    train = read_split(recipe, recipe.train_split)
    evaluate = evaluation_transform(recipe, task)
    val = EvaluationSet(read_split(recipe, recipe.val_split), evaluate)
    test = EvaluationSet(read_split(recipe, recipe.test_split), evaluate) if recipe.test_split else val
    return DataSets(TrainingSet(train, training_transform(recipe, task), seed), val, test, train.classes)


def collate_masks(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Stack pictures and masks of different sizes, padded on the right and at the bottom with 0 and void.

    Shape:
        - items: ``(3, h, w)`` and ``(h, w)`` each
        - returns: ``(N, 3, H, W)`` and ``(N, H, W)``, H and W the largest
    """
    height, width = (max(mask.shape[side] for _, mask in items) for side in (0, 1))

    def padded(values: Tensor, outside: int) -> Tensor:
        return F.pad(values, (0, width - values.shape[-1], 0, height - values.shape[-2]), value=outside)

    images = torch.stack([padded(image, 0) for image, _ in items])
    return images, torch.stack([padded(mask, VOID) for _, mask in items])


def _item(split: Split, index: int, transform: Transform) -> Item:
    image, target = split[index]
    return transform(to_image(image), tv_tensors.Mask(target) if isinstance(target, np.ndarray) else target)
