"""The convs of a model, and what is registered on their weights.

Nothing about a conversion is recorded in a model: what is converted can be read off it at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from torch import nn
from torch.nn.utils import parametrize

from ..torch_private import ConvNd, parametrizations_of
from .kernel_map import Conv, KernelMap


def convs(model: nn.Module) -> Iterator[tuple[str, Conv]]:
    """All convolutions by name, each module once."""
    for name, module in model.named_modules():
        if isinstance(module, ConvNd):
            yield name, cast(Conv, module)


def weight_maps(module: nn.Module) -> parametrize.ParametrizationList | None:
    """Everything that is registered on a module's weight, of whatever library, or ``None``."""
    return parametrizations_of(module)


def kernel_maps(module: nn.Module) -> tuple[KernelMap, ...]:
    """The kernel maps on a module's weight, in the order of their application; none for other modules.

    Examples:
        >>> from convofconv import convert
        >>> model = convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), "coc+stnd")
        >>> [type(kernel_map).__name__ for kernel_map in kernel_maps(model[0])], kernel_maps(model[1])
        (['SpatialAssociation', 'Standardization'], ())
    """
    return tuple(m for m in weight_maps(module) or () if isinstance(m, KernelMap))


def describe(conv: nn.Module) -> str:
    """Class, channels and kernel size in a few words, of a conv that may lack what convs have."""
    channels = (str(getattr(conv, name, "?")) for name in ("in_channels", "out_channels"))
    text = f"{parametrize.type_before_parametrizations(conv).__name__} {'→'.join(channels)}"
    if size := kernel_size(conv):
        text += ", " + "×".join(map(str, size))
    groups = getattr(conv, "groups", 1)
    return text + (f", groups={groups}" if groups != 1 else "")


def kernel_size(conv: nn.Module) -> tuple[object, ...]:
    """The kernel size that a conv says it has, empty if it says none."""
    size = getattr(conv, "kernel_size", ())
    return tuple(size) if isinstance(size, Sequence) else (size,)
