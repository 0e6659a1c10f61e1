"""The weights that a classifier's last layer has for a class: what CAM weighs channels by."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from .layer_outputs import Layer

#: A layer, its input and its output.
Linear = tuple[nn.Linear, Tensor, Tensor]


def class_weights(
    layer: Layer, outputs: Tensor, answers: Any, labels: tuple[int, ...] | None, linear: Sequence[Linear]
) -> Tensor:
    """The weights of every image's class, if the network is average pooling and a linear layer behind this one.

    Args:
        layer: whose outputs are pooled.
        outputs: of the layer.
        answers: of the network.
        labels: the class of every image.
        linear: of the same forward.

    Shape:
        ``(batch, channels)``

    Raises:
        ConfigError: it is not.
    """
    pooled = outputs.mean((2, 3))
    if labels is None:
        raise ConfigError("cam explains a class; give one as the target, or take grad-cam")
    for module, values, logits in linear:
        behind = values.shape == pooled.shape and torch.allclose(values, pooled, rtol=1e-3, atol=1e-5)
        if behind and isinstance(answers, Tensor) and answers.shape == logits.shape and torch.equal(answers, logits):
            return module.weight[list(labels)]
    raise ConfigError(
        f"layer {layer.name!r}: cam needs a classifier that is average pooling and a linear layer behind it; take "
        "grad-cam"
    )


@contextlib.contextmanager
def linear_layers(network: nn.Module) -> Iterator[list[Linear]]:
    """What goes into and out of a network's linear layers."""
    found: list[Linear] = []

    def note(module: Any, inputs: Any, output: Any) -> None:
        found.append((module, inputs[0], output))

    handles = [module.register_forward_hook(note) for module in network.modules() if isinstance(module, nn.Linear)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
