"""The shares of a network's activation maps on annotated objects, from what the lab's evaluation sets give."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..data.decoding import VOID
from ..models.detector import takes_list
from .activation_maps import activation_maps
from .activation_targets import NothingFoundError
from .object_shares import ObjectShares, object_shares


def annotated_shares(
    network: nn.Module,
    items: Iterable[tuple[Tensor, Any]],
    layer: str,
    method: str = "grad-cam",
    labels: Collection[int] | None = None,
) -> ObjectShares:
    """The share of a segmenter's or a detector's map on the objects of every class in every image.

    A segmenter's map explains the pixels that it gives to the class, a detector's the scores of the objects of the
    class that it finds; where there are none, the class of that image is counted as silent.

    Args:
        network: plain or converted.
        items: images with a mask of class numbers, in which 255 is void, or with targets that have masks, as the lab's
            evaluation sets give them.
        layer: whose activation maps are drawn, see :func:`.activation_maps.activation_maps`.
        method: see there.
        labels: classes that are objects; all except for 0 if not given.

    Shape:
        - images: ``(channels, height, width)``
        - masks: ``(height, width)``; in targets ``(objects, height, width)``

    Raises:
        ConfigError: see :func:`.activation_maps.activation_maps`.
        ShapeError: an image or a mask does not fit.
    """
    maps: list[Tensor | None] = []
    masks: list[Tensor | list[Tensor]] = []
    found: list[int] = []
    numbers: list[int] = []
    counted: list[Tensor] = []
    for number, (image, target) in enumerate(items):
        inputs = [image] if takes_list(network) else image[None]
        for label, mask, valid in _classes(target, labels):
            try:
                drawn = activation_maps(network, inputs, layer, method, label).maps[0].cpu()
            except NothingFoundError:
                drawn = None
            maps.append(drawn)
            masks.append(mask)
            found.append(label)
            numbers.append(number)
            counted.append(valid)
    return object_shares(maps, masks, found, numbers, counted)


def _classes(target: Any, labels: Collection[int] | None) -> Iterator[tuple[int, Tensor | list[Tensor], Tensor]]:
    """The classes in an image, each with its mask or those of its objects, and the pixels that count."""
    if isinstance(target, Tensor):
        target = target.as_subclass(Tensor)
        for label in target[target != VOID].unique().tolist():
            if label in labels if labels is not None else label:
                yield label, target == label, target != VOID
        return
    masks = target["masks"].as_subclass(Tensor).bool()
    crowds = target.get("iscrowd", torch.zeros(len(masks))).bool()
    valid = ~masks[crowds].any(0)  # many objects that are not told apart
    for label in target["labels"].unique().tolist():
        if labels is None or label in labels:
            yield label, list(masks[(target["labels"] == label) & ~crowds]), valid
