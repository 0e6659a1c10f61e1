"""The network of the demo: a residual network of 0.08 million parameters."""

from __future__ import annotations

import itertools
from collections import OrderedDict

from torch import nn
from torchvision.models.resnet import BasicBlock, conv1x1, conv3x3

_WIDTHS = (16, 32, 64)


def small_resnet(num_classes: int) -> nn.Sequential:
    """A 3×3 stem and three residual blocks, each on half the resolution of the one before; BatchNorm after every conv.

    Shape:
        - input: ``(batch, 3, height, width)``, 8 pixels a side at least
        - output: ``(batch, num_classes)``
    """
    stem = nn.Sequential(conv3x3(3, _WIDTHS[0], stride=2), nn.BatchNorm2d(_WIDTHS[0]), nn.ReLU(inplace=True))
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=stem)
    for i, (before, width) in enumerate(itertools.pairwise((_WIDTHS[0], *_WIDTHS)), start=1):
        layers[f"block{i}"] = _block(before, width)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(_WIDTHS[-1], num_classes)
    return nn.Sequential(layers)


def _block(before: int, width: int) -> nn.Module:
    if before == width:
        return BasicBlock(width, width)  # type: ignore[no-any-return]
    shortcut = nn.Sequential(conv1x1(before, width, stride=2), nn.BatchNorm2d(width))
    return BasicBlock(before, width, stride=2, downsample=shortcut)  # type: ignore[no-any-return]
