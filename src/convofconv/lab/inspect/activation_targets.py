"""What an activation map explains: one number per image, made of a network's outputs.

A classifier's is the logit of a class; a segmenter's is the sum of a class's logits over the pixels that it gives to
that class, or over those of a mask; a detector's is the sum of the scores of the objects of a class that it finds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import ConfigError, ShapeError

#: From outputs for a batch to a number per image, ``(batch,)``.
ScoreFunction = Callable[[Any], Tensor]


class NothingFoundError(ConfigError):
    """A network finds nothing of a class in an image, so that there is nothing to explain."""


@dataclasses.dataclass(frozen=True)
class Score:
    """What is explained.

    Shape:
        - values: ``(batch,)``

    Args:
        values: the numbers that gradients are taken of.
        labels: the class of every image; ``None`` for a function of a user's own.
    """

    values: Tensor
    labels: tuple[int, ...] | None


def score(outputs: Any, target: int | Sequence[int] | ScoreFunction | None, where: Tensor | None = None) -> Score:
    """The number of every image that a map explains.

    Args:
        outputs: logits of a classifier or a segmenter (of torchvision's in a dictionary), or a detector's list.
        target: a class for all images or one for each; without it the likeliest class, of a segmenter the one with the
            most pixels except for class 0, of a detector that of the surest object. Or a function of the outputs that
            gives a number per image.
        where: of a segmenter, the pixels that count, in place of those that it gives to the class.

    Shape:
        - where: ``(batch, height, width)``, bool

    Raises:
        ConfigError: there is no such class.
        NothingFoundError: nothing of it is found in an image; the message names the image.
        ShapeError: the outputs are those of no known task, or ``where`` does not fit.

    Examples:
        >>> score(torch.tensor([[0.5, 2.0], [3.0, 1.0]]), None)
        Score(values=tensor([2., 3.]), labels=(1, 0))
    """
    if callable(target):
        values = target(outputs)
        if not isinstance(values, Tensor) or values.ndim != 1:
            raise ShapeError("the target must give a tensor with one number per image")
        return Score(values, None)
    if isinstance(outputs, dict) and isinstance(outputs.get("out"), Tensor):
        outputs = outputs["out"]
    if isinstance(outputs, Tensor) and outputs.ndim == 4:
        return _of_segmenter(outputs, target, where)
    if where is not None:
        raise ShapeError("a mask says which pixels of a segmenter count; these outputs are not a segmenter's")
    if isinstance(outputs, Tensor) and outputs.ndim == 2:
        labels = _labels(target, outputs.argmax(1).tolist(), outputs.shape[1])
        return Score(outputs[range(len(outputs)), labels], labels)
    if isinstance(outputs, list) and outputs and all(isinstance(one, dict) and "scores" in one for one in outputs):
        return _of_detector(outputs, target)
    found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    raise ShapeError(
        f"the network gives {found}: neither (batch, classes), nor (batch, classes, height, width), nor a detector's "
        "list; give a function of the outputs as the target"
    )


def _of_segmenter(logits: Tensor, target: int | Sequence[int] | None, where: Tensor | None) -> Score:
    classes, given = logits.shape[1], logits.detach().argmax(1)
    counts = [torch.bincount(one.flatten(), minlength=classes) for one in given]
    common = [int(count[1:].argmax()) + 1 if count[1:].any() else 0 for count in counts]
    labels = _labels(target, common, classes)
    if where is None:
        where = torch.stack([one == label for one, label in zip(given, labels, strict=True)])
        complaint = "no pixel is given to class {}; choose another class, or give a mask"
    else:
        complaint = "the mask is empty (class {})"
    if where.dtype != torch.bool or where.shape != given.shape:
        raise ShapeError(
            f"the mask must be bool of shape {tuple(given.shape)}, got {where.dtype} of {tuple(where.shape)}"
        )
    for number, label in enumerate(labels):
        if not where[number].any():
            raise NothingFoundError(f"image {number}: {complaint.format(label)}")
    chosen = logits[range(len(logits)), labels]
    return Score((chosen * where.to(chosen)).sum((1, 2)), labels)


def _of_detector(outputs: Sequence[dict[str, Tensor]], target: int | Sequence[int] | None) -> Score:
    for number, found in enumerate(outputs):
        if not len(found["scores"]):
            raise NothingFoundError(f"image {number}: nothing is detected, so there is nothing to explain")
    surest = [int(found["labels"][found["scores"].argmax()]) for found in outputs]
    labels = _labels(target, surest, None)
    sums = []
    for number, (found, label) in enumerate(zip(outputs, labels, strict=True)):
        mine = found["scores"][found["labels"] == label]
        if not len(mine):
            others = sorted({int(one) for one in found["labels"]})
            raise NothingFoundError(f"image {number}: no object of class {label} is detected, only of {others}")
        sums.append(mine.sum())
    return Score(torch.stack(sums), labels)


def _labels(target: int | Sequence[int] | None, default: list[int], classes: int | None) -> tuple[int, ...]:
    labels = default if target is None else [target] * len(default) if isinstance(target, int) else list(target)
    if len(labels) != len(default):
        raise ConfigError(f"a class for every image is needed: {len(labels)} classes, {len(default)} images")
    if wrong := [label for label in labels if label < 0 or (classes is not None and label >= classes)]:
        last = "" if classes is None else f" to {classes - 1}"
        raise ConfigError(f"there is no class {wrong[0]}; classes are 0{last}")
    return tuple(labels)
