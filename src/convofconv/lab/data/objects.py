"""Images with objects in them, boxed, labelled and masked, and the target dictionaries that detectors take.

Masks are kept as run lengths and decoded only when they are asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torchvision import tv_tensors

#: A mask as pycocotools' compressed run lengths: ``size``, height and width, and ``counts``.
RunLengths = dict[str, Any]
#: What torchvision's detectors take: boxes, labels, masks where there are any, image_id, area and iscrowd.
Target = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ImageEntry:
    """An image before it is decoded; scenes that are drawn have no path."""

    id: int
    width: int
    height: int
    path: Path | None = None


@dataclasses.dataclass(frozen=True)
class Objects:
    """What is in an image; ``run_lengths`` is ``None`` for data that has boxes alone.

    Shape:
        - boxes: ``(N, 4)``, left, top, right, bottom, within the image; a broken one may be without area
        - labels: ``(N,)``, from 1 on, for 0 is background
        - area: ``(N,)``, pixels of the object, not of its box
        - crowd: ``(N,)``, whether it stands for many objects that are not separated
        - ids: ``(N,)``, of the annotations
        - annotated: ``(N, 4)``, left, top, width, height as the file has them, or ``None`` for those of ``boxes``
    """

    image: ImageEntry
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    area: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    ids: NDArray[np.int64]
    run_lengths: tuple[RunLengths, ...] | None
    annotated: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def masks(self) -> NDArray[np.uint8]:
        """Decode the masks, 1 where the object is.

        Shape:
            ``(N, height, width)``
        """
        assert self.run_lengths is not None, "this data was read without masks"
        if not self.run_lengths:  # pycocotools gives an array of random size for none
            return np.zeros((0, self.image.height, self.image.width), np.uint8)
        masks: NDArray[np.uint8] = np.ascontiguousarray(np.moveaxis(coco_mask.decode(list(self.run_lengths)), -1, 0))
        return masks

    def keep(self, which: NDArray[np.bool_]) -> Objects:
        """Only the objects that ``which`` says, ``(N,)``."""
        columns = {name: getattr(self, name)[which] for name in ("boxes", "labels", "area", "crowd", "ids")}
        columns["annotated"] = None if self.annotated is None else self.annotated[which]
        kept = None
        if self.run_lengths is not None:
            kept = tuple(self.run_lengths[number] for number in np.flatnonzero(which))
        return dataclasses.replace(self, **columns, run_lengths=kept)


def corners(annotated: NDArray[np.float64], width: Any, height: Any) -> NDArray[np.float64]:
    """Boxes as files have them, cut off at the edges of their images.

    Args:
        annotated: left, top, width, height; less than none is none.
        width: of the image, or of each box's.
        height: likewise.

    Shape:
        - annotated: ``(N, 4)``
        - width, height: ``()`` or ``(N,)``
        - returns: ``(N, 4)``, left, top, right, bottom
    """
    ends = annotated[:, :2] + annotated[:, 2:].clip(0)
    sides = np.stack(np.broadcast_arrays(width, height), -1)
    return np.concatenate([annotated[:, :2].clip(0, sides), ends.clip(0, sides)], 1)


def have_area(boxes: NDArray[Any]) -> NDArray[np.bool_]:
    """Which boxes, as corners, have an area in float32, in which detectors learn from them.

    Shape:
        - boxes: ``(N, 4)``
        - returns: ``(N,)``
    """
    single = boxes.astype(np.float32)
    some: NDArray[np.bool_] = np.all(single[:, 2:] > single[:, :2], axis=1)
    return some


def to_learn(boxes: NDArray[Any], crowd: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which objects a detector learns from: no crowds, and no boxes without area, which torchvision's refuse.

    Shape:
        - boxes: ``(N, 4)``
        - crowd: ``(N,)``
        - returns: ``(N,)``
    """
    return ~crowd & have_area(boxes)


def training_target(objects: Objects) -> Target:
    """What a detector learns from, see :func:`to_learn`; boxes and areas in float32, as the network is."""
    return _target(objects.keep(to_learn(objects.boxes, objects.crowd)), torch.float32)


def evaluation_target(objects: Objects) -> Target:
    """What detections are compared with: everything that is annotated, crowds marked, boxes and areas in float64.

    ``bbox`` has the boxes as they are annotated, left, top, width, height: COCO's evaluator cuts none off, and a width
    that is computed from edges is another number.
    """
    target = _target(objects, torch.float64)
    if objects.annotated is not None:
        target["bbox"] = torch.from_numpy(objects.annotated)
    return target


def collate_objects(items: Iterable[tuple[Any, Target]]) -> tuple[list[Any], list[Target]]:
    """Images and targets of a batch as two lists, for detectors take images of different sizes."""
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)


def orientations(images: Iterable[ImageEntry]) -> list[int]:
    """1 for images wider than high, 0 for others: batches of one kind are padded least.

    Source:
        AspectRatioBatchSampler of mmdetection, aspect_ratio_grouping of detectron2
    """
    return [int(image.width > image.height) for image in images]


def _target(objects: Objects, dtype: torch.dtype) -> Target:
    canvas = (objects.image.height, objects.image.width)
    boxes, form = torch.from_numpy(objects.boxes).to(dtype), cast(Any, tv_tensors.BoundingBoxFormat.XYXY)
    target: Target = {
        "boxes": tv_tensors.BoundingBoxes(boxes, format=form, canvas_size=canvas),
        "labels": torch.from_numpy(objects.labels),
        "image_id": objects.image.id,
        "area": torch.from_numpy(objects.area).to(dtype),
        "iscrowd": torch.from_numpy(objects.crowd.astype(np.int64)),
    }
    if objects.run_lengths is not None:
        target["masks"] = tv_tensors.Mask(torch.from_numpy(objects.masks()))
    return target
