"""Activation maps: where in an image a layer finds what speaks for a class.

The methods are five lines each, from a layer's output and the score's gradient by it. They are written in
:mod:`.cam_methods` and held to captum 0.9 and grad-cam 1.5 in the tests, because neither library can be used as it is.
captum is the safer one, but has Grad-CAM alone, and takes the last use of a module that is called several times.
grad-cam has all methods, but takes the first use, leaves the network in evaluation mode and gradients in its
parameters, reads outputs that an in-place ReLU has overwritten, gives EigenCAM's maps a sign that changes with the
order of channels, and brings OpenCV. Here the output is copied, the use is chosen, ``torch.autograd.grad`` leaves no
gradient behind, every module gets its mode back, and nothing is backpropagated below the layer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from ...errors import ConfigError, ShapeError, did_you_mean, listing, similar
from ..models.detector import takes_list
from .activation_targets import ScoreFunction, score
from .cam_methods import METHODS, NORMALISATIONS, cam, eigen_cam
from .class_weights import class_weights, linear_layers
from .input_images import check_images
from .layer_outputs import FORWARD_ERRORS, Layer, find_layer, in_evaluation, recorded

CAM, EIGEN_CAM = "cam", "eigen-cam"
METHOD_NAMES = (CAM, *METHODS, EIGEN_CAM)
_Target = int | Sequence[int] | ScoreFunction | None


@dataclasses.dataclass(frozen=True)
class ActivationMaps:
    """The activation maps of a batch of images.

    Args:
        layer: its name.
        method: one of :data:`METHOD_NAMES`.
        normalisation: one of :data:`NORMALISATIONS`, of ``maps``.
        labels: the class of every image that is explained; ``None`` for a function of a user's own.
        scores: the number of every image that is explained.
        raw: the method's maps, in no unit.
        maps: these at the images' resolution (bilinear), then normalised; from 0 to 1.

    Shape:
        - scores: ``(batch,)``
        - raw: ``(batch, height, width)`` of the layer
        - maps: ``(batch, height, width)`` of the images
    """

    layer: str
    method: str
    normalisation: str
    labels: tuple[int, ...] | None
    scores: Tensor
    raw: Tensor
    maps: Tensor

    def numbers(self) -> dict[str, Any]:
        """Plain values, for JSON; not the maps."""
        return {
            "layer": self.layer,
            "method": self.method,
            "normalisation": self.normalisation,
            "labels": self.labels and list(self.labels),
            "scores": self.scores.tolist(),
            "raw_size": list(self.raw.shape[1:]),
            "image_size": list(self.maps.shape[1:]),
        }


def activation_maps(
    network: nn.Module,
    images: Tensor | Sequence[Tensor],
    layer: str,
    method: str = "grad-cam",
    target: int | Sequence[int] | ScoreFunction | None = None,
    *,
    where: Tensor | None = None,
    normalisation: str = "max",
) -> ActivationMaps:
    """Activation maps of a layer of a classifier, a segmenter, or one of torchvision's detectors, in evaluation mode.

    Args:
        network: plain or converted; it is left as it is.
        images: as the network takes them; a detector's are of one size, with values from 0 to 1.
        layer: its name in ``network.named_modules()``, with the number of the use if it is called several times.
        method: cam, grad-cam, grad-cam++, layer-cam or eigen-cam, which explains no class.
        target: the class or classes that are explained, see :func:`.activation_targets.score`.
        where: of a segmenter, the pixels whose logits are explained.
        normalisation: max, the positive part over its maximum, or min-max, as other libraries do.

    Shape:
        - images: ``(batch, channels, height, width)``
        - where: ``(batch, height, width)``, bool

    Raises:
        ConfigError: there is no such method, layer or class, or nothing of the class in an image.
        ShapeError: the network does not take these images, or its outputs are of no known task.

    Examples:
        >>> pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *pool, nn.Linear(8, 2))
        >>> found = activation_maps(network, torch.rand(2, 3, 16, 16), "1", target=0)
        >>> found.raw.shape, found.maps.shape, found.labels
        (torch.Size([2, 14, 14]), torch.Size([2, 16, 16]), (0, 0))
    """
    _check_name("method", method, METHOD_NAMES)
    _check_name("normalisation", normalisation, NORMALISATIONS)
    like = next(network.parameters(), torch.zeros(()))
    with torch.inference_mode(False), in_evaluation(network):
        if takes_list(network):
            parts = [_Part([image.to(like)], image.shape[1:]) for image in _of_one_size(images)]
            targets: list[_Target] = [target] * len(parts)
            if isinstance(target, Sequence):
                targets = [[label] for label in target]
            if len(targets) != len(parts):
                raise ConfigError(f"a class for every image is needed: {len(targets)} classes, {len(parts)} images")
        else:
            batch = images if isinstance(images, Tensor) else torch.stack(list(images))
            check_images(network, batch)
            parts = [_Part(batch.to(like).clone(), batch.shape[-2:])]
            targets = [target]
        found = _find(network, layer, parts[0])
        done = [
            _explain(network, part, found, method, wanted, where) for part, wanted in zip(parts, targets, strict=True)
        ]
    labels = tuple(label for one in done for label in one.labels or ())
    return ActivationMaps(
        layer,
        method,
        normalisation,
        labels or None,
        torch.cat([one.scores for one in done]),
        torch.cat([one.raw for one in done]),
        NORMALISATIONS[normalisation](torch.cat([one.resized for one in done])),
    )


@dataclasses.dataclass(frozen=True)
class _Part:
    """What a network is given at once, and the height and width of its images."""

    inputs: Any
    size: Sequence[int]

    def first(self) -> Any:
        """A copy of the first image, because the network's first module may work in place."""
        return (
            [image.clone() for image in self.inputs[:1]] if isinstance(self.inputs, list) else self.inputs[:1].clone()
        )


@dataclasses.dataclass(frozen=True)
class _Explained:
    labels: tuple[int, ...] | None
    scores: Tensor
    raw: Tensor
    resized: Tensor


def _find(network: nn.Module, layer: str, part: _Part) -> Layer:
    try:
        with torch.no_grad():
            return find_layer(network, layer, functools.partial(network, part.first()))
    except ConfigError:
        raise
    except FORWARD_ERRORS as error:
        raise ShapeError(f"the network cannot take images of {tuple(part.size)} pixels ({error})") from error


def _explain(
    network: nn.Module,
    part: _Part,
    layer: Layer,
    method: str,
    target: _Target,
    where: Tensor | None,
) -> _Explained:
    outputs: list[Tensor] = []

    def take(output: Tensor) -> Tensor:
        outputs.append(output.detach().requires_grad_())
        return outputs[0]

    with torch.enable_grad(), recorded(layer, take), linear_layers(network) as linear, _resizing(network) as frames:
        answers = network(part.inputs)
        scored = score(answers, target, where)
    own = outputs[0]
    if len(own) != len(part.inputs):
        raise ConfigError(
            f"layer {layer.name!r}: its output has {len(own)} maps (of boxes, say) for {len(part.inputs)} images; "
            "choose a layer with one for each"
        )
    if method == CAM:
        raw = cam(own, class_weights(layer, own, answers, scored.labels, linear))
    elif method == EIGEN_CAM:
        raw = eigen_cam(own)
    else:
        raw = METHODS[method](own, _gradients(scored.values, own, layer))
    raw = raw.detach()
    return _Explained(scored.labels, scored.values.detach(), raw, _resized(raw, part, frames))


def _gradients(scores: Tensor, outputs: Tensor, layer: Layer) -> Tensor:
    found = torch.autograd.grad(scores.sum(), outputs, allow_unused=True)[0] if scores.requires_grad else None
    if found is None:
        raise ConfigError(f"layer {layer.name!r}: what is explained does not depend on it; choose a layer before it")
    return found


@contextlib.contextmanager
def _resizing(network: nn.Module) -> Iterator[list[ImageList]]:
    """How a detector resizes its images and pads them; empty for other networks."""
    found: list[ImageList] = []
    if not takes_list(network):
        yield found
        return
    transform = network.get_submodule("transform")
    handle = transform.register_forward_hook(lambda _, __, output: found.append(output[0]))
    try:
        yield found
    finally:
        handle.remove()


def _resized(raw: Tensor, part: _Part, frames: Sequence[ImageList]) -> Tensor:
    """At the images' resolution; a detector's maps also cover what its images were padded with."""
    maps = raw[:, None]
    for frame in frames:
        height, width = frame.image_sizes[0]
        maps = _interpolated(maps, frame.tensors.shape[-2:])[..., :height, :width]
    return _interpolated(maps, part.size)[:, 0]


def _interpolated(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def _of_one_size(images: Tensor | Sequence[Tensor]) -> list[Tensor]:
    listed = list(images)
    shapes = {tuple(image.shape) for image in listed}
    if len(shapes) != 1 or any(image.ndim != 3 or image.shape[0] != 3 for image in listed):
        raise ShapeError(
            f"a detector's images must be (3, height, width) of one size, got {listing(sorted(shapes))}; call this "
            "once for every size, and repeat the channel of grey images"
        )
    if not all(image.is_floating_point() for image in listed):
        raise ShapeError("a detector's images have values from 0 to 1; convert them to floating point")
    return listed


def _check_name(kind: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ConfigError(
            f"no {kind} is called {name!r}; there are {listing(known)}{did_you_mean(similar(name, known))}"
        )
