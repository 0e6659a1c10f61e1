"""Rebuild a conversion from a checkpoint: which convs carried which maps, with which settings, is in its state dict."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from ..errors import ArgumentTypeError, ConfigError, SurgeryError, listing
from ..maps.kernel_map import Conv, KernelMap, read_settings
from ..maps.registered import describe, kernel_maps
from ..runtime.kernel_cache import cache_kernels
from ..torch_private import ConvNd
from .conversion import build_map
from .obstacles import obstacles
from .registration import register_all
from .selection import refuse_wrapped

ModelT = TypeVar("ModelT", bound=nn.Module)

_SETTINGS_KEY = re.compile(r"^(?:(?P<conv>.*)\.)?parametrizations\.weight\.(?P<position>\d+)\._extra_state$")


def convert_like(model: ModelT, state_dict: Mapping[str, Any]) -> ModelT:
    """Convert ``model`` in place as the network was that ``state_dict`` comes from; then the state dict loads strictly.

    Args:
        model: a network of the same architecture with plain convs; those with kernel maps, ``CoC2d`` layers for
            example, stay as they are.
        state_dict: from ``state_dict()`` of a converted network; if it is a plain one's, nothing is converted.

    Returns:
        ``model`` itself. Its parameters are not the checkpoint's yet: call ``model.load_state_dict(state_dict)``.

    Raises:
        ArgumentTypeError: an argument is of the wrong type.
        ConfigError: the checkpoint names a kernel map that no class of this process has.
        SurgeryError: the checkpoint's convs are not those of the model.

    Examples:
        >>> from convofconv import convert
        >>> trained = convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), "coc+stnd")
        >>> plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        >>> model = convert_like(plain, trained.state_dict())
        >>> model.load_state_dict(trained.state_dict())
        <All keys matched successfully>
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"convert_like takes an nn.Module, got {type(model).__name__}")
    if not isinstance(state_dict, Mapping):
        raise ArgumentTypeError(f"convert_like takes a state dict, got {type(state_dict).__name__}")
    refuse_wrapped(model)
    saved = _settings_by_conv(state_dict)
    by_name = _convs_by_every_name(model)
    if strange := [name for name in saved if name not in by_name]:
        raise SurgeryError(
            f"the checkpoint has kernel maps for {listing(strange)}, no convs of this {type(model).__name__}; its "
            f"convs are {listing(by_name)}"
        )
    shared: dict[int, list[KernelMap]] = {}
    plan: list[tuple[str, Conv, list[KernelMap]]] = []
    planned: set[Conv] = set()
    obstacle = obstacles(model)
    for name, settings in saved.items():
        conv = by_name[name]
        if conv in planned:  # by another of its names
            continue
        planned.add(conv)
        if kernel_maps(conv):  # a CoC layer; loading compares the settings
            continue
        if reason := obstacle(conv):
            raise SurgeryError(f"{name or 'the root conv'} ({describe(conv)}) cannot be converted: {reason}")
        if id(conv.weight) not in shared:
            shared[id(conv.weight)] = [_build(name, conv, dict(one)) for one in settings]
        plan.append((name, conv, shared[id(conv.weight)]))
    register_all(plan, start=False)
    if saved:
        cache_kernels(model)
    return model


def is_converted(state_dict: Mapping[str, Any]) -> bool:
    """Whether a state dict comes from a converted network."""
    return any(_SETTINGS_KEY.match(key) for key in state_dict)


def _convs_by_every_name(model: nn.Module) -> dict[str, Conv]:
    """All convolutions, those that the model holds in several places by each name: state dicts have them all."""
    every = model.named_modules(remove_duplicate=False)
    return {name: cast(Conv, module) for name, module in every if isinstance(module, ConvNd)}


def _settings_by_conv(state_dict: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for key, value in state_dict.items():
        if (match := _SETTINGS_KEY.match(key)) and isinstance(value, Tensor):
            found.setdefault(match["conv"] or "", {})[int(match["position"])] = read_settings(value)
    return {conv: [maps[i] for i in sorted(maps)] for conv, maps in found.items()}


def _build(name: str, conv: Conv, settings: dict[str, Any]) -> KernelMap:
    classes = _all_classes(KernelMap)
    map_name = settings.pop("map")
    if map_name not in classes:
        raise ConfigError(
            f"{name}: the checkpoint has a kernel map {map_name}, which no class is called; there are "
            f"{listing(classes)}. Import the module that defines it first"
        )
    try:
        return build_map(functools.partial(classes[map_name].from_settings, conv, settings), name, conv)
    except TypeError as error:
        raise ConfigError(f"{name}: the settings of {map_name} in the checkpoint do not fit: {error}") from error


def _all_classes(base: type[KernelMap]) -> dict[str, type[KernelMap]]:
    found = {cls.__name__: cls for cls in base.__subclasses__()}
    for cls in base.__subclasses__():
        found |= _all_classes(cls)
    return found
