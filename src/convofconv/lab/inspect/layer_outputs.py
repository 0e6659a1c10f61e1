"""The output of a layer in a forward: found by name, taken without touching it, and nothing left behind.

What hooks of others do wrong here, silently, is refused or avoided. A module that is called several times has several
outputs, so its use must be chosen: ``layer1.0.relu#2`` is the second one. An in-place ReLU behind a layer would
overwrite its output, so what goes on is a copy. The modes of modules are put back one by one.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError, did_you_mean, listing, similar
from ..models.detector import takes_list

#: What networks raise for images that they cannot take.
FORWARD_ERRORS = (RuntimeError, ValueError, AssertionError)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A use of a layer in the forward of a network.

    Args:
        name: as asked for, with ``#`` and the number of the use if it was given.
        module: whose output is meant.
        use: the number of the use in a forward, from 1 on.
    """

    name: str
    module: nn.Module
    use: int


class _Reached(Exception):
    """Ends a forward at the layer that was asked for."""


@contextlib.contextmanager
def in_evaluation(network: nn.Module) -> Iterator[None]:
    """Within this context the network is in evaluation mode; afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def field_network(network: nn.Module, layer: str) -> tuple[nn.Module, str]:
    """The part of a network that takes a batch of images, and the name that a layer has in it.

    A detector resizes its images first, so that pixels of its input are of no fixed size: this is its backbone.

    Raises:
        ConfigError: the layer is in a detector's other parts.
    """
    if not takes_list(network):
        return network, layer
    find_module(network, layer)
    if not layer.startswith("backbone."):
        raise ConfigError(
            f"layer {layer!r}: a detector resizes its images, so receptive fields are those of its backbone; choose a "
            "layer whose name begins with backbone."
        )
    return network.get_submodule("backbone"), layer.removeprefix("backbone.")


def find_module(network: nn.Module, layer: str) -> tuple[nn.Module, int | None]:
    """The module of a name, and the number of its use if the name ends with one, as in ``layer1.0.relu#2``.

    Raises:
        ConfigError: there is no such module; the message names the nearest ones.

    Examples:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        >>> find_module(network, "1#2")
        (ReLU(), 2)
    """
    modules = dict(network.named_modules())
    if layer and layer in modules:
        return modules[layer], None
    name, mark, number = layer.rpartition("#")
    if mark and name in modules and number.isdecimal() and int(number) > 0:
        return modules[name], int(number)
    wanted = name if mark else layer
    hint = did_you_mean(_similar_layers(network, wanted)) or f"; there are {listing(name for name in modules if name)}"
    raise ConfigError(f"layer {layer!r}: the network has no such module{hint}")


def find_layer(network: nn.Module, layer: str, forward: Callable[[], Any]) -> Layer:
    """Find a layer and check, in one forward, that it is reached, which use is meant, and that it has a feature map.

    Args:
        network: that the names are of.
        layer: its name in ``network.named_modules()``; of a module that is called several times with the number of the
            use, ``layer1.0.relu#2``.
        forward: runs the network.

    Raises:
        ConfigError: the message names the layer and says what was found and what to do.
    """
    module, use = find_module(network, layer)
    outputs: list[Any] = []
    handle = module.register_forward_hook(lambda _, __, output: outputs.append(described(output)))
    try:
        forward()
    except FORWARD_ERRORS:
        if not outputs:  # what comes behind the layer may be made for another size of images
            raise
    finally:
        handle.remove()
    if not outputs:
        raise ConfigError(f"layer {layer!r}: the forward does not reach it; choose a layer that is called")
    if use is None and len(outputs) > 1:
        raise ConfigError(
            f"layer {layer!r} is called {len(outputs)} times in a forward; choose one use, {layer}#1 to "
            f"{layer}#{len(outputs)}"
        )
    if use is not None and use > len(outputs):
        raise ConfigError(f"layer {layer!r}: it is called {len(outputs)} times in a forward")
    complaint = outputs[(use or 1) - 1]
    if getattr(network, "output_fmt", "") == "NHWC" and not isinstance(module, nn.Conv2d):
        complaint = complaint or "maps whose channels come last"
    if complaint:
        raise ConfigError(
            f"layer {layer!r} gives {complaint}; a feature map is (batch, channels, height, width), so choose a layer "
            "that has one"
        )
    return Layer(layer, module, use or 1)


@contextlib.contextmanager
def recorded(layer: Layer, take: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within this context, every forward hands the layer's output to ``take`` and goes on with a copy of its result."""
    calls = 0

    def record(_: nn.Module, __: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        return take(output).clone() if calls == layer.use else None

    handle = layer.module.register_forward_hook(record)
    try:
        yield
    finally:
        handle.remove()


def output_of(network: nn.Module, images: Tensor, layer: Layer) -> Tensor:
    """Run a network up to a layer and no further.

    Shape:
        - images: ``(batch, channels, height, width)``
        - returns: ``(batch, channels, height, width)`` of the layer
    """
    found: list[Tensor] = []

    def take(output: Tensor) -> Tensor:
        found.append(output)
        raise _Reached

    with recorded(layer, take), contextlib.suppress(_Reached):
        network(images)
    return found[0]


def centre_gradients(network: nn.Module, images: Tensor, layer: Layer) -> Tensor:
    """|∂y/∂x| of every image, summed over its channels, where y is the centre of the layer's output.

    Shape:
        - images: ``(batch, channels, height, width)``
        - returns: ``(batch, height, width)``
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        output = output_of(network, images.clone(), layer)  # a copy, because the first module may work in place
        height, width = output.shape[-2:]
        centre = output[:, :, height // 2, width // 2].sum()
        return torch.autograd.grad(centre, images)[0].abs().sum(1)


def described(output: Any) -> str:
    """What an output is that is no feature map; empty for one that is."""
    if not isinstance(output, Tensor):
        size = f" of {len(output)}" if isinstance(output, list | tuple | dict) else ""
        return f"a {type(output).__name__}{size}"
    if output.ndim == 4 and output.is_floating_point() and output.numel():
        return ""
    return f"a tensor of shape {tuple(output.shape)}"


def _similar_layers(network: nn.Module, name: str) -> list[str]:
    return similar(name, [known for known, _ in network.named_modules() if known], most=3)
