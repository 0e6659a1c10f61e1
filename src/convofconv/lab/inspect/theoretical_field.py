"""The theoretical receptive field of a layer: all pixels that its centre unit could ever depend on.

Found by probing with NaN: whatever is computed from what is no number is no number, through every kernel, norm,
activation, pooling, gate and attention, whatever the weights and however the network is wired. So the first column of
the field is the first one up to which the image must be NaN for the unit to be, and bisection finds it. Gradients are
good for a first guess alone: max pooling passes them to one pixel of its window (of a constant image always to the same
one, which gives 7 where the truth is 9), and a ReLU to none where it is off.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from .input_images import input_channels, own_size
from .layer_outputs import FORWARD_ERRORS, Layer, centre_gradients, field_network, find_layer, in_evaluation, output_of
from .nan_arithmetic import nan_kept_apart

#: Lengths of the images that are probed, one after the other until the field fits.
LENGTHS = (256, 512, 1024, 2048)
#: Their other side: the field along one axis does not depend on it, so that the first size that the network takes will
#: do; strips are computed soonest.
_OTHER = (32, 256)
#: This part of an image is its edge: what sees it may be clipped.
_EDGE = 16


@dataclasses.dataclass(frozen=True)
class TheoreticalField:
    """The theoretical receptive field of a layer's centre unit.

    Args:
        layer: its name.
        height: in pixels, from the first row to the last that the unit can depend on.
        width: likewise, of columns.
        stride: pixels between the fields of neighbouring units, downwards and to the right; less than 1 behind
            upsampling; ``None`` where the map has one size for images of all sizes, so that the field grows with them.
        clipped: whether the field reached the edge of the largest image that was probed, so that it may be larger.
        whole_image: whether every unit depends on every pixel, as behind a squeeze-and-excitation or attention; height
            and width are then those of the largest image that was probed.
        only_size: side of the images, where the network takes no others; ``None`` where it takes many sizes.
    """

    layer: str
    height: int
    width: int
    stride: tuple[float | None, float | None]
    clipped: bool
    whole_image: bool
    only_size: int | None = None

    def numbers(self) -> dict[str, Any]:
        """Plain values, for JSON; no height and width where the field is the whole image."""
        sides = {side: None if self.whole_image else getattr(self, side) for side in ("height", "width")}
        return {**dataclasses.asdict(self), **sides, "stride": list(self.stride)}

    def __str__(self) -> str:
        if self.whole_image:
            return "the whole image"
        return f"{'at least ' if self.clipped else ''}{self.height}×{self.width} px"


@dataclasses.dataclass(frozen=True)
class _Axis:
    """A field along one axis."""

    size: int
    stride: float | None
    clipped: bool
    everything: bool


def theoretical_field(
    network: nn.Module, layer: str, channels: int | None = None, lengths: Sequence[int] = LENGTHS
) -> TheoreticalField:
    """The exact theoretical receptive field of a layer, of any network.

    Modules may be strided, dilated, pooled, residual, transposed or interpolated; norms are those of evaluation.

    Args:
        network: plain or converted; of one of torchvision's detectors, the backbone is looked at.
        layer: its name in ``network.named_modules()``, with the number of the use if it is called several times.
        channels: of the network's input; those of its first conv if not given.
        lengths: of the images that are probed, in pixels; the last one is the largest field that can be measured.

    Raises:
        ConfigError: there is no such layer, it is not reached or has no feature map, or the network takes no such
            images; the message says what to do.

    Source: the definition in Araujo, Norris, Sim: Computing Receptive Fields of Convolutional Neural Networks,
        Distill 2019.

    Examples:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 7, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        >>> print(theoretical_field(network, "2"))  # 7 + 2 · 2
        11×11 px
    """
    network, inside = field_network(network, layer)
    with torch.inference_mode(False), torch.no_grad(), in_evaluation(network), nan_kept_apart():
        probe = _Probe.of(network, inside, layer, channels or input_channels(network), lengths)
        rows, columns = probe.along(2), probe.along(3)
    return TheoreticalField(
        layer,
        rows.size,
        columns.size,
        (rows.stride, columns.stride),
        rows.clipped or columns.clipped,
        rows.everything and columns.everything,
        None if probe.lengths is lengths else probe.other,
    )


@dataclasses.dataclass(frozen=True)
class _Probe:
    """Images with NaN in them, and what becomes of a layer's output.

    Args:
        network: in evaluation mode.
        layer: of it.
        blank: an image of the network's channels and one pixel.
        lengths: of the images along the axis that is probed.
        other: their size along the other one.
        units: of the layer's map along an axis, by the axis and the image's length; noted with every probe.
    """

    network: nn.Module
    layer: Layer
    blank: Tensor
    lengths: Sequence[int]
    other: int
    units: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, network: nn.Module, inside: str, name: str, channels: int, lengths: Sequence[int]) -> _Probe:
        """Find the layer with strips, or with images of the one size that the network takes."""
        like = next(network.parameters(), torch.zeros(()))
        blank = torch.zeros(1, channels, 1, 1, dtype=like.dtype, device=like.device)
        own = own_size(network)
        for sizes, other in (*((lengths, side) for side in _OTHER), ((own,), own)):
            image = blank.expand(1, channels, other, sizes[0]).clone()
            try:
                layer = find_layer(network, inside, functools.partial(network, image))
            except ConfigError:  # about the layer
                raise
            except FORWARD_ERRORS as error:
                reason = error
                continue
            probe = cls(network, layer, blank, sizes, other)
            probe.check(name)
            return probe
        raise ConfigError(
            f"layer {name!r}: the network takes neither images of {_OTHER[-1]}×{lengths[0]} nor of {own}×{own} pixels "
            f"with {channels} channels ({reason})"
        ) from reason

    def check(self, name: str) -> None:
        """Refuse a network in which NaN appears by itself, or disappears."""
        length = self.lengths[0]
        nothing, everything = self.touched(3, length, [(0, 0), (0, length)])
        if nothing.any():
            raise ConfigError(f"layer {name!r} puts out what is no number for an image of zeros; look at the weights")
        if not everything.all():
            raise ConfigError(f"layer {name!r}: its output does not depend on the image, or NaN is replaced before it")

    def touched(self, axis: int, length: int, spans: Sequence[tuple[int, int]]) -> Tensor:
        """Which units of the layer's middle line depend on some rows or columns of the image.

        Shape:
            ``(spans, units along the axis)``
        """
        images = self.blank.expand(self._shape(len(spans), axis, length)).clone()
        for image, (start, stop) in zip(images, spans, strict=True):
            image.narrow(axis - 1, start, stop - start).fill_(torch.nan)
        output = output_of(self.network, images, self.layer).isnan().any(1, keepdim=True)
        self.units[axis, length] = output.shape[axis]
        across = 5 - axis
        return output.select(across, output.shape[across] // 2).flatten(1)

    def _shape(self, number: int, axis: int, length: int) -> list[int]:
        shape = [number, self.blank.shape[1], self.other, self.other]
        shape[axis] = length
        return shape

    def along(self, axis: int) -> _Axis:
        """Bisect for the first and the last row or column of the centre unit's field."""
        length = self.lengths[0]
        clipped = self._clipped(axis, length)
        for longer in self.lengths[1:]:
            if not any(clipped):
                break
            try:
                clipped = self._clipped(axis, longer)
            except FORWARD_ERRORS:  # a network for images of one size
                break
            length = longer

        def meets(start: int, stop: int) -> bool:
            return _centre(self.touched(axis, length, [(start, stop)])[0])

        first, behind = self._reached(axis, length)
        first = _least(first, lambda place: meets(0, place + 1))
        behind = _least(behind, lambda place: meets(length - 1 - place, length))
        everything = all(clipped) and self._sees_far(axis, length)
        return _Axis(length - behind - first, self._stride(axis), any(clipped), everything)

    def _reached(self, axis: int, length: int) -> tuple[int, int]:
        """Rows or columns in front of those that a gradient reaches, and behind them.

        All that it reaches are in the field, and mostly the field has no others, which one probe then shows.
        """
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(self._shape(1, axis, length), generator=generator).to(self.blank)
        gradients = centre_gradients(self.network, noise, self.layer)[0]
        places = gradients.amax(3 - axis).nonzero()
        return (int(places[0]), length - 1 - int(places[-1])) if len(places) else (length, length)

    def _clipped(self, axis: int, length: int) -> tuple[bool, bool]:
        """Whether the centre unit sees the image's outermost pixels: some, for a conv can leave out the last ones."""
        edge = length // _EDGE
        first, last = self.touched(axis, length, [(0, edge), (length - edge, length)])
        return _centre(first), _centre(last)

    def _sees_far(self, axis: int, length: int) -> bool:
        """Whether the units at both ends see the image's other end."""
        edge = length // _EDGE
        first, last = self.touched(axis, length, [(0, edge), (length - edge, length)])
        return bool(first[-1] and last[0])

    def _stride(self, axis: int) -> float | None:
        """From the sizes of two maps: padding and cropping at the edges are in both."""
        short, more = self.lengths[0], 256  # more by a multiple of all strides
        try:
            if (axis, short + more) not in self.units:
                self.touched(axis, short + more, [(0, 0)])
        except FORWARD_ERRORS:
            return short / self.units[axis, short]
        added = self.units[axis, short + more] - self.units[axis, short]
        return more / added if added else None


def _least(known: int, meets: Callable[[int], bool]) -> int:
    """The least place from which on something is met, which is known to be this one or one before it."""
    if not known or not meets(known - 1):
        return known
    return bisect.bisect_left(range(known), True, key=meets)


def _centre(units: Tensor) -> bool:
    return bool(units[len(units) // 2])
