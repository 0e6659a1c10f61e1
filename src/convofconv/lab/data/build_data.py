"""From a recipe to data sets that loaders can read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import to_image

from ...errors import ConfigError, listing
from ..recipe.schema import DataRecipe
from . import object_transforms
from .loading import Collate, seed_of
from .object_splits import ObjectSplit, TargetSplit, check_has_objects, read_objects, with_objects
from .objects import collate_objects, orientations
from .splits import Split, read_split
from .transforms import Transform, evaluation_transform, training_transform

#: An image ``(3, h, w)``, and its label, its mask ``(h, w)`` of int64, or its objects; normalised except for detectors.
Item = tuple[Tensor, Any]

#: Height and width of images.
Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class DataSets:
    """What a run trains on, chooses its best epoch by and is tested on; ``test`` may be ``val`` itself.

    Args:
        train: by epoch and index.
        val: by index.
        test: by index.
        classes: names.
        collate: makes a batch.
        groups: a number per training image; those of a batch should be of one group.
        categories: the data set's own number of every class, where it has numbers; ``None`` for the background.
        trained_size: of training images, which the network must take; ``None`` where sizes differ.
        evaluated_sizes: of images to evaluate, where the network may not take them.
    """

    train: TrainingSet
    val: EvaluationSet
    test: EvaluationSet
    classes: tuple[str, ...]
    collate: Collate = default_collate
    groups: Sequence[int] | None = None
    categories: tuple[int | None, ...] = ()
    trained_size: Size | None = None
    evaluated_sizes: Sequence[Size] = ()


@dataclasses.dataclass(frozen=True)
class EvaluationData:
    """What a finished run is evaluated on.

    Args:
        images: by index.
        classes: names.
        collate: makes a batch.
        sizes: of images, where the network may not take them.
    """

    images: EvaluationSet
    classes: tuple[str, ...]
    collate: Collate = default_collate
    sizes: Sequence[Size] = ()


class TrainingSet(Dataset[Item]):
    """Varied images by ``(epoch, index)``: the same key gives the same item in whatever process it is read."""

    def __init__(self, split: Split | TargetSplit, transform: Transform, seed: int) -> None:
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
    """Images by index, always the same."""

    def __init__(self, split: Split | TargetSplit, transform: Transform) -> None:
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Item:
        return _item(self.split, index, self.transform)


def image_sets(
    recipe: DataRecipe,
    target: str,
    seed: int,
    outside: int | Sequence[int] = 0,
    check: Callable[[Split], None] = lambda train: None,
) -> DataSets:
    """The data of a task whose images have something of their own each, a label or a mask for example.

    Args:
        recipe: what is read, how it is varied, and how it is prepared for evaluation.
        target: what belongs to an image.
        seed: of the variations.
        outside: colour of what a training crop has outside its image.
        check: raises where nothing can be learnt from the training split, before the others are read.

    Raises:
        ConfigError: see :func:`~convofconv.lab.data.splits.read_split`.
    """
    train = read_split(recipe, recipe.train_split, target)
    check(train)
    val = read_split(recipe, recipe.val_split, target)
    test = read_split(recipe, recipe.test_split, target) if recipe.test_split else None
    varied, evaluate = training_transform(recipe, outside), evaluation_transform(recipe)
    evaluated = EvaluationSet(val, evaluate)
    tested = EvaluationSet(test, evaluate) if test else evaluated
    return DataSets(TrainingSet(train, varied, seed), evaluated, tested, train.classes, trained_size=recipe.crop)


def image_evaluation(recipe: DataRecipe, target: str, split: str) -> EvaluationData:
    """One split of such data; of ``image_folder``, the folders of the training split still name the classes."""
    found = read_split(recipe, split, target)
    return EvaluationData(EvaluationSet(found, evaluation_transform(recipe)), found.classes)


def object_sets(recipe: DataRecipe, target: str, seed: int) -> DataSets:
    """The data of a task whose images have objects.

    Args:
        recipe: what is read and how it is varied.
        target: ``boxes``, or ``objects`` with masks.
        seed: of the variations.

    Raises:
        ConfigError: see :func:`~convofconv.lab.data.object_splits.read_objects`; or splits have different classes.
    """
    train = with_objects(read_objects(recipe, recipe.train_split, target), recipe.train_split)
    shorter = recipe.shorter or (recipe.eval_resize,)
    vary = object_transforms.training_transform(shorter, recipe.longest or None, recipe.flip, recipe.mask_resize)

    def evaluation(name: str) -> EvaluationSet:
        split = read_objects(recipe, name, target)
        if split.classes != train.classes:
            raise ConfigError(
                f"data.root: {name} has the classes {listing(split.classes)}, {recipe.train_split} has "
                f"{listing(train.classes)}; they must be the same"
            )
        return _evaluated_objects(split, name)

    val = evaluation(recipe.val_split)
    return DataSets(
        TrainingSet(TargetSplit(train, training=True), vary, seed),
        val,
        evaluation(recipe.test_split) if recipe.test_split else val,
        train.classes,
        collate_objects,
        orientations(train.images),
        tuple(train.categories.get(label) for label in range(len(train.classes))),
    )


def object_evaluation(recipe: DataRecipe, target: str, split: str) -> EvaluationData:
    """One split of such data."""
    found = read_objects(recipe, split, target)
    return EvaluationData(_evaluated_objects(found, split), found.classes, collate_objects)


def _evaluated_objects(split: ObjectSplit, name: str) -> EvaluationSet:
    check_has_objects(split, name)
    return EvaluationSet(TargetSplit(split, training=False), object_transforms.evaluation_transform())


def _item(split: Split | TargetSplit, index: int, transform: Transform) -> Item:
    image, target = split[index]
    return transform(to_image(image), tv_tensors.Mask(target) if isinstance(target, np.ndarray) else target)
