"""Images to learn from without a download: noisy stripes of eight directions, which are the classes."""

import math

import torch
from torch import Tensor


def stripes(count: int, seed: int, side: int = 24) -> tuple[Tensor, Tensor]:
    """Images ``(count, 3, side, side)`` and their classes ``(count,)``, decided by the seed."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(8, (count,), generator=generator)
    phases = torch.rand(count, generator=generator) * 2 * math.pi
    angles = labels * math.pi / 8
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    along = angles.cos()[:, None, None] * x + angles.sin()[:, None, None] * y
    waves = (0.9 * along + phases[:, None, None]).sin()
    images = waves[:, None] + torch.randn(count, 3, side, side, generator=generator)
    return images, labels
