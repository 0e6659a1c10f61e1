"""Surgery on models: :func:`convert` registers kernel maps on convs, :func:`reparameterize` folds them into plain ones.

A converted conv keeps its class, forward and arguments; only its ``weight`` is now computed, by the maps in
``conv.parametrizations.weight``. Nothing else about the model is recorded: what is converted can always be read off it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .config import Config, resolve_config
from .errors import ArgumentTypeError, ConfigError, ConversionWarning, ConvOfConvError, SurgeryError, listing
from .maps import (
    Conv,
    KernelLayerNorm,
    KernelMap,
    Orthogonalization,
    SpatialAssociation,
    Standardization,
    no_autocast,
)
from .selection import (
    Where,
    convs,
    describe,
    followed_by_norm,
    kernel_maps,
    looks_trained,
    obstacle,
    parse_where,
    refuse_wrapped,
    weight_maps,
)

Method = str | type[KernelMap] | Sequence[str | type[KernelMap]]
ModelT = TypeVar("ModelT", bound=nn.Module)

#: The methods by name, in the order in which their maps are applied.
METHODS: dict[str, type[KernelMap]] = {"coc": SpatialAssociation, "stnd": Standardization, "orth": Orthogonalization}


def convert(
    model: ModelT, method: Method = "coc", config: Config | str = "poster", where: Where | None = None
) -> ModelT:
    """Convert the convs of ``model`` in place: from now on their kernels are computed by kernel maps.

    Convert before you build the optimizer and before DDP, FSDP or ``torch.compile``. With the default start the
    network computes what it computed before until you train it.

    Args:
        model: any module; a single conv too.
        method: ``"coc"`` (association), ``"stnd"`` (weight standardization) or ``"orth"`` (orthogonalization), joined
            with ``+`` (``"coc+stnd"``; always applied in this order); or :class:`KernelMap` subclasses, applied in the
            order given.
        config: hyper-parameters of the association, or ``"poster"``, ``"released"``, ``"lightweight"``.
        where: which convs to convert. By default every one whose kernel is not 1×1, but for the prediction layers of
            detectors. Otherwise name patterns with ``*`` (``"layer4.*"``, or several of them), or a function of
            ``(name, module)``.

    Maps that fix the kernels' scale (``stnd``, ``orth``, ``config.kernel_norm``) are registered only on convs that a
    normalisation layer follows: the next module in the model's order has "Norm" in its class name and as many channels.
    Tied convs stay tied and share their maps; frozen convs stay frozen.

    Returns:
        ``model`` itself.

    Raises:
        ArgumentTypeError, ConfigError: an argument is wrong, a pattern matches no conv.
        SurgeryError: nothing can be converted, or the model is wrapped or compiled already.

    Source: poster, "Proposed method"; the released configurations convert every conv with k ≠ 1.

    Example:
        >>> model = convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), "coc+stnd")
        >>> [type(m).__name__ for m in model[0].parametrizations.weight]
        ['SpatialAssociation', 'Standardization']
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"convert takes an nn.Module, got {type(model).__name__}")
    map_types = _parse_method(method)
    config = resolve_config(config)
    refuse_wrapped(model)
    followed = followed_by_norm(model)
    plan = _plan(model, map_types, config, parse_where(model, where), followed)
    if any(kernel_map.changes_scale for _, _, maps in plan for kernel_map in maps) and looks_trained(model):
        warnings.warn(
            f"{_method_name(map_types)} changes the kernels of this network, which looks trained: its function is not "
            'kept, so train on or use method="coc" with a configuration without kernel_norm, which keeps it',
            ConversionWarning,
            stacklevel=2,
        )
    for _, conv, maps in plan:
        for kernel_map in maps:
            _register(conv, kernel_map)
    return model


def reparameterize(model: ModelT, inplace: bool = False) -> ModelT:
    """Fold every kernel map into its conv: plain convs of the original class, with the original state-dict keys.

    Kernels are computed in float32 at least and cast back. A model without kernel maps comes back as it is.

    Args:
        model: a converted model, not wrapped or compiled.
        inplace: fold ``model`` itself; its parameters keep their identity, so an optimizer goes on with them. Otherwise
            a copy is folded and the original can be trained on.

    Raises:
        ArgumentTypeError: ``model`` is no module.
        SurgeryError: the model is wrapped or compiled, or a weight also carries a parametrization of another library.

    Source: poster, "Before testing, step (1~3) are calculated in advance only once".

    Example:
        >>> plain = reparameterize(convert(nn.Sequential(nn.Conv2d(3, 8, 3))))
        >>> list(plain.state_dict())
        ['0.weight', '0.bias']
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"reparameterize takes an nn.Module, got {type(model).__name__}")
    refuse_wrapped(model)
    model = model if inplace else copy.deepcopy(model)
    converted: list[tuple[Conv, parametrize.ParametrizationList]] = []
    for name, conv in convs(model):
        registered = weight_maps(conv)
        if registered is None or not kernel_maps(conv):
            continue
        if foreign := [type(m).__name__ for m in registered if not isinstance(m, KernelMap)]:
            raise SurgeryError(
                f"{name or 'the root conv'}: its weight also carries {listing(foreign)}, which convofconv did not "
                "register; remove that first (torch.nn.utils.parametrize.remove_parametrizations)"
            )
        converted.append((conv, registered))
    # All kernels before any assignment: tied convs share one weight, and each would otherwise apply α once more.
    kernels = {id(registered.original): _effective_weight(registered) for _, registered in converted}
    for conv, registered in converted:
        weight = cast(nn.Parameter, registered.original)
        weight.data = kernels[id(weight)]
        _unparametrize(conv, weight)
    return model


@torch.no_grad()
def _effective_weight(registered: parametrize.ParametrizationList) -> Tensor:
    """Apply the maps in float32 at least, and cast back."""
    original = cast(nn.Parameter, registered.original)
    wide = torch.promote_types(original.dtype, torch.float32)
    registered = registered if wide == original.dtype else copy.deepcopy(registered).to(wide)
    with no_autocast(original.device):
        effective: Tensor = registered()
        return effective.to(original.dtype)


def _unparametrize(conv: nn.Module, weight: nn.Parameter) -> None:
    """Put ``weight`` back as a plain parameter.

    torch's own remove_parametrizations deletes the property from the class, which copies of the module share: they
    would lose their weight. So the class stays as it is and only this module leaves it.
    """
    lists = cast(nn.ModuleDict, conv.parametrizations)
    if len(lists) == 1:
        conv.__class__ = parametrize.type_before_parametrizations(conv)
        del conv._modules["parametrizations"]
    else:  # something else of the conv, its bias say, carries another parametrization: keep that one
        cls = type(conv)
        members = {key: value for key, value in vars(cls).items() if key not in ("weight", "__dict__", "__weakref__")}
        conv.__class__ = type(cls.__name__, cls.__bases__, members)
        del lists["weight"]
    conv._parameters = {"weight": weight, **conv._parameters}  # in front, where every conv has it


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


def _plan(
    model: nn.Module,
    map_types: Sequence[type[KernelMap]],
    config: Config,
    reason_to_skip: Callable[[str, Conv], str],
    followed: set[str],
) -> list[tuple[str, Conv, list[KernelMap]]]:
    """Build all maps before any conv is touched, so that an error leaves the model as it was."""
    plan: list[tuple[str, Conv, list[KernelMap]]] = []
    skipped: list[str] = []
    shared: dict[int, list[KernelMap]] = {}
    for name, conv in convs(model):
        reason = reason_to_skip(name, conv) or obstacle(conv)
        wanted = _with_kernel_norm(map_types, config)
        wanted = [map_type for map_type in wanted if name in followed or not map_type.changes_scale]
        reason = reason or ("" if wanted else "no normalisation layer follows")
        if reason:
            skipped.append(f"{name or 'root'} ({reason})")
            continue
        if id(conv.weight) not in shared:
            shared[id(conv.weight)] = [_build(map_type, name, conv, config) for map_type in wanted]
        plan.append((name, conv, shared[id(conv.weight)]))
    if not plan:
        found = f"its convs are {listing(skipped)}" if skipped else "it has no conv layer"
        raise SurgeryError(f"nothing to convert in this {type(model).__name__}: {found}")
    _refuse_split_ties(model, plan)
    return plan


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


def _with_kernel_norm(map_types: Sequence[type[KernelMap]], config: Config) -> list[type[KernelMap]]:
    out: list[type[KernelMap]] = []
    for map_type in map_types:
        out.append(map_type)
        if map_type is SpatialAssociation and config.kernel_norm:
            out.append(KernelLayerNorm)
    return out


def _register(conv: Conv, kernel_map: KernelMap) -> None:
    if isinstance(kernel_map, SpatialAssociation) and kernel_map.config.init != "identity":
        # On registration torch would replace the basic kernels by right_inverse(weight); they start as they are.
        kernel_map.start_from_identity()
        parametrize.register_parametrization(conv, "weight", kernel_map)
        kernel_map.reset_parameters()
    else:
        parametrize.register_parametrization(conv, "weight", kernel_map)


def _build(map_type: type[KernelMap], name: str, conv: Conv, config: Config) -> KernelMap:
    try:
        kernel_map = map_type.for_conv(conv, config)
    except ConvOfConvError as error:
        raise type(error)(f"{name or 'the root conv'} ({describe(conv)}): {error}") from error
    return kernel_map.requires_grad_(conv.weight.requires_grad)
