"""Build a network from its name on the command line: ``timm/NAME``, ``torchvision/NAME`` or ``module:factory``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from ...errors import ConfigError, did_you_mean, similar


def build_architecture(name: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a network with random weights.

    Args:
        name: ``timm/resnet50``, ``torchvision/retinanet_resnet50_fpn``, or ``package.module:function``.
        options: keyword arguments of its constructor, ``num_classes`` for example.

    Raises:
        ConfigError: there is no such network, it cannot be built with these options, or is no module.
    """
    options = dict(options or {})
    factory = find_architecture(name)
    try:
        network = factory(**options)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"{name} cannot be built with {options or 'its defaults'}: {str(error) or type(error).__name__}"
        ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{name} gives a {type(network).__name__}, not a torch.nn.Module")
    return network


def find_architecture(name: str) -> Callable[..., Any]:
    """Find the constructor of a network by name, without building anything.

    Raises:
        ConfigError: there is no such network.
    """
    if ":" in name:
        return _import(name)
    library, _, model = name.partition("/")
    libraries = {"timm": _timm, "torchvision": _torchvision}
    if library not in libraries or not model:
        named = [place for place in (f"timm/{name}", f"torchvision/{name}") if _is_known(place)]
        raise ConfigError(
            f"an architecture is timm/NAME, torchvision/NAME or module:function; got {name!r}{did_you_mean(named)}"
        )
    return libraries[library](model)


def _is_known(name: str) -> bool:
    try:
        find_architecture(name)
    except ConfigError:
        return False
    return True


def _timm(model: str) -> Callable[..., nn.Module]:
    import timm

    if not timm.is_model(model):
        raise ConfigError(_no_such("timm", model, timm.list_models()))
    return lambda **options: timm.create_model(model, **options)


def _torchvision(model: str) -> Callable[..., nn.Module]:
    from torchvision import models

    if model not in models.list_models():
        raise ConfigError(_no_such("torchvision", model, models.list_models()))
    # Detectors fetch weights for their backbone by default.
    backbone = (
        {"weights_backbone": None} if "_fpn" in model or model.startswith(("ssd", "fcn", "deeplab", "lraspp")) else {}
    )
    return lambda **options: models.get_model(model, **{"weights": None, **backbone, **options})


def _import(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    if (here := os.getcwd()) not in sys.path:  # as where Python runs a module
        sys.path.append(here)
    hint = ""
    try:
        imported = importlib.import_module(module)
        hint = did_you_mean(similar(attribute, dir(imported)))
        factory = getattr(imported, attribute)
    except (ImportError, AttributeError) as error:
        if module.endswith(".py"):
            hint = f"; write {module.removesuffix('.py')}:{attribute}"
        elif isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
            hint = f"; put the folder of {error.name} on PYTHONPATH, or run coc in that folder"
        raise ConfigError(f"{name} cannot be imported: {error}{hint}") from error
    if not callable(factory):
        raise ConfigError(f"{name} is a {type(factory).__name__}, not a function or class")
    return factory  # type: ignore[no-any-return]


def _no_such(library: str, model: str, known: Iterable[str]) -> str:
    return f"{library} has no model {model!r}{did_you_mean(similar(model, known, most=3))}"
