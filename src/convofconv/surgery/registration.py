"""Registering kernel maps on a conv, in the way that their start asks for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import ConversionWarning, ShapeError
from ..maps import METHODS
from ..maps.kernel_map import Conv, KernelMap
from ..maps.registered import describe, weight_maps
from ..torch_private import give_own_class, has_values
from .converted_conv import answer_like_plain
from .optimizer_check import expect_optimizer


def register_all(plan: Sequence[tuple[str, Conv, list[KernelMap]]], start: bool = True) -> None:
    """Register the maps of every conv; convs with the same weight have the same maps and the same start.

    Args:
        plan: name, conv and maps.
        start: begin as the maps' configurations ask for; otherwise a checkpoint is about to be loaded.
    """
    begun: set[int] = set()
    for name, conv, maps in plan:
        weight = cast(nn.Parameter, conv.weight)
        solved = weight.detach().clone() if id(weight) in begun and has_values(weight) else None
        begun.add(id(weight))
        for kernel_map in maps:
            register(conv, kernel_map, name, start)
        if solved is not None:  # for already, by way of another conv
            weight.data.copy_(solved)
    kernels = [cast(parametrize.ParametrizationList, weight_maps(conv)).original for _, conv, _ in plan]
    new = [parameter for _, _, maps in plan for kernel_map in maps for parameter in kernel_map.parameters()]
    expect_optimizer(cast(list[nn.Parameter], kernels), new)


def register(conv: Conv, kernel_map: KernelMap, name: str, start: bool = True) -> None:
    """Register one map on a conv in the way its start asks for, and let the conv behave like a plain one."""
    if parametrize.is_parametrized(conv) and not parametrize.is_parametrized(conv, "weight"):
        # Torch would put the weight's property into the class that it made for the conv's bias and its copies, too.
        give_own_class(conv)
    if kernel_map.start_mode != "identity" and start:
        _register_changing(conv, kernel_map, name)
    else:
        kernel_map.start_from_identity()  # which takes no solving, whatever it would start from
        _parametrize(conv, kernel_map)
    answer_like_plain(conv)


def _parametrize(conv: Conv, kernel_map: KernelMap) -> None:
    """Register a map; torch tries those of others out, ours are known to keep shape and dtype."""
    known = type(kernel_map) in METHODS.values()
    parametrize.register_parametrization(conv, "weight", kernel_map, unsafe=known)
    cast(parametrize.ParametrizationList, weight_maps(conv)).unsafe = False  # for whatever is registered next


def _register_changing(conv: Conv, kernel_map: KernelMap, name: str) -> None:
    """Register a map that does not start from the identity.

    Of the first map of a weight torch takes ``right_inverse(weight)`` for basic kernels, of others it takes nothing.
    """
    weight, in_front = conv.weight.detach().clone(), list(weight_maps(conv) or ())
    solves = kernel_map.start_mode == "solve" and _solvable(conv, kernel_map, name)
    if solves and not in_front:
        _parametrize(conv, kernel_map)
        return
    basic = _solve(kernel_map, in_front, weight) if solves else None
    if solves and basic is None:
        warnings.warn(
            f"{name or 'the root conv'} ({describe(conv)}): a map in front of the association has no inverse, so this "
            "layer's association starts from the identity",
            ConversionWarning,
            stacklevel=4,
        )
    if basic is None:
        kernel_map.start_from_identity()
    parametrize.register_parametrization(conv, "weight", kernel_map)
    if basic is not None or not in_front:
        registered = cast(parametrize.ParametrizationList, weight_maps(conv))
        cast(nn.Parameter, registered.original).data.copy_(weight if basic is None else basic)
    if kernel_map.start_mode == "kaiming":
        kernel_map.reset_parameters()


@torch.no_grad()
def _solve(kernel_map: KernelMap, in_front: Sequence[nn.Module], weight: Tensor) -> Tensor | None:
    """Basic kernels that give the weight through all maps, ``None`` where one has no inverse."""
    if not all(hasattr(one, "right_inverse") for one in in_front):
        return None
    basic = weight.clone()
    try:
        for one in (kernel_map, *reversed(in_front)):
            basic = cast(Tensor, cast(Any, one).right_inverse(basic))
    # The last two are what singular ones raise.
    except (NotImplementedError, ShapeError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        return None
    return basic


def _solvable(conv: Conv, kernel_map: KernelMap, name: str) -> bool:
    """Whether basic kernels can be solved for without losing more than half of the weight's digits."""
    if not has_values(conv.weight):
        return True
    try:
        condition = kernel_map.condition_number()
    except NotImplementedError:
        condition = float("inf")
    limit = torch.finfo(torch.promote_types(conv.weight.dtype, torch.float32)).eps ** -0.5
    if condition <= limit:
        return True
    warnings.warn(
        f"{name or 'the root conv'} ({describe(conv)}): the association cannot be solved for basic kernels (condition "
        f"number {condition:.3g}, limit {limit:.3g}), so this layer starts from the identity",
        ConversionWarning,
        stacklevel=5,
    )
    return False
