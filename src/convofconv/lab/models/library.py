"""Networks of timm and torchvision as a recipe asks for them."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...errors import ConfigError, listing
from ..architectures import build_architecture, find_architecture
from ..recipe import ModelRecipe


def architecture(backbone: str) -> str:
    """Full name of a recipe's backbone; timm's may be written without ``timm/``.

    Examples:
        >>> architecture("resnet18"), architecture("torchvision/vgg11")
        ('timm/resnet18', 'torchvision/vgg11')
    """
    return backbone if backbone.startswith(("timm/", "torchvision/")) else f"timm/{backbone}"


def build_from_library(recipe: ModelRecipe, **arguments: Any) -> nn.Module:
    """Build the backbone of a recipe with its options, and with timm's weights if it asks for them.

    Args:
        recipe: of the network.
        arguments: of the constructor, which follow from the recipe's other keys.

    Raises:
        ConfigError: there is no such network, it cannot be built with these options, or its weights cannot be fetched.
    """
    name = architecture(recipe.backbone)
    construct = find_architecture(name)
    if name.startswith("timm/"):
        arguments["pretrained"] = recipe.weights == "timm"
    if clash := sorted(recipe.options.keys() & arguments.keys()):
        raise ConfigError(f"model.options: {listing(clash)} cannot be among them, other keys of the recipe decide it")
    if recipe.weights != "timm":
        return build_architecture(name, {**recipe.options, **arguments})
    _check_has_weights(name)
    try:
        network: nn.Module = construct(**recipe.options, **arguments)
    except Exception as error:  # without network, every layer of the download raises errors of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"model.weights: {name} cannot be built with timm's weights ({reason}). They are fetched over the network "
            'once; where there is none, set model.weights to the folder of a run, or to "" for random ones'
        ) from error
    return network


def _check_has_weights(name: str) -> None:
    library, _, model = name.partition("/")
    if library != "timm":
        raise ConfigError(f'model.weights: "timm" has no weights of {name}; leave it empty or take a network of timm')
    from timm.models import is_model_pretrained

    if not is_model_pretrained(model):
        raise ConfigError(f"model.weights: timm has no pretrained weights of {model}")
