"""Classifiers of timm, torchvision and of a user's own, with a stem for small images if asked for."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ..recipe.schema import ModelRecipe
from .architectures import find_architecture
from .backbones import architecture, build_from_library, is_own

#: What the libraries call the share of features that is dropped before the last layer.
_DROPOUT = {"timm": "drop_rate", "torchvision": "dropout"}
#: These would answer with the logits of auxiliary classifiers besides when they train.
_WITHOUT_AUXILIARIES = {
    f"torchvision/{name}": {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")
}


def build_classifier(recipe: ModelRecipe, classes: int) -> nn.Module:
    """Build the classifier of a recipe, plain.

    Args:
        recipe: of the network.
        classes: number of classes.

    Shape:
        - input: ``(batch, 3, height, width)``
        - output: ``(batch, classes)``

    Raises:
        ConfigError: there is no such classifier, or it cannot be built as asked.
    """
    name = architecture(recipe.backbone)
    library, _, model = name.partition("/")
    construct = find_architecture(name)
    if library == "torchvision":
        _check_is_classifier(model)
    arguments: dict[str, Any] = {}
    if not is_own(name) or _takes_classes(construct):
        arguments["num_classes"] = classes
    without = _WITHOUT_AUXILIARIES.get(name, {})
    arguments |= {key: value for key, value in without.items() if key not in recipe.options}
    if recipe.dropout:
        if is_own(name):
            raise ConfigError(
                f"model.dropout is of timm's and torchvision's networks; leave it at 0, and give {name} its arguments "
                "by model.options"
            )
        arguments[_DROPOUT[library]] = recipe.dropout
    if recipe.small_images and recipe.weights == "timm":
        raise ConfigError("model.small_images replaces the stem, which model.weights=timm would bring; choose one")
    try:
        network = build_from_library(recipe, **arguments)
    except ConfigError as error:
        if recipe.dropout and f"argument '{_DROPOUT[library]}'" in str(error):
            raise ConfigError(f"model.dropout: {name} has no dropout before its last layer; leave it at 0") from error
        raise
    if recipe.small_images:
        _replace_stem(network, name)
    return network


def _takes_classes(construct: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(construct).parameters
    except ValueError:  # of some that are written in C
        return False
    return "num_classes" in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


@torch.no_grad()
def check_classifies(network: nn.Module, backbone: str, classes: int, height: int, width: int) -> None:
    """Check that a network of a user's own gives logits of so many classes, in evaluation and in training.

    Args:
        network: a classifier that takes images of this size.
        backbone: its name in the recipe.
        classes: number of classes.
        height: of the images.
        width: of the images.

    Raises:
        ConfigError: it gives something else.
    """
    # The libraries' networks give what they are asked for. A copy, because batch norm learns from what it sees.
    networks = [network.eval(), copy.deepcopy(network).train()] if is_own(backbone) else []
    for one in networks:
        with torch.random.fork_rng(devices=[]):
            answer = one(torch.zeros(2, 3, height, width))
        if not isinstance(answer, Tensor):
            found = f"a {type(answer).__name__}"
        elif answer.shape != (2, classes):
            found = f"a tensor of shape {tuple(answer.shape)}"
        else:
            continue
        raise ConfigError(
            f"model.backbone: {backbone} gives {found}{' in training' if one is not network else ''} for two images; "
            f"to classify into {classes} classes it must give a tensor of shape (batch, {classes}), so let it take "
            "num_classes, or set what decides it by model.options"
        )
    network.train()


def _check_is_classifier(model: str) -> None:
    from torchvision import models

    if model not in models.list_models(module=models):
        raise ConfigError(f"model.backbone: torchvision/{model} is no classifier of images")


def _replace_stem(network: nn.Module, name: str) -> None:
    """Let a ResNet look at every pixel: 3×3 instead of a large or deep stem that halves the size, and no pooling."""
    import timm.models.resnet
    import torchvision.models.resnet

    if not isinstance(network, timm.models.resnet.ResNet | torchvision.models.resnet.ResNet):
        raise ConfigError(
            f"model.small_images replaces the stem of a ResNet; {name} is a {type(network).__name__}. Set it to "
            "false, or take a network like resnet18"
        )
    first = next(module for module in network.conv1.modules() if isinstance(module, nn.Conv2d))
    stem = nn.Conv2d(first.in_channels, network.bn1.num_features, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")  # as both libraries do
    network.conv1 = stem
    network.maxpool = nn.Identity()
