"""CoC1d, CoC2d and CoC3d: convolutions with associated kernels, for people who write networks."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import torch
from torch import nn

from .config import Config, resolve_config
from .maps.kernel_map import Conv
from .surgery.conversion import Method, build_map, maps_for
from .surgery.registration import register


class _Associated:
    """Takes the arguments of the plain class, then its own."""

    #: What :func:`convofconv.reparameterize` makes of the layer.
    plain_class: ClassVar[type[Conv]]

    def __init__(
        self,
        *args: Any,
        method: Method = "coc",
        config: Config | str = "poster",
        device: torch.device | str | int | None = None,  # named, for torch.nn.utils.skip_init looks whether it is
        **kwargs: Any,
    ) -> None:
        resolved = resolve_config(config)
        map_types = maps_for(method, resolved)
        super().__init__(*args, **kwargs if device is None else {"device": device, **kwargs})
        conv: Any = self
        name = type(self).__name__
        builds = [functools.partial(map_type.for_conv, conv, resolved) for map_type in map_types]
        for kernel_map in [build_map(build, name, conv) for build in builds]:
            register(conv, kernel_map, name)


class CoC1d(_Associated, nn.Conv1d):
    """:class:`torch.nn.Conv1d` whose kernels collaborate; arguments as there, and those of :class:`CoC2d`.

    Shape:
        - input: ``(N, ci, L)``
        - output: as of ``nn.Conv1d``

    Examples:
        >>> CoC1d(4, 8, 3)(torch.randn(2, 4, 10)).shape
        torch.Size([2, 8, 8])
    """

    plain_class = nn.Conv1d


class CoC2d(_Associated, nn.Conv2d):
    """:class:`torch.nn.Conv2d` whose kernels collaborate; arguments as there, its own by keyword.

    :func:`convofconv.reparameterize` folds it into a common ``nn.Conv2d``. A 1×1 kernel is associated too, and maps
    that fix the kernels' scale are taken whatever follows: who writes the layer knows.

    Args:
        method: as in :func:`convofconv.convert`.
        config: hyper-parameters, or the name of a preset.

    Shape:
        - input: ``(N, ci, H, W)``
        - output: as of ``nn.Conv2d``

    Raises:
        ArgumentTypeError, ConfigError: ``method`` or ``config`` is wrong.

    Source: poster, steps 0-4.

    Examples:
        >>> layer = CoC2d(3, 8, 3, padding=1, bias=False, config=Config(grid_side=3))
        >>> layer(torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 8, 16, 16])
    """

    plain_class = nn.Conv2d


class CoC3d(_Associated, nn.Conv3d):
    """:class:`torch.nn.Conv3d` whose kernels collaborate; arguments as there, and those of :class:`CoC2d`.

    Shape:
        - input: ``(N, ci, D, H, W)``
        - output: as of ``nn.Conv3d``

    Examples:
        >>> CoC3d(2, 8, 3)(torch.randn(1, 2, 5, 5, 5)).shape
        torch.Size([1, 8, 3, 3, 3])
    """

    plain_class = nn.Conv3d
