"""How much of an activation map lies on the object: the paper's claim that CoC's maps are better on large ones.

Alone a share says little: a flat map has the larger share on larger objects. So each comes with that chance level, the
share of the image that the object covers, and networks are compared on the same objects, pair by pair.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ...errors import ConfigError, ShapeError
from .t_interval import Interval, t_interval

#: Where the bins of size / effective receptive field end: up to a half, to 1, to 2, and beyond.
ENDS = (0.5, 1.0, 2.0, math.inf)


@dataclasses.dataclass(frozen=True)
class ObjectShare:
    """The share of one map's energy on the objects of one class in an image.

    Args:
        image: its number.
        label: of the class.
        size: side of the objects, √area, in pixels: see :func:`object_size`.
        share: of the energy, the map's positive part.
        chance: share of the image that they cover, which is a flat map's share.
    """

    image: int
    label: int
    size: float
    share: float
    chance: float


@dataclasses.dataclass(frozen=True)
class ObjectShares:
    """The shares of many maps.

    Args:
        shares: of those that could be measured.
        empty: how many objects were left out because their mask is empty.
        silent: how many were left out because the map is nowhere positive, or nothing of the class was found.
    """

    shares: tuple[ObjectShare, ...]
    empty: int = 0
    silent: int = 0

    def numbers(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class SizeBin:
    """A mean over the objects of some sizes.

    Args:
        low: the least size over the effective receptive field, not in the bin itself except for 0.
        high: the largest one; infinite in the last bin.
        images: with such objects; each counts once, by the mean over its objects.
        mean: of the share, or of the difference of shares; ``None`` for no image.
        interval: 95 % confidence interval over images (t), or ``None``.
        chance: mean share of a flat map; ``None`` for no image.
    """

    low: float
    high: float
    images: int
    mean: float | None
    interval: Interval | None
    chance: float | None

    @property
    def label(self) -> str:
        """The bin in words."""
        if math.isinf(self.high):
            return f"> {self.low:g}"
        return f"{self.low:g} to {self.high:g}" if self.low else f"≤ {self.high:g}"

    def numbers(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        high = None if math.isinf(self.high) else self.high
        return {**dataclasses.asdict(self), "high": high, "interval": self.interval and list(self.interval)}


def energy_share(map: Tensor, mask: Tensor, counted: Tensor | None = None) -> tuple[float, float]:
    """The share of a map's energy inside a mask, and the share of the image that the mask covers.

    Args:
        map: its positive part is the energy.
        mask: where the object is.
        counted: pixels that count at all; all if not given. VOC's void ones do not.

    Shape:
        - map: ``(height, width)``
        - mask, counted: ``(height, width)``, bool

    Raises:
        ShapeError: the mask is empty or does not fit, or the map is nowhere positive.

    Examples:
        >>> energy_share(torch.tensor([[3.0, 1.0], [0.0, -2.0]]), torch.tensor([[True, False], [False, False]]))
        (0.75, 0.25)
    """
    counted = torch.ones_like(mask, dtype=torch.bool) if counted is None else counted
    for name, given in (("mask", mask), ("mask of counted pixels", counted)):
        if given.dtype != torch.bool or given.shape != map.shape:
            raise ShapeError(
                f"the {name} must be bool of shape {tuple(map.shape)}, as the map; got {given.dtype} of "
                f"{tuple(given.shape)}"
            )
    energy, mask = map.double().relu() * counted, mask & counted
    if not mask.any():
        raise ShapeError("the mask is empty: there is no object to find energy on")
    if not energy.any():
        raise ShapeError("the map is nowhere positive: there is no energy to share out")
    return float(energy[mask].sum() / energy.sum()), float(mask.sum() / counted.sum())


def object_size(mask: Tensor | Sequence[Tensor]) -> float:
    """The side √area of the object that a pixel of objects lies in, on average over these pixels.

    Of one object it is its side; small ones beside a large one hardly count.

    Args:
        mask: of a class, whose objects are what hangs together, corners too; or one mask for every object.

    Shape:
        - mask: ``(height, width)``, bool

    Examples:
        >>> mask = torch.zeros(8, 8, dtype=torch.bool)
        >>> mask[:4, :4] = True
        >>> object_size(mask)
        4.0
    """
    if isinstance(mask, Tensor):
        pieces, _ = ndimage.label(mask.cpu().numpy(), np.ones((3, 3)))
        areas = np.bincount(pieces.ravel())[1:]
    else:
        areas = np.array([int(one.sum()) for one in mask])
    total = areas.sum()
    return float((areas**1.5).sum() / total) if total else 0.0


def object_shares(
    maps: Sequence[Tensor | None],
    masks: Sequence[Tensor | Sequence[Tensor]],
    labels: Sequence[int],
    images: Sequence[int] | None = None,
    counted: Sequence[Tensor] | None = None,
) -> ObjectShares:
    """The share of every map on the objects of its class.

    Args:
        maps: one per image and class; ``None`` where the network finds nothing of the class.
        masks: of the class, or one for each of its objects.
        labels: of the classes.
        images: their numbers, from 0 on if not given.
        counted: pixels that count, see :func:`energy_share`.

    Raises:
        ConfigError: there are not as many of each.
        ShapeError: a mask does not fit its map.

    Examples:
        >>> mask = torch.eye(4, dtype=torch.bool)
        >>> found = object_shares([torch.ones(4, 4), None], [mask, mask], [1, 1])
        >>> found.shares[0].share, found.silent
        (0.25, 1)
    """
    numbers = range(len(maps)) if images is None else images
    if {len(masks), len(labels), len(numbers), len(maps if counted is None else counted)} != {len(maps)}:
        raise ConfigError(f"{len(maps)} maps need as many masks, labels and images")
    shares, empty, silent = [], 0, 0
    for place, (found, mask, label, image) in enumerate(zip(maps, masks, labels, numbers, strict=True)):
        whole = mask if isinstance(mask, Tensor) else _union(mask)
        here = None if counted is None else counted[place]
        if whole is None or not (whole if here is None else whole & here).any():
            empty += 1
        elif found is None or not (found if here is None else found * here).relu().any():
            silent += 1
        else:
            shares.append(ObjectShare(image, label, object_size(mask), *energy_share(found, whole, here)))
    return ObjectShares(tuple(shares), empty, silent)


def by_size(shares: ObjectShares, field: float) -> list[SizeBin]:
    """Mean shares by the objects' size over an effective receptive field.

    Args:
        shares: of one network.
        field: size of its effective receptive field, in pixels.

    Raises:
        ConfigError: the field has no size.

    Examples:
        >>> shares = ObjectShares(tuple(ObjectShare(n, 1, 30.0, 0.5 + n / 10, 0.2) for n in range(3)))
        >>> [(bin.label, bin.images, bin.mean) for bin in by_size(shares, 20.0) if bin.images]
        [('1 to 2', 3, 0.6)]
    """
    return _binned([(one, one.share) for one in shares.shares], field)


def difference_by_size(shares: ObjectShares, baseline: ObjectShares, field: float) -> list[SizeBin]:
    """Mean differences of two networks' shares on the same objects, by size over one effective receptive field.

    Args:
        shares: of one network, the plain one's subtracted from it.
        baseline: of the other one; objects that only one of them has do not count.
        field: size of an effective receptive field, in pixels, which decides the bins of both.

    Raises:
        ConfigError: the field has no size, or they have no object in common.
    """
    theirs = {(one.image, one.label): one.share for one in baseline.shares}
    pairs = [(one, one.share - theirs[key]) for one in shares.shares if (key := (one.image, one.label)) in theirs]
    if not pairs:
        raise ConfigError("the two networks' shares have no object in common: take the same images and classes")
    return _binned(pairs, field)


def _binned(values: Sequence[tuple[ObjectShare, float]], field: float) -> list[SizeBin]:
    if not field > 0:
        raise ConfigError(f"the effective receptive field must have a size, got {field}")
    bins = []
    for low, high in zip((0.0, *ENDS), ENDS, strict=False):
        mine = [(one, value) for one, value in values if low < one.size / field <= high]
        images = sorted({one.image for one, _ in mine})
        means = [float(np.mean([value for one, value in mine if one.image == image])) for image in images]
        chance = float(np.mean([one.chance for one, _ in mine])) if mine else None
        mean = float(np.mean(means)) if means else None
        bins.append(SizeBin(low, high, len(images), mean, t_interval(means), chance))
    return bins


def _union(masks: Sequence[Tensor]) -> Tensor | None:
    return torch.stack(list(masks)).any(0) if len(masks) else None
