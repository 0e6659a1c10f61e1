"""Pictures with objects in them, boxed, labelled and masked, and the target dictionaries that detectors take.

Masks are kept as run lengths and decoded only when they are asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision import tv_tensors

#: A mask as pycocotools' compressed run lengths: ``size``, height and width, and ``counts``.
RunLengths = dict[str, Any]
#: What torchvision's detectors take: boxes, labels, masks where there are any, image_id, area and iscrowd.
Target = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture before it is decoded; scenes that are drawn have no path."""

    id: int
    width: int
    height: int
    path: Path | None = None


@dataclasses.dataclass(frozen=True)
class Objects:
    """What is in a picture; ``run_lengths`` is ``None`` for data that has boxes alone.

    Shape:
        - boxes: ``(N, 4)``, left, top, right, bottom, within the picture; a broken one may be without area
        - labels: ``(N,)``, from 1 on, for 0 is background
        - area: ``(N,)``, pixels of the object, not of its box
        - crowd: ``(N,)``, whether it stands for many objects that are not told apart
        - ids: ``(N,)``, of the annotations
    """

    picture: Picture
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    area: NDArray[np.float32]
    crowd: NDArray[np.bool_]
    ids: NDArray[np.int64]
    run_lengths: tuple[RunLengths, ...] | None

    def __len__(self) -> int:
        return len(self.labels)

    def masks(self) -> NDArray[np.uint8]:
        """Decode the masks, 1 where the object is.

        Shape:
            ``(N, height, width)``
        """
        assert self.run_lengths is not None, "this data was read without masks"
        if not self.run_lengths:  # pycocotools gives an array of random size for none
            return np.zeros((0, self.picture.height, self.picture.width), np.uint8)
        masks: NDArray[np.uint8] = np.ascontiguousarray(np.moveaxis(coco_mask.decode(list(self.run_lengths)), -1, 0))
        return masks

    def keep(self, which: NDArray[np.bool_]) -> Objects:
        """Only the objects that ``which`` says, ``(N,)``."""
        columns = {name: getattr(self, name)[which] for name in ("boxes", "labels", "area", "crowd", "ids")}
        kept = None
        if self.run_lengths is not None:
            kept = tuple(self.run_lengths[number] for number in np.flatnonzero(which))
        return dataclasses.replace(self, **columns, run_lengths=kept)


@dataclasses.dataclass(frozen=True)
class ObjectSplit:
    """Pictures and their objects, by number.

    Args:
        classes: what the labels mean, the background first.
        categories: what the data set itself calls every label, the ids of a COCO file for example.
        pictures: those that belong to the split.
        read: decodes a picture and gives its objects.
        empty: ids of pictures in which there is nothing to learn from.
    """

    classes: tuple[str, ...]
    categories: Mapping[int, int]
    pictures: Sequence[Picture]
    read: Callable[[Picture], tuple[Image.Image, Objects]]
    empty: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Image.Image, Objects]:
        return self.read(self.pictures[index])


@dataclasses.dataclass(frozen=True)
class TargetSplit:
    """A split as detectors take it: pictures and targets, to train with or to evaluate by."""

    split: ObjectSplit
    training: bool

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Image.Image, Target]:
        picture, objects = self.split[index]
        return picture, training_target(objects) if self.training else evaluation_target(objects)


def to_learn(boxes: NDArray[np.float32], crowd: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which objects a detector learns from: no crowds, and no boxes without area, which torchvision's refuse.

    Shape:
        - boxes: ``(N, 4)``
        - crowd: ``(N,)``
        - returns: ``(N,)``
    """
    return ~crowd & (boxes[:, 2:] > boxes[:, :2]).all(1)


def training_target(objects: Objects) -> Target:
    """What a detector learns from, see :func:`to_learn`."""
    return _target(objects.keep(to_learn(objects.boxes, objects.crowd)))


def evaluation_target(objects: Objects) -> Target:
    """What detections are compared with: everything that is annotated, crowds marked."""
    return _target(objects)


def collate_objects(items: Iterable[tuple[Any, Target]]) -> tuple[list[Any], list[Target]]:
    """Pictures and targets of a batch as two lists, for detectors take pictures of different sizes."""
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)


def orientations(pictures: Iterable[Picture]) -> list[int]:
    """1 for pictures wider than high, 0 for others: batches of one kind are padded least.

    Source:
        AspectRatioBatchSampler of mmdetection, aspect_ratio_grouping of detectron2
    """
    return [int(picture.width > picture.height) for picture in pictures]


def _target(objects: Objects) -> Target:
    canvas = (objects.picture.height, objects.picture.width)
    boxes: Any = tv_tensors.BoundingBoxFormat.XYXY
    target: Target = {
        "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(objects.boxes), format=boxes, canvas_size=canvas),
        "labels": torch.from_numpy(objects.labels),
        "image_id": objects.picture.id,
        "area": torch.from_numpy(objects.area),
        "iscrowd": torch.from_numpy(objects.crowd.astype(np.int64)),
    }
    if objects.run_lengths is not None:
        target["masks"] = tv_tensors.Mask(torch.from_numpy(objects.masks()))
    return target
