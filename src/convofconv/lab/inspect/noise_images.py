"""Images of noise for receptive fields, large enough for them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from .input_images import input_channels
from .theoretical_field import TheoreticalField

#: Sides are chosen up to this, in pixels.
MOST = 512


def noise_images(network: nn.Module, number: int, fields: Iterable[TheoreticalField]) -> Tensor:
    """Images of standard normal noise, always the same, in which fields are not clipped if they can be.

    Args:
        network: that they are for.
        number: of images.
        fields: that should fit into them; a side is at most 512 pixels.

    Shape:
        ``(number, channels, side, side)``
    """
    if number < 1:
        raise ConfigError(f"images: at least 1 is needed, got {number}")
    side = max(_side(field) for field in fields)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(number, input_channels(network), side, side, generator=generator)


def _side(field: TheoreticalField) -> int:
    if field.only_size:
        return field.only_size
    longest = max(field.height, field.width)
    # The centre unit's field is not always in the centre, but less than a stride away; sides are multiples of 32.
    margin = 2 * max(stride or 0.0 for stride in field.stride)
    return min(MOST, 32 * math.ceil((longest + margin) / 32))
