"""From a recipe to data sets that loaders can read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import to_image

from ...errors import ConfigError, listing
from ..recipe.schema import DataRecipe
from . import object_transforms as detection_augment
from .datasets import Split, read_split
from .decoding import VOID
from .loading import Collate, seed_of
from .object_datasets import check_has_objects, read_objects, with_objects
from .objects import ObjectSplit, TargetSplit, collate_objects, orientations
from .transforms import Transform, evaluation_transform

#: A picture ``(3, h, w)``, and its label, its mask ``(h, w)`` of int64, or its objects; normalised but for detectors.
Item = tuple[Tensor, Any]


@dataclasses.dataclass(frozen=True)
class DataSets:
    """What a run trains on, chooses its best epoch by and is tested on; ``test`` may be ``val`` itself.

    Args:
        train: by epoch and index.
        val: by index.
        test: by index.
        classes: names.
        collate: makes a batch.
        groups: a number per training picture; those of a batch should be of one group.
        categories: the data set's own number of every class, where it has numbers; ``None`` for the background.
    """

    train: TrainingSet
    val: EvaluationSet
    test: EvaluationSet
    classes: tuple[str, ...]
    collate: Collate = default_collate
    groups: Sequence[int] | None = None
    categories: tuple[int | None, ...] = ()


@dataclasses.dataclass(frozen=True)
class EvaluationData:
    """What a finished run is evaluated on.

    Args:
        pictures: by index.
        classes: names.
        collate: makes a batch.
    """

    pictures: EvaluationSet
    classes: tuple[str, ...]
    collate: Collate = default_collate


class TrainingSet(Dataset[Item]):
    """Varied pictures by ``(epoch, index)``: the same key gives the same item in whatever process it is read."""

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
    """Pictures by index, always the same."""

    def __init__(self, split: Split | TargetSplit, transform: Transform) -> None:
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Item:
        return _item(self.split, index, self.transform)


def image_sets(recipe: DataRecipe, train: Split, vary: Transform, seed: int) -> DataSets:
    """The data of a task whose images have a label or a mask.

    Args:
        recipe: what is read, and how it is prepared for evaluation.
        train: its split to train on.
        vary: the variations of training images.
        seed: of the variations.

    Raises:
        ConfigError: see :func:`~convofconv.lab.data.datasets.read_split`.
    """
    evaluate = evaluation_transform(recipe)
    val = EvaluationSet(read_split(recipe, recipe.val_split), evaluate)
    test = EvaluationSet(read_split(recipe, recipe.test_split), evaluate) if recipe.test_split else val
    return DataSets(TrainingSet(train, vary, seed), val, test, train.classes)


def image_evaluation(recipe: DataRecipe, split: str) -> EvaluationData:
    """One split of such data; of ``image_folder``, the folders of the training split still name the classes."""
    found = read_split(recipe, split)
    return EvaluationData(EvaluationSet(found, evaluation_transform(recipe)), found.classes)


def check_has_regions(train: Split) -> None:
    """Refuse masks of class 0 and void alone: a network would learn nothing else, and be right everywhere.

    So it is where 255 stands for the object. Objects may be rare, so all masks are looked at, up to the first with one.

    Raises:
        ConfigError: there is no pixel of another class.
    """
    void = False
    for index in np.random.default_rng(0).permutation(len(train)).tolist():
        try:
            mask = np.asarray(train[index][1])
        except ConfigError:  # is raised again when training reads it
            return
        if ((mask > 0) & (mask < VOID)).any():
            return
        void |= bool((mask == VOID).any())
    last = len(train.classes) - 1
    wanted = f"1, {train.classes[1]}" if last == 1 else f"1 to {last}"
    reason = (
        f", and some have pixels of {VOID}, which are void and not learned from; if those are the object, write its "
        "class in their place"
    )
    raise ConfigError(
        f"data.root: of {len(train)} training masks none has a pixel of class {wanted}"
        f"{reason if void else '; there is nothing to learn'}"
    )


def object_sets(recipe: DataRecipe, masks: bool, seed: int) -> DataSets:
    """The data of a task whose images have objects.

    Args:
        recipe: what is read and how it is varied.
        masks: whether the objects have masks.
        seed: of the variations.

    Raises:
        ConfigError: see :func:`~convofconv.lab.data.object_datasets.read_objects`; or splits have different classes.
    """
    train = with_objects(read_objects(recipe, recipe.train_split, masks), recipe.train_split)
    shorter = recipe.shorter or (recipe.eval_resize,)
    vary = detection_augment.training_transform(shorter, recipe.longest or None, recipe.flip, recipe.mask_resize)

    def evaluation(name: str) -> EvaluationSet:
        split = read_objects(recipe, name, masks)
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
        orientations(train.pictures),
        tuple(train.categories.get(label) for label in range(len(train.classes))),
    )


def object_evaluation(recipe: DataRecipe, masks: bool, split: str) -> EvaluationData:
    """One split of such data."""
    found = read_objects(recipe, split, masks)
    return EvaluationData(_evaluated_objects(found, split), found.classes, collate_objects)


def _evaluated_objects(split: ObjectSplit, name: str) -> EvaluationSet:
    check_has_objects(split, name)
    return EvaluationSet(TargetSplit(split, training=False), detection_augment.evaluation_transform())


def _item(split: Split | TargetSplit, index: int, transform: Transform) -> Item:
    image, target = split[index]
    return transform(to_image(image), tv_tensors.Mask(target) if isinstance(target, np.ndarray) else target)
