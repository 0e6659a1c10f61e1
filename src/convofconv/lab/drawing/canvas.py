"""What all drawings share: colours, fonts, and a size at which something can be seen."""

from __future__ import annotations

import colorsys
import functools
from pathlib import Path

import matplotlib
from PIL import Image, ImageFont

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont

PAPER, INK, PALE, RULE = (255, 255, 255), (34, 34, 34), (110, 110, 110), (228, 228, 228)
#: Longer side of an image when it is drawn: smaller ones are scaled up to at least the one, larger ones down.
_SMALLEST, _LARGEST = 480, 1920


@functools.cache
def palette(background: bool) -> tuple[Colour, ...]:
    """256 colours, neighbours far apart: the hue turns by the golden angle, saturation and value alternate.

    Args:
        background: the first colour is black.
    """
    tones = ((0.85, 0.96), (0.95, 0.52), (0.42, 1.00), (1.00, 0.76), (0.62, 0.74))
    colours = [(0, 0, 0)] if background else []
    for number in range(256 - len(colours)):
        shares = colorsys.hsv_to_rgb((0.02 + number * 0.618034) % 1, *tones[number % len(tones)])
        red, green, blue = (round(255 * share) for share in shares)
        colours.append((red, green, blue))
    return tuple(colours)


@functools.cache
def font(size: int) -> Font:
    """DejaVu Sans, which has nearly all alphabets, from matplotlib: the same on every machine."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def shortened(text: str, letters: Font, width: float) -> str:
    """The text, or as much of its beginning as fits into ``width`` pixels with three dots behind."""
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever can be read on a colour."""
    red, green, blue = colour
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else PAPER


def drawn_size(width: int, height: int, smallest: int = _SMALLEST) -> tuple[int, int]:
    """Width and height that an image is drawn at; small ones are enlarged by a whole number."""
    longer = max(width, height)
    factor = -(-smallest // longer) if longer < smallest else min(1.0, _LARGEST / longer)
    return max(1, round(width * factor)), max(1, round(height * factor))


def scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An image of another size: with its pixels to be seen if it is larger, smooth if it is smaller."""
    way = Image.Resampling.NEAREST if size[0] > image.width else Image.Resampling.LANCZOS
    return image.resize(size, way) if size != image.size else image.copy()


def text_size(size: tuple[int, int]) -> int:
    """Height of the letters in a drawing of a size, which is looked at as a whole."""
    return max(14, round(max(size) / 64))


def percent(share: float) -> str:
    """A share with one decimal.

    Examples:
        >>> percent(0.1234), percent(0.0001)
        ('12.3 %', '<0.1 %')
    """
    return f"{100 * share:.1f} %" if share >= 0.0005 else "<0.1 %"
