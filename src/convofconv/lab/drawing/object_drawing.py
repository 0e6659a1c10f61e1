"""An image with boxes around what was found in it, and the masks of it where there are any."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from .canvas import PALE, PAPER, Colour, drawn_size, font, ink_on, palette, scaled, shortened, text_size

_STRENGTH = 0.45  # of a mask's colour over the image
_SMALLEST = 960  # longer side of a drawing: labels must not hide small objects
_LONGEST = 14  # of an object's name, in heights of its letters

#: Left, top, right, bottom, in pixels of the drawing; labels end before the latter two, boxes on them.
_Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Found:
    """An object in an image.

    Args:
        label: number of its class.
        name: of its class; empty where there is only one.
        score: how sure the network is.
        box: left, top, right, bottom in the image's pixels.
        mask: where it is in the image, ``(height, width)``.
    """

    label: int
    name: str
    score: float
    box: tuple[float, float, float, float]
    mask: NDArray[np.bool_] | None = None


def draw_objects(image: Image.Image, found: Sequence[Found]) -> Image.Image:
    """Draw boxes in the colours of their classes; objects that have masks in a colour of their own each."""
    size = drawn_size(*image.size, _SMALLEST)
    room = 6 * text_size(size)  # for labels
    canvas = _canvas(image, size, (room, room))
    factors = size[0] / image.width, size[1] / image.height
    line = max(2, round(max(size) / 400))
    colours = palette(background=False)
    painted: list[tuple[Found, Colour, _Box]] = []
    # The surest last, to lie above the others.
    for place, one in sorted(enumerate(found), key=lambda numbered: numbered[1].score):
        colour = colours[(one.label - 1 if one.mask is None else place) % len(colours)]
        if one.mask is not None:
            _paint(canvas, one.mask, size, colour, line)
        left, top, right, bottom = (round(side * factors[number % 2]) for number, side in enumerate(one.box))
        painted.append((one, colour, (left, top, max(left, right - 1), max(top, bottom - 1))))
    pen = ImageDraw.Draw(canvas)
    for _, colour, box in painted:
        pen.rectangle(box, outline=colour, width=line)
    _write_labels(pen, canvas.size, painted)
    return canvas


def draw_nothing(image: Image.Image, text: str) -> Image.Image:
    """Write on the image that there is nothing to draw."""
    size = drawn_size(*image.size, _SMALLEST)
    height = text_size(size)
    letters, pad = font(height), height // 2
    room = round(letters.getlength(text)) + 2 * pad, height + 2 * pad
    canvas = _canvas(image, size, room)
    pen = ImageDraw.Draw(canvas)
    pen.rectangle((0, 0, room[0] - 1, room[1] - 1), fill=PALE)
    pen.text((pad, room[1] / 2), text, PAPER, letters, anchor="lm")
    return canvas


def _canvas(image: Image.Image, size: tuple[int, int], room: tuple[int, int]) -> Image.Image:
    """The image at a size, on paper where it is a strip too narrow for what is written."""
    canvas = Image.new("RGB", (max(size[0], room[0]), max(size[1], room[1])), PAPER)
    canvas.paste(scaled(image, size))
    return canvas


def _paint(canvas: Image.Image, mask: NDArray[np.bool_], size: tuple[int, int], colour: Colour, line: int) -> None:
    where = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
    inner = where.filter(ImageFilter.MinFilter(2 * (line // 2) + 1))
    canvas.paste(colour, (0, 0), where.point(lambda value: round(value * _STRENGTH)))
    canvas.paste(colour, (0, 0), ImageChops.subtract(where, inner))


def _write_labels(
    pen: ImageDraw.ImageDraw, size: tuple[int, int], painted: Sequence[tuple[Found, Colour, _Box]]
) -> None:
    """Write names and scores at the boxes; the surest choose their places first and are written last."""
    height = text_size(size)
    letters, pad = font(height), max(2, height // 5)
    labels: list[tuple[str, Colour, _Box]] = []
    for one, colour, box in reversed(painted):
        text = f"{shortened(one.name, letters, _LONGEST * height)} {one.score:.2f}".lstrip()
        label = round(letters.getlength(text)) + 2 * pad, height + 2 * pad
        labels.append((text, colour, _place(box, label, size, [taken for *_, taken in labels])))
    for text, colour, (left, top, right, bottom) in reversed(labels):
        pen.rectangle((left, top, right - 1, bottom - 1), fill=colour)
        pen.text((left + pad, (top + bottom) / 2), text, ink_on(colour), letters, anchor="lm")


def _place(box: _Box, label: tuple[int, int], size: tuple[int, int], taken: Sequence[_Box]) -> _Box:
    """Above the box, below it, inside at the top, above at the right or inside at the bottom.

    The first of those that overlap least with labels that are there and are moved least to be inside the image.
    """
    (left, top, right, bottom), (width, height) = box, label
    corners = ((left, top - height), (left, bottom + 1), (left, top), (right + 1 - width, top - height))
    places: list[tuple[int, int, _Box]] = []
    for x, y in (*corners, (left, bottom + 1 - height)):
        inside_x, inside_y = max(0, min(x, size[0] - width)), max(0, min(y, size[1] - height))
        place = (inside_x, inside_y, inside_x + width, inside_y + height)
        places.append((sum(_overlap(place, other) for other in taken), abs(y - inside_y), place))
    return min(places, key=lambda place: place[:2])[2]


def _overlap(one: _Box, other: _Box) -> int:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height)
