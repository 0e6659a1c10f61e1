"""Images that a network takes: of how many channels, of which size, and what is none."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...errors import ConfigError, ShapeError

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def input_channels(network: nn.Module) -> int:
    """Channels of the images that a network takes: those of its first conv, 3 where it has none.

    Raises:
        ConfigError: it takes sequences or volumes.

    Examples:
        >>> input_channels(nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3)))
        4
    """
    first = next((module for module in network.modules() if isinstance(module, _CONVS)), None)
    if first is None:
        return 3
    if not isinstance(first, nn.Conv2d | nn.ConvTranspose2d):
        kind = parametrize.type_before_parametrizations(first).__name__
        raise ConfigError(
            f"the network's first conv is a {kind}: receptive fields, activation maps and gradients are those of "
            "networks of images. Its kernels can be looked at: --only kernels groups health"
        )
    return first.in_channels


def own_size(network: nn.Module) -> int:
    """The side of images that one of timm's networks says that it is made for; ImageNet's 224 for others.

    Examples:
        >>> own_size(nn.Identity())
        224
    """
    config: Any = getattr(network, "pretrained_cfg", None) or {}
    return int(config.get("input_size", (3, 224, 224))[-1])


def check_images(network: nn.Module, images: Tensor) -> None:
    """Refuse what is no batch of images for a network.

    Raises:
        ShapeError: the message says what was found and what to do.
    """
    if images.ndim != 4 or not images.numel():
        raise ShapeError(f"images must be a batch, (number, channels, height, width); got shape {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ShapeError(f"images must be numbers as the network takes them, got {images.dtype}; normalise them")
    found, wanted = images.shape[1], input_channels(network)
    if found != wanted:
        advice = f"; repeat the channel: images.expand(-1, {wanted}, -1, -1)" if found == 1 else ""
        raise ShapeError(f"the network takes images of {wanted} channels, these have {found}{advice}")
    if not images.isfinite().all():
        raise ShapeError("images have values that are no numbers")
