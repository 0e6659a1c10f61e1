"""Scenes composed of handwritten digits on clutter, with exact masks, boxes and labels: real shapes, no download.

Several digits of very different size, from small ones to such that nearly fill the image, lie on a textured
background among lines, blobs and scraps of other digits. What a scene shows depends on its seed alone.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .decoding import Mask

#: What the numbers of a scene's mask mean.
CLASSES = ("background", *"0123456789")
#: Height and width of a scene.
SIDE = 96

_SMALLEST, _LARGEST = 0.15, 0.92  # longer side of a digit, as shares of the image's side
_MOST_DIGITS = 6
_LEAST_SEEN = 0.75  # of every digit's pixels
_LEAST_CONTRAST = 90  # distance of a digit's colour from the background's mean
NOISE = 6


@dataclasses.dataclass(frozen=True)
class Scene:
    """An image and what is in it, from the largest digit to the smallest; masks are of what can be seen.

    Shape:
        - image: ``(size, size, 3)``
        - masks: ``(objects, size, size)``, no pixel in two of them
        - labels: ``(objects,)``, indices of :data:`CLASSES`
        - boxes: ``(objects, 4)``, left, top, right, bottom; the latter two lie behind the last pixel
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float32]

    def semantic(self) -> Mask:
        """The class of every pixel, ``(size, size)``."""
        numbers: Mask = np.where(self.masks, self.labels[:, None, None], 0).max(0).astype(np.uint8)
        return numbers


def compose_scene(glyphs: NDArray[np.uint8], digits: NDArray[np.int64], seed: int, size: int = SIDE) -> Scene:
    """Draw the scene of a seed.

    Args:
        glyphs: handwritten digits to choose from, ``(n, 28, 28)``, bright on black.
        digits: what they show, ``(n,)``.
        seed: decides everything in the scene.
        size: height and width of the image.
    """
    rng = np.random.default_rng(seed)
    canvas = _background(rng, size)
    _add_clutter(canvas, glyphs, rng)
    surround = canvas.mean((0, 1))
    count = int(rng.integers(2, _MOST_DIGITS + 1))
    extents = size * _SMALLEST * (_LARGEST / _SMALLEST) ** rng.random(count)
    masks: list[NDArray[np.bool_]] = []
    areas: list[int] = []
    labels: list[int] = []
    for extent in sorted(extents, reverse=True):  # the small ones lie on top, or few of them would be seen
        number = int(rng.integers(len(glyphs)))
        opacity = _scaled(glyphs[number], extent)
        place = _free_place(opacity, masks, areas, rng, size)
        if place is None:
            continue
        covered = paste(canvas, opacity, place, _colour_unlike(surround, rng))
        masks = [mask & ~covered for mask in masks] + [covered]
        areas.append(int(covered.sum()))
        labels.append(int(digits[number]) + 1)
    canvas += rng.normal(0, NOISE, canvas.shape)
    seen = np.stack(masks)
    boxes = np.array([_box(mask) for mask in seen], np.float32)
    return Scene(canvas.clip(0, 255).astype(np.uint8), seen, np.array(labels, np.int64), boxes)


def _scaled(glyph: NDArray[np.uint8], extent: float) -> NDArray[np.float64]:
    """Opacities of a digit, cut out tightly and scaled so that its longer side is ``extent``."""
    left, top, right, bottom = _box(glyph > 127)
    longer = max(right - left, bottom - top)
    shape = [max(1, round(extent * side / longer)) for side in (right - left, bottom - top)]
    scaled = Image.fromarray(glyph).resize((shape[0], shape[1]), Image.Resampling.BILINEAR, (left, top, right, bottom))
    values = np.asarray(scaled, np.float64)
    opacity: NDArray[np.float64] = values / values.max()  # a thin stroke made small is never wholly lost
    return opacity


def _free_place(
    opacity: NDArray[np.float64], masks: list[NDArray[np.bool_]], areas: list[int], rng: np.random.Generator, size: int
) -> tuple[int, int] | None:
    """Top and left of a place wholly in the image that hides little of any digit there, if one is found soon."""
    solid = opacity > 0.5
    height, width = solid.shape
    for _ in range(10):
        top, left = (int(rng.integers(size - side + 1)) for side in (height, width))
        window = (slice(top, top + height), slice(left, left + width))
        left_over = [mask.sum() - (mask[window] & solid).sum() for mask in masks]
        if all(seen >= _LEAST_SEEN * area for seen, area in zip(left_over, areas, strict=True)):
            return top, left
    return None


def paste(
    canvas: NDArray[np.float64], opacity: NDArray[np.float64], place: tuple[int, int], colour: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Draw a digit; the pixels that are more its colour than what was there."""
    top, left = place
    height, width = opacity.shape
    region = canvas[top : top + height, left : left + width]
    region += opacity[..., None] * (colour - region)
    covered = np.zeros(canvas.shape[:2], dtype=bool)
    covered[top : top + height, left : left + width] = opacity > 0.5
    return covered


def _background(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Clouds: noise of several coarsenesses around a random colour."""
    canvas = np.full((size, size, 3), rng.uniform(50, 205, 3))
    for cells, strength in ((3, 25), (8, 15), (24, 10)):
        noise = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        smooth = Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)
        canvas += strength * (np.asarray(smooth) / 127.5 - 1)
    return canvas


def _add_clutter(canvas: NDArray[np.float64], glyphs: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Lines, blobs, and quarters of digits too small a part to be told by."""
    size = len(canvas)
    drawn = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    pencil = ImageDraw.Draw(drawn)
    for _ in range(rng.integers(2, 6)):
        ends = [tuple(end) for end in rng.integers(0, size, (2, 2)).tolist()]
        pencil.line(ends, fill=_any_colour(rng), width=int(rng.integers(1, 4)))
    for _ in range(rng.integers(1, 5)):
        left, top = rng.integers(0, size, 2).tolist()
        width, height = rng.integers(3, size // 5, 2).tolist()
        pencil.ellipse((left, top, left + width, top + height), fill=_any_colour(rng))
    canvas[:] = np.asarray(drawn)
    for _ in range(rng.integers(2, 6)):
        top, left = (14 * rng.integers(0, 2, 2)).tolist()
        quarter = Image.fromarray(glyphs[rng.integers(len(glyphs))][top : top + 14, left : left + 14])
        side = int(rng.integers(8, size // 3))
        y, x = rng.integers(0, size - side, 2).tolist()
        opacity = np.asarray(quarter.resize((side, side), Image.Resampling.BILINEAR)) / 255.0
        paste(canvas, opacity, (y, x), np.array(_any_colour(rng), float))


def _any_colour(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(rng.integers(0, 256, 3).tolist())


def _colour_unlike(surround: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    while True:  # the farthest corner of the colours is always far enough
        colour = rng.uniform(0, 255, 3)
        if np.linalg.norm(colour - surround) >= _LEAST_CONTRAST:
            return colour


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is set, the latter two behind the last pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
