"""Which layers are looked at where none are named."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ...errors import ConfigError
from ..models.detector import takes_list
from .input_images import input_channels, own_size
from .kernel_grids import associated_layers, layers_with_kernels
from .layer_outputs import field_network, find_layer


def kernel_layers(networks: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """The first and the middle one of the convs that are associated in the first converted network, or would be.

    Raises:
        ConfigError: the networks have no conv with more than one tap.

    Examples:
        >>> kernel_layers({"plain": nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))})
        ('0', '1')
    """
    names = _names(networks)
    return tuple(dict.fromkeys((names[0], names[len(names) // 2])))


@torch.no_grad()
def field_layer(networks: Mapping[str, nn.Module]) -> str:
    """The outermost module around the last such conv of the backbone that gives a feature map: its last stage.

    Raises:
        ConfigError: no module around it gives one.

    Examples:
        >>> field_layer({"plain": nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.AdaptiveAvgPool2d(1))})
        '0'
    """
    network = next(iter(networks.values()))
    names = _names(networks)
    backbone = [name for name in names if name.startswith("backbone.body.")]
    last = (backbone or [name for name in names if name.startswith("backbone.")] or names)[-1]
    parts = last.split(".")
    candidates = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    if takes_list(network):
        candidates = [name for name in candidates if name.startswith("backbone.")]
    for name in candidates:
        inside, own = field_network(network, name)
        side = max(64, min(224, own_size(inside)))
        images = torch.zeros(2, input_channels(inside), side, side)
        modes = [(module, module.training) for module in inside.modules()]
        try:
            find_layer(inside.eval(), own, lambda inside=inside, images=images: inside(images))  # type: ignore[misc]
        except ConfigError:
            continue
        finally:
            for module, mode in modes:
                module.training = mode
        return name
    raise ConfigError(f"no module around {last} gives a feature map; name a layer that does (--layer)")


def _names(networks: Mapping[str, nn.Module]) -> tuple[str, ...]:
    every = list(networks.values())
    names = next((found for network in every if (found := associated_layers(network))), layers_with_kernels(every[0]))
    if not names:
        raise ConfigError("the networks have no conv with more than one tap whose kernels could be looked at")
    return names
