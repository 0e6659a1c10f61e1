"""Effective receptive fields of several networks, trained with several seeds each, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ConfigError
from .effective_field import EffectiveField, effective_field
from .input_images import check_images
from .noise_images import noise_images
from .t_interval import Interval, t_interval
from .theoretical_field import theoretical_field


@dataclasses.dataclass(frozen=True)
class SeedFields:
    """The effective receptive fields of one layer in networks that differ in their seed.

    Args:
        fields: by seed.
    """

    fields: tuple[EffectiveField, ...]

    @property
    def map(self) -> Tensor:
        """The mean over seeds, each field over its peak.

        Shape:
            ``(height, width)``
        """
        return torch.stack([field.map / (field.map.max() or 1.0) for field in self.fields]).mean(0)

    @property
    def sizes(self) -> list[float]:
        """By seed, in pixels."""
        return [field.size for field in self.fields]

    @property
    def size(self) -> float:
        """Mean over seeds, in pixels."""
        return float(np.mean(self.sizes))

    @property
    def interval(self) -> Interval | None:
        """The 95 % confidence interval of the size: over seeds (t), of one seed alone over its images."""
        return t_interval(self.sizes) if len(self.fields) > 1 else self.fields[0].interval

    def numbers(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        over = "seeds" if len(self.fields) > 1 else "images"
        return {
            "size": self.size,
            "interval": self.interval and list(self.interval),
            "interval_over": over,
            "fields": [field.numbers() for field in self.fields],
        }


#: By network, then by layer.
FieldTable = dict[str, dict[str, SeedFields]]


def compare_fields(
    networks: Mapping[str, Sequence[nn.Module]],
    layers: Sequence[str],
    images: Tensor | int = 32,
    batch: int | None = None,
) -> FieldTable:
    """Effective receptive fields of layers of several networks, all of the same images.

    Args:
        networks: by name, those that were trained with different seeds.
        layers: their names.
        images: see :func:`effective_field`; noise is of the size that the largest of all these fields needs.
        batch: images per pass.

    Raises:
        ConfigError: see :func:`effective_field`.
        ShapeError: a network does not take these images.

    Examples:
        >>> nets = {"plain": [nn.Sequential(nn.Conv2d(1, 2, 3)) for _ in range(3)]}
        >>> [(name, list(fields)) for name, fields in compare_fields(nets, ["0"], images=2).items()]
        [('plain', ['0'])]
    """
    if not layers or not all(networks.values()) or not networks:
        raise ConfigError("receptive fields need at least one layer, and a network of every name")
    theory = {name: {layer: theoretical_field(seeds[0], layer) for layer in layers} for name, seeds in networks.items()}
    if isinstance(images, int):
        every = [field for fields in theory.values() for field in fields.values()]
        images = noise_images(next(iter(networks.values()))[0], images, every)
    for seeds in networks.values():
        for network in seeds:
            check_images(network, images)
    return {
        name: {
            layer: SeedFields(
                tuple(
                    effective_field(network, layer, images, theoretical=theory[name][layer], batch=batch)
                    for network in seeds
                )
            )
            for layer in layers
        }
        for name, seeds in networks.items()
    }
