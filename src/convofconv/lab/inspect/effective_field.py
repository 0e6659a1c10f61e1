"""The effective receptive field of a layer: how much its centre unit really depends on each pixel.

One backward pass gives it, for all images of a batch at once: in evaluation mode they do not depend on one another. The
forward ends at the layer, and no gradient of a parameter is computed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError, ShapeError
from .input_images import check_images
from .layer_outputs import FORWARD_ERRORS, centre_gradients, field_network, find_layer, in_evaluation
from .noise_images import noise_images
from .t_interval import Interval, t_interval
from .theoretical_field import TheoreticalField, theoretical_field

#: Pixels above this share of the peak belong to the field: 1 − 95.45 %.
THRESHOLD = 0.0455


@dataclasses.dataclass(frozen=True)
class EffectiveField:
    """The effective receptive field of a layer.

    Args:
        theoretical: the field that it is a part of.
        map: mean over images of |∂y/∂x|, summed over the input's channels, where y is the centre of the layer's output,
            summed over its channels.
        size: √ of the number of pixels above 4.55 % of the peak, in pixels.
        interval: 95 % confidence interval of the size over images (t, by the jackknife's standard error), or ``None``.
        images: how many.
        border: share of the map's energy in the outermost pixels, a sixteenth of the shorter side wide.
        clipped: whether pixels above the threshold lie at the image's edge, so that the field may be larger.

    Shape:
        - map: ``(height, width)``, float64
    """

    theoretical: TheoreticalField
    map: Tensor
    size: float
    interval: Interval | None
    images: int
    border: float
    clipped: bool

    @property
    def theory_clipped(self) -> bool:
        """Whether the theoretical field is larger than the images, or at least as large as could be measured."""
        field, (height, width) = self.theoretical, self.map.shape
        return field.clipped or field.height > height or field.width > width

    def numbers(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "layer": self.theoretical.layer,
            "size": self.size,
            "interval": self.interval and list(self.interval),
            "images": self.images,
            "input": list(self.map.shape),
            "border": self.border,
            "clipped": self.clipped,
            "theoretical": self.theoretical.numbers(),
            "theory_clipped": self.theory_clipped,
        }


def field_size(field: Tensor) -> float:
    """√ of the number of pixels above 4.55 % of the peak.

    Shape:
        - field: ``(height, width)``, not negative

    Source: Luo et al.: Understanding the Effective Receptive Field in Deep Convolutional Neural Networks, NeurIPS 2016,
        section 3.

    Examples:
        >>> field_size(torch.tensor([[0.0, 1.0, 0.04], [0.5, 2.0, 0.5], [0.0, 1.0, 0.0]]))  # 5 above 0.091
        2.23...
    """
    return math.sqrt(int((field > THRESHOLD * field.max()).sum()))


def effective_field(
    network: nn.Module,
    layer: str,
    images: Tensor | int = 32,
    *,
    theoretical: TheoreticalField | None = None,
    batch: int | None = None,
) -> EffectiveField:
    """The effective receptive field of a layer in evaluation mode.

    Args:
        network: plain or converted; of one of torchvision's detectors, the backbone is looked at.
        layer: its name in ``network.named_modules()``, with the number of the use if it is called several times.
        images: as the network takes them; or how many images of noise (standard normal, always the same) are drawn, so
            large that the theoretical field fits into them if it is not larger than 512 pixels.
        theoretical: the layer's theoretical field, if it is known.
        batch: images per pass, which decides how much memory is taken; if not given, so many as have the pixels of four
            images of 224×224.

    Shape:
        - images: ``(number, channels, height, width)``

    Raises:
        ConfigError: there is no such layer, it is not reached or has no feature map; the message says what to do.
        ShapeError: the network does not take these images.

    Source: Luo et al.: Understanding the Effective Receptive Field in Deep Convolutional Neural Networks, NeurIPS 2016.

    Examples:
        >>> network = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        >>> _ = nn.init.ones_(network.weight)
        >>> field = effective_field(nn.Sequential(network), "0", images=2)
        >>> field.size, field.clipped
        (3.0, False)
    """
    if batch is not None and batch < 1:
        raise ConfigError(f"batch must be at least 1, got {batch}")
    if isinstance(images, int):
        theoretical = theoretical or theoretical_field(network, layer)
        images = noise_images(network, images, [theoretical])
    check_images(network, images)
    network, inside = field_network(network, layer)
    like = next(network.parameters(), images)
    with in_evaluation(network), torch.inference_mode(False):
        images = images.to(like).clone()
        try:
            with torch.no_grad():
                found = find_layer(network, inside, functools.partial(network, images[:1].clone()))
        except ConfigError:
            raise
        except FORWARD_ERRORS as error:
            raise ShapeError(f"the network cannot take images of shape {tuple(images.shape[1:])} ({error})") from error
        theoretical = theoretical or theoretical_field(network, inside, images.shape[1])
        fields = torch.cat([centre_gradients(network, part, found) for part in images.split(batch or _at_once(images))])
    theoretical = dataclasses.replace(theoretical, layer=layer)
    return EffectiveField(theoretical, *_measured(fields.double().cpu()))


def _at_once(images: Tensor) -> int:
    """How many of these images go through a network at once: of ResNet-50, that takes half a gigabyte."""
    return int(max(1, 4 * 224**2 // images[0, 0].numel()))


def _measured(fields: Tensor) -> tuple[Tensor, float, Interval | None, int, float, bool]:
    """Everything that follows from the gradients of single images, ``(images, height, width)``."""
    count, (height, width) = len(fields), fields.shape[1:]
    total = fields.sum(0)
    mean, size = total / count, field_size(total)
    interval = None
    if count > 1:  # of Tukey's pseudo-values, around the size itself
        around = t_interval([count * size - (count - 1) * field_size(total - one) for one in fields])
        half = (around[1] - around[0]) / 2 if around else None
        interval = None if half is None else (size - half, size + half)
    ring = math.ceil(min(height, width) / 16)
    inside = mean[ring : height - ring, ring : width - ring].sum()
    border = float(1 - inside / mean.sum()) if mean.sum() else 0.0
    large = mean > THRESHOLD * mean.max()
    edges = large[0].any() | large[-1].any() | large[:, 0].any() | large[:, -1].any()
    return mean, size, interval, count, border, bool(edges)
