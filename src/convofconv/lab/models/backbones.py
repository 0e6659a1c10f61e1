"""Networks of timm, torchvision and of a user's own as a recipe asks for them."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...errors import ConfigError, listing
from ..recipe.schema import DataRecipe, ModelRecipe
from .architectures import build_architecture, find_architecture

_OF_ONES_OWN = (
    "For other tasks than classification, a function of your own is called as timm.create_model is, with "
    "features_only=True, and gives a network as timm's: a list of feature maps, whose channels and strides its "
    "feature_info says"
)


def architecture(backbone: str) -> str:
    """Full name of a recipe's backbone; timm's may be written without ``timm/``.

    Examples:
        >>> architecture("resnet18"), architecture("torchvision/vgg11"), architecture("my.nets:build")
        ('timm/resnet18', 'torchvision/vgg11', 'my.nets:build')
    """
    return backbone if backbone.startswith(("timm/", "torchvision/")) or is_own(backbone) else f"timm/{backbone}"


def is_own(backbone: str) -> bool:
    """Whether a recipe's backbone is a function of a user's own, ``module:function``."""
    return ":" in backbone


def same_architecture(one: str, other: str) -> bool:
    """Whether two backbones are one: behind the dot, timm names whose weights of it are meant.

    Examples:
        >>> same_architecture("resnet50.tv_in1k", "timm/resnet50"), same_architecture("my.nets:a", "my.nets:b")
        (True, False)
    """
    names = map(architecture, (one, other))
    bare = {name.partition(".")[0] if name.startswith("timm/") else name for name in names}
    return len(bare) == 1


def build_from_library(recipe: ModelRecipe, **arguments: Any) -> nn.Module:
    """Build the backbone of a recipe with its options, and with timm's weights if it asks for them.

    Args:
        recipe: of the network.
        arguments: of the constructor, which follow from the recipe's other keys.

    Raises:
        ConfigError: there is no such network, it cannot be built with these options, or its weights cannot be fetched.
    """
    name = architecture(recipe.backbone)
    if name.startswith("timm/"):
        arguments["pretrained"] = recipe.weights == "timm"
    if clash := sorted(recipe.options.keys() & arguments.keys()):
        raise ConfigError(f"model.options: {listing(clash)} cannot be among them, other keys of the recipe decide it")
    options = {**recipe.options, **arguments}
    if recipe.weights != "timm":
        return build_architecture(name, options)
    _check_has_weights(name)
    construct = find_architecture(name)
    try:
        network: nn.Module = construct(**options)
    except Exception as error:  # without network, every layer of the download raises errors of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"model.weights: {name} cannot be built with timm's weights ({reason}). They are fetched over the network "
            'once; where there is none, set model.weights to the folder of a run, or to "" for random ones'
        ) from error
    return network


def build_features(recipe: ModelRecipe, advice: str, **arguments: Any) -> Any:
    """Build the backbone of a recipe as timm's network of feature maps, which ``feature_info`` describes.

    Args:
        recipe: of the network.
        advice: what to take in place of a backbone that will not do, for messages.
        arguments: of the constructor, which follow from the recipe's other keys.

    Raises:
        ConfigError: there is no such backbone, it cannot be built as asked, or it gives no maps with channels first.
    """
    name = architecture(recipe.backbone)
    find_architecture(name)
    if is_own(name):
        advice = _OF_ONES_OWN
    elif not name.startswith("timm/"):
        raise ConfigError(f"model.backbone: {name} gives no feature maps. {advice}")
    if name.startswith("timm/hrnet"):  # several would widen their branches for classification first
        arguments["feature_location"] = ""
    try:
        backbone = build_from_library(recipe, features_only=True, **arguments)
    except ConfigError as error:
        if str(error).startswith("model."):  # it names another key, that the backbone is not to blame for
            raise
        raise ConfigError(f"model.backbone: {error}. {advice}") from error
    if not hasattr(backbone, "feature_info"):
        raise ConfigError(f"model.backbone: the network of {name} has no feature_info. {advice}")
    if getattr(backbone, "output_fmt", "NCHW") != "NCHW":
        raise ConfigError(f"model.backbone: the maps of {name} have their channels last. {advice}")
    return backbone


def _check_has_weights(name: str) -> None:
    library, _, model = name.partition("/")
    if library != "timm":
        raise ConfigError(f'model.weights: "timm" has no weights of {name}; leave it empty or take a network of timm')
    from timm.models import is_model_pretrained

    if not is_model_pretrained(model):
        raise ConfigError(f"model.weights: timm has no pretrained weights of {model}")


def check_normalisation(model: ModelRecipe, data: DataRecipe) -> None:
    """Refuse images that are normalised otherwise than those which timm's weights have learnt from.

    Raises:
        ConfigError: the message has the values to put into the recipe; or timm knows no such weights.
    """
    from timm.models import get_pretrained_cfg

    try:
        learnt = get_pretrained_cfg(architecture(model.backbone).removeprefix("timm/"))
    except RuntimeError as error:  # of a tag that timm does not know
        raise ConfigError(f"model.backbone: {error}") from error
    if learnt is None:
        return
    theirs, ours = (*learnt.mean, *learnt.std), (*data.mean, *data.std)
    if max(abs(a - b) for a, b in zip(theirs, ours, strict=True)) > 0.01:
        mean, std = ("[" + ", ".join(map(str, values)) + "]" for values in (learnt.mean, learnt.std))
        raise ConfigError(
            f"data.mean, data.std: timm's weights of {model.backbone} have learnt from images of another "
            f"normalisation; give --data.mean='{mean}' --data.std='{std}'"
        )
