"""How images with objects are varied for training; boxes, masks and what belongs to them stay in step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..recipe.schema import MaskResize
from .objects import Target
from .transforms import ResizeMasks, Transform


def training_transform(
    shorter: Sequence[int], longest: int | None, flip: bool = True, mask_resize: MaskResize = "nearest"
) -> Transform:
    """Multi-scale resizing and mirroring; the detector, which normalises, must not resize again in training.

    torchvision's detectors leave out their own resizing in training, not in evaluation, with ``_skip_resize=True``.

    Args:
        shorter: lengths of the shorter side to choose from.
        longest: of the longer side, which wins over ``shorter``; ``None`` for no limit.
        flip: mirror half of the images.
        mask_resize: how masks are resized, as in a recipe.

    Source:
        the 1x recipes of detectron2; RandomShortestSize of torchvision's detection references
    """
    steps: list[Any] = [ResizeMasks(mask_resize)]
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    steps.append(v2.RandomShortestSize(list(shorter), longest, antialias=True))
    # A box at the edge may lie behind it by a rounding error now, and would be removed.
    steps += [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(labels_getter=_per_object)]
    return _prepared(steps)


def evaluation_transform() -> Transform:
    """As they are: detectors resize by themselves when they evaluate, and answer in the image's own pixels."""
    return _prepared([])


def _per_object(inputs: tuple[Tensor, Target]) -> tuple[Tensor, ...]:
    """What has a value per object, besides boxes and masks, which torchvision knows by their types."""
    target = inputs[1]
    return target["labels"], target["area"], target["iscrowd"]


def _prepared(steps: list[Any]) -> Transform:
    ends = [v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True), v2.ToPureTensor()]
    transform: Transform = v2.Compose([*steps, *ends])
    return transform
