"""Activation maps over their images, a slider between two networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from markupsafe import Markup
from PIL import Image, ImageDraw

from ...inspect.activation_maps import ActivationMaps
from ...inspect.field_comparison import SeedFields
from ...inspect.field_figure import EFFECTIVE, THEORETICAL
from ..looks import Inside, Look
from ..parts.headings import heading
from ..parts.image_slider import image_slider
from ..parts.rendering import join
from ..parts.section import Section
from ..parts.tables import digits, note

#: Images are enlarged to at least so many pixels, so that fields drawn into them are seen.
_LEAST = 320


def section(inside: Inside) -> Section | None:
    """Every other network against the first one, or one alone against the image; ``None`` where there are no maps."""
    looks = {name: look for name, look in inside.looks.items() if look.inspection.maps}
    if not looks:
        return None
    words = note(
        "Bright is where a layer finds what speaks for the class. All maps of an image explain the class that the "
        "first network sees in it, each over its own maximum. The squares around a map's peak are the layer's "
        "effective (blue) and theoretical receptive field (orange), cut off at the image; an empty map has none."
    )
    parts = [part for look in looks.values() for part in [heading(look.title, looks), *_sliders(look)]]
    return Section("Activation maps", join(words, *parts), inside.numbers("maps"))


def _sliders(look: Look) -> list[Markup]:
    found = look.inspection
    assert found.images is not None
    names = list(found.maps)
    first = found.maps[names[0]]
    sliders = []
    for number, file in enumerate(found.images.files):
        image = _bytes(found.images.shown[number])
        drawn = {name: _drawn(image, one, number, _field(look, name, one)) for name, one in found.maps.items()}
        seen = _label(first, number, found.classes)
        scores = {name: f"score {digits(float(one.scores[number]), 3)}" for name, one in found.maps.items()}
        texts = {
            name: f"{one.method} of {one.layer} in {name}, for {seen} ({scores[name]})"
            for name, one in found.maps.items()
        }
        pairs = [(names[0], other) for other in names[1:]]
        for left, right in pairs:
            title = f"{file.name}: {seen}; {left} {scores[left]}, {right} {scores[right]}"
            both = (texts[left], texts[right])
            sliders.append(image_slider(title, drawn[left], drawn[right], (left, right), both))
        if not pairs:
            title = f"{file.name}: {seen}; {scores[names[0]]}"
            plain = _enlarged(image)
            described = (f"The image {file.name}", texts[names[0]])
            sliders.append(image_slider(title, plain, drawn[names[0]], ("image", names[0]), described))
    how = note(f"{first.method} of {first.layer}, normalised by {first.normalisation}.")
    return [how, Markup('<div class="side-by-side">{}</div>').format(join(*sliders))]


def _field(look: Look, name: str, maps: ActivationMaps) -> SeedFields | None:
    return look.inspection.fields.get(name, {}).get(maps.layer)


def _label(maps: ActivationMaps, number: int, classes: Sequence[str]) -> str:
    if maps.labels is None:
        return "its own score"
    label = maps.labels[number]
    return f"class {classes[label]}" if label < len(classes) else f"class {label}"


def _bytes(image: torch.Tensor) -> np.ndarray[Any, Any]:
    rgb = image.detach().cpu().clamp(0, 1).expand(3, -1, -1).movedim(0, -1)
    return np.asarray((255 * rgb).round().to(torch.uint8).numpy())


def _enlarged(pixels: np.ndarray[Any, Any], smooth: bool = False) -> Image.Image:
    image = Image.fromarray(pixels)
    factor = _factor(pixels)
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return image.resize((image.width * factor, image.height * factor), how)


def _factor(pixels: np.ndarray[Any, Any]) -> int:
    return max(1, math.ceil(_LEAST / int(max(pixels.shape[:2]))))


def _drawn(image: np.ndarray[Any, Any], maps: ActivationMaps, number: int, field: SeedFields | None) -> Image.Image:
    """The map over the image in grey, with the squares of both fields around its peak."""
    heat = maps.maps[number].detach().cpu().numpy()
    colours = np.asarray(np.rint(255 * matplotlib.colormaps["inferno"](heat)[..., :3]), dtype=np.uint8)
    grey = _enlarged(image).convert("L").convert("RGB")
    drawn = Image.blend(grey, _enlarged(colours, smooth=True), 0.6)
    if field is not None and heat.any():  # an empty map has no peak
        row, column = np.unravel_index(int(heat.argmax()), heat.shape)
        theory = field.fields[0].theoretical
        for height, width, colour in (
            (theory.height, theory.width, THEORETICAL),
            (field.size, field.size, EFFECTIVE),
        ):
            _square(drawn, (float(row), float(column)), (height, width), _factor(image), colour)
    return drawn


def _square(
    drawn: Image.Image, centre: tuple[float, float], size: tuple[float, float], factor: int, colour: str
) -> None:
    """A frame around a pixel of the image, black below its colour, so that it is seen on any map."""
    (top, bottom), (left, right) = (
        (
            max(0.0, (middle + 0.5 - side / 2) * factor),
            min(end - 1.0, (middle + 0.5 + side / 2) * factor),
        )
        for middle, side, end in zip(centre, size, (drawn.height, drawn.width), strict=True)
    )
    pen = ImageDraw.Draw(drawn)
    pen.rectangle((left, top, right, bottom), outline="black", width=5)
    pen.rectangle((left + 1, top + 1, right - 1, bottom - 1), outline=colour, width=3)
