"""The normalisation layers of a model: which convs they follow, and whether they look trained."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..torch_private import ConvNd, has_values, parameters_of

_TRANSPARENT = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def followed_by_norm(model: nn.Module) -> set[str]:
    """Names of the convs that a normalisation layer of as many channels follows in the order of the modules."""
    leaves = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, ConvNd)
        or (
            (not any(module.children()) or _is_norm_with_activation(module))
            and not isinstance(module, _TRANSPARENT)
            and "parametrizations" not in name.split(".")
        )
    ]
    return {
        name
        for (name, module), (_, after) in itertools.pairwise(leaves)
        if isinstance(module, ConvNd) and _norm_channels(after) == getattr(module, "out_channels", -1)
    }


def _is_norm_with_activation(module: nn.Module) -> bool:
    """Whether a module with children is itself a norm, such as timm's ``BatchNormAct2d``: it has a scale of its own."""
    return "weight" in parameters_of(module) and _norm_channels(module) is not None


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer, by its class's name; ``NormedConv2d`` is a conv."""
    named = "norm" in type(module).__name__.lower()
    return named and not isinstance(module, ConvNd | nn.Linear | nn.Embedding)


def _norm_channels(module: nn.Module) -> int | None:
    if not is_norm(module):
        return None
    scale = getattr(module, "weight", None)
    if isinstance(scale, Tensor) and not is_lazy(scale):
        return scale.numel()
    return getattr(module, "num_features", getattr(module, "num_channels", None))  # GroupNorm has the latter


def looks_trained(model: nn.Module) -> bool:
    """Whether a norm's statistics or scales have moved from their start."""
    for module in model.modules():
        mean = getattr(module, "running_mean", None)
        if isinstance(mean, Tensor) and not is_lazy(mean) and has_values(mean) and bool(mean.any()):
            return True
        scale = getattr(module, "weight", None) if _norm_channels(module) else None
        if isinstance(scale, Tensor) and not is_lazy(scale) and has_values(scale) and scale.unique().numel() > 1:
            return True
    return False
