"""Conversion: :func:`convert` registers kernel maps on convs.

A converted conv stays an instance of its class, with its forward and arguments; only its ``weight`` is now computed, by
the maps in ``conv.parametrizations.weight``. Nothing else about the model is recorded: what is converted can always be
read off it.
"""

from __future__ import annotations

import fnmatch
import functools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..config import Config, resolve_config
from ..errors import ArgumentTypeError, ConfigError, ConversionWarning, ConvOfConvError, SurgeryError, listing
from ..maps import METHODS
from ..maps.kernel_map import Conv, KernelMap
from ..maps.registered import convs, describe, kernel_maps
from ..runtime.kernel_cache import cache_kernels
from .norm_layers import followed_by_norm, looks_trained
from .obstacles import NO_CONV_LAYER, obstacles, other_convs
from .registration import register_all
from .selection import Where, check_patterns, parse_where, refuse_wrapped

Method = str | type[KernelMap] | Sequence[str | type[KernelMap]]
Configs = Config | str | Mapping[str, Config | str]
ModelT = TypeVar("ModelT", bound=nn.Module)


def convert(model: ModelT, method: Method = "coc", config: Configs = "poster", where: Where | None = None) -> ModelT:
    """Convert the convs of ``model`` in place: from now on their kernels are computed by kernel maps.

    Convert before you build the optimizer and before DDP, FSDP or ``torch.compile``. With the default start the
    network computes what it computed before until you train it.

    Args:
        model: any module; a single conv too.
        method: names of :data:`convofconv.METHODS` joined with ``+``, ``"coc"`` (the association) or ``"coc+stnd"``
            (weight standardization behind it) for example, always applied in the order that they have there; or
            :class:`KernelMap` subclasses, applied in the order given.
        config: hyper-parameters of the association, or ``"poster"``, ``"released"``, ``"lightweight"``; or a mapping
            from name patterns to these, of which the first that matches counts.
        where: which convs to convert. By default every one whose kernel is not 1×1, except for the prediction layers of
            detectors. Otherwise a :class:`Selection` (by kind and name), name patterns with ``*`` (``"layer4.*"``, or
            several of them), or a function of ``(name, module)``; the latter two take convs of any kind, 1×1 ones too.

    Maps that fix the kernels' scale (``stnd``, ``orth``, ``norm``, ``config.kernel_norm``) are registered only on convs
    that a normalisation layer follows: the next module in the model's order has "Norm" in its class name and as many
    channels. Tied convs stay tied and share their maps; frozen convs stay frozen.

    Returns:
        ``model`` itself.

    Raises:
        ArgumentTypeError, ConfigError: an argument is wrong, a pattern matches no conv.
        SurgeryError: nothing can be converted, or the model is wrapped or compiled already.

    Source: poster, "Proposed method"; the released configurations convert every conv with k ≠ 1 of the
    backbone, no head and no neck.

    Examples:
        >>> model = convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), "coc+stnd")
        >>> [type(m).__name__ for m in model[0].parametrizations.weight]
        ['SpatialAssociation', 'Standardization']
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"convert takes an nn.Module, got {type(model).__name__}")
    map_types = _parse_method(method)
    config_of = _parse_configs(model, config)
    refuse_wrapped(model)
    plan = _plan(model, map_types, config_of, parse_where(model, where))
    if any(kernel_map.changes_scale for _, _, maps in plan for kernel_map in maps) and looks_trained(model):
        warnings.warn(
            f"{_method_name(map_types)} changes the kernels of this network, which looks trained: its function is not "
            'kept, so train on or use method="coc" with a configuration without kernel_norm, which keeps it',
            ConversionWarning,
            stacklevel=2,
        )
    register_all(plan)
    cache_kernels(model)
    return model


def _parse_method(method: Method) -> list[type[KernelMap]]:
    parts: list[object] = list(method) if isinstance(method, Sequence) and not isinstance(method, str) else [method]
    known = ", ".join(METHODS)
    types: list[type[KernelMap]] = []
    for part in parts:
        if isinstance(part, str):
            names = part.split("+")
            if unknown := [name for name in names if name not in METHODS]:
                raise ConfigError(
                    f"no method is called {listing(map(repr, unknown))}; there are {known}, joined with +"
                )
            types += [METHODS[name] for name in METHODS if name in names]
        elif isinstance(part, type) and issubclass(part, KernelMap):
            types.append(part)
        else:
            raise ArgumentTypeError(f"method takes names ({known}) or subclasses of KernelMap, got {part!r}")
    if not types:
        raise ConfigError(f"no method given; there are {known}, joined with +")
    return types


def _method_name(map_types: Iterable[type[KernelMap]]) -> str:
    return " + ".join(map_type.__name__ for map_type in map_types)


def _parse_configs(model: nn.Module, config: Configs) -> Callable[[str], Config | None]:
    """Turn ``config`` into a function from a conv's name to its configuration, ``None`` where no pattern matches."""
    if not isinstance(config, Mapping):
        one = resolve_config(config)
        return lambda name: one
    if not all(isinstance(pattern, str) for pattern in config):
        raise ArgumentTypeError(f"config as a mapping takes name patterns as keys, got {listing(map(repr, config))}")
    check_patterns(model, config, "config")
    several = {pattern: resolve_config(value) for pattern, value in config.items()}
    return lambda name: next((c for pattern, c in several.items() if fnmatch.fnmatchcase(name, pattern)), None)


def _plan(
    model: nn.Module,
    map_types: Sequence[type[KernelMap]],
    config_of: Callable[[str], Config | None],
    reason_to_skip: Callable[[str, Conv], str],
) -> list[tuple[str, Conv, list[KernelMap]]]:
    """Build all maps before any conv is touched, so that an error leaves the model as it was."""
    plan: list[tuple[str, Conv, list[KernelMap]]] = []
    skipped: list[str] = []
    shared: dict[int, list[KernelMap]] = {}
    asked_for: dict[int, tuple[Config, list[type[KernelMap]]]] = {}
    followed, obstacle = followed_by_norm(model), obstacles(model)
    for name, conv in convs(model):
        config = config_of(name)
        reason = reason_to_skip(name, conv) or obstacle(conv)
        reason = reason or ("" if config else "no configuration for it")
        wanted = _with_companions(map_types, config) if config else []
        wanted = [map_type for map_type in wanted if name in followed or not map_type.changes_scale]
        reason = reason or ("" if wanted else "no normalisation layer follows")
        if reason or config is None:
            skipped.append(f"{name or 'root'} ({reason})")
            continue
        if id(conv.weight) not in shared:
            shared[id(conv.weight)] = [
                build_map(functools.partial(map_type.for_conv, conv, config), name, conv) for map_type in wanted
            ]
            _try_out(name, conv, shared[id(conv.weight)])
            asked_for[id(conv.weight)] = (config, wanted)
        elif asked_for[id(conv.weight)] != (config, wanted):
            raise SurgeryError(f"{name}: its weight is tied to a conv with other maps or settings; give both the same")
        plan.append((name, conv, shared[id(conv.weight)]))
    if not plan:
        skipped += [f"{name or 'root'} ({what}: {NO_CONV_LAYER})" for name, _, what in other_convs(model)]
        found = f"its convs are {listing(skipped)}" if skipped else "it has no conv layer"
        again = any(kernel_maps(conv) for _, conv in convs(model))
        advice = (
            "; to convert it in another way, go back first: convofconv.reparameterize(model) keeps what the network "
            "computes, convofconv.remove(model) its basic kernels"
        )
        kind = parametrize.type_before_parametrizations(model).__name__
        raise SurgeryError(f"nothing to convert in this {kind}: {found}{advice if again else ''}")
    _refuse_split_ties(model, plan)
    return plan


@torch.no_grad()
def _try_out(name: str, conv: Conv, maps: Sequence[KernelMap]) -> None:
    """Refuse maps of others that do not give back a weight of the same kind, before they are registered."""
    weight, where = conv.weight, f"{name or 'the root conv'} ({describe(conv)})"
    for kernel_map in maps:
        if type(kernel_map) in METHODS.values():
            continue
        try:
            out = kernel_map(weight)
        except Exception as error:
            raise SurgeryError(f"{where}: {type(kernel_map).__name__} fails on its weight: {error}") from error
        found = (tuple(out.shape), out.dtype) if isinstance(out, Tensor) else type(out).__name__
        if found != (wanted := (tuple(weight.shape), weight.dtype)):
            raise SurgeryError(
                f"{where}: {type(kernel_map).__name__} must give back a weight of the same shape and dtype, {wanted}, "
                f"got {found}"
            )


def _refuse_split_ties(model: nn.Module, plan: Sequence[tuple[str, Conv, list[KernelMap]]]) -> None:
    """Folding writes α(W) into a shared weight: every owner of that weight must be one that applies α."""
    chosen = {id(conv.weight): name for name, conv, _ in plan}
    converted = {conv for _, conv, _ in plan}
    everywhere = model.named_modules(remove_duplicate=False)  # a shared module has several names
    covered = {f"{name}.weight" if name else "weight" for name, module in everywhere if module in converted}
    for owner, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in chosen and owner not in covered:
            raise SurgeryError(
                f"{chosen[id(parameter)]}: its weight is tied to {owner}, which is not converted; "
                "convert both or neither (argument `where`)"
            )


def maps_for(method: Method, config: Config) -> list[type[KernelMap]]:
    """The kernel maps that a method and a configuration ask for, in the order of their application."""
    return _with_companions(_parse_method(method), config)


def _with_companions(map_types: Sequence[type[KernelMap]], config: Config) -> list[type[KernelMap]]:
    out = list(map_types)
    for map_type in map_types:
        for companion in map_type.companions(config):
            if companion not in out:  # one that is asked for by name comes only there
                before = (place for place, other in enumerate(out) if other.linear or other is map_type)
                out.insert(1 + max(before), companion)
    return out


def build_map(build: Callable[[], KernelMap], name: str, conv: Conv) -> KernelMap:
    """Build a map of a conv, on its device, in its dtype and frozen if it is; an error names the conv."""
    try:
        kernel_map = build()
    except ConvOfConvError as error:
        raise type(error)(f"{name or 'the root conv'} ({describe(conv)}): {error}") from error
    kind = conv.weight.device, conv.weight.dtype
    if any((parameter.device, parameter.dtype) != kind for parameter in kernel_map.parameters()):
        kernel_map = kernel_map.to(*kind)
    return kernel_map.requires_grad_(conv.weight.requires_grad)
