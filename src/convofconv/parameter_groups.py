"""Parameter groups for an optimizer: what to decay, and at which rate super kernels learn."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

from torch import nn

from .errors import ArgumentTypeError, ConfigError, listing
from .maps.kernel_map import KernelMap
from .surgery.norm_layers import is_norm


def param_groups(
    model: nn.Module,
    weight_decay: float,
    lr: float | None = None,
    super_kernel_lr: float | None = None,
    super_kernel_weight_decay: float | None = None,
    multipliers: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Split a model's trainable parameters into groups for a torch optimizer.

    Weights are decayed; biases, the parameters of normalisation layers and those of norms and gains inside this
    package's kernel maps are not (everything of at most one dimension, too). Super kernels are decayed like weights, as
    the paper's released settings do, by default.

    Args:
        model: converted or not.
        weight_decay: of weights and super kernels.
        lr: learning rate, needed for ``multipliers``; by default the optimizer's own.
        super_kernel_lr: learning rate of super kernels; by default that of everything else.
        super_kernel_weight_decay: by default ``weight_decay``.
        multipliers: from patterns of parameter names to factors on ``lr``; the first pattern that matches counts.

    Returns:
        Groups with ``params``, ``weight_decay``, maybe ``lr``, and a ``name`` of its own that says what is in it.

    Raises:
        ArgumentTypeError: ``model`` is no module.
        ConfigError: a rate or decay is negative, a multiplier comes without ``lr``, or a pattern matches nothing.

    Examples:
        >>> from convofconv import convert
        >>> model = convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
        >>> groups = param_groups(model, weight_decay=1e-4, super_kernel_lr=0.01)
        >>> [(group["name"], group["weight_decay"], len(group["params"])) for group in groups]
        [('weights', 0.0001, 1), ('norms and biases', 0.0, 3), ('super kernels', 0.0001, 1)]
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"param_groups takes an nn.Module, got {type(model).__name__}")
    multipliers = multipliers or {}
    for what, value in (
        ("weight_decay", weight_decay),
        ("lr", lr),
        ("super_kernel_lr", super_kernel_lr),
        ("super_kernel_weight_decay", super_kernel_weight_decay),
        *multipliers.items(),
    ):
        if value is not None and not value >= 0:
            raise ConfigError(f"param_groups: {what} must be at least 0, got {value}")
    if multipliers and lr is None:
        raise ConfigError("param_groups: multipliers need lr")
    names = [name for name, _ in model.named_parameters()]
    for pattern in multipliers:
        if not fnmatch.filter(names, pattern):
            raise ConfigError(f"param_groups: no parameter matches {pattern!r}; there are {listing(names)}")

    decays = {
        "weights": weight_decay,
        "norms and biases": 0.0,
        "super kernels": weight_decay if super_kernel_weight_decay is None else super_kernel_weight_decay,
    }
    groups: dict[tuple[str, float | None], dict[str, Any]] = {}
    kinds = _kinds(model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = kinds[id(parameter)]
        rate = super_kernel_lr if kind == "super kernels" and super_kernel_lr is not None else lr
        factor = next((f for pattern, f in multipliers.items() if fnmatch.fnmatchcase(name, pattern)), None)
        rate = rate if factor is None or rate is None else rate * factor
        group = groups.setdefault((kind, rate), {"params": [], "weight_decay": decays[kind], "name": kind})
        group["params"].append(parameter)
        if rate is not None:
            group["lr"] = rate
    order = list(decays)
    kinds_of_groups = [kind for kind, _ in groups]
    for (kind, rate), group in groups.items():
        if kinds_of_groups.count(kind) > 1:  # Lightning's LearningRateMonitor takes every name once
            group["name"] = f"{kind}, lr={rate}"
    return [groups[key] for key in sorted(groups, key=lambda key: order.index(key[0]))]


def _kinds(model: nn.Module) -> dict[int, str]:
    kinds: dict[int, str] = {}
    for module in model.modules():
        norm = is_norm(module)
        for name, parameter in module.named_parameters(recurse=False):
            kind = "norms and biases" if norm or parameter.dim() <= 1 else "weights"
            kind = module.parameter_groups.get(name, kind) if isinstance(module, KernelMap) else kind
            kinds.setdefault(id(parameter), kind)
    return kinds
