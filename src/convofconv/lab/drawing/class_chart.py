"""An image and the likeliest classes beside it, as bars."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from .canvas import INK, PALE, PAPER, RULE, font, scaled, shortened

_BOX = (640, 480)  # the most that the image takes
_MARGIN, _WIDTH, _ROW, _BAR = 24, 340, 54, 14
_FIRST, _OTHERS = (0, 114, 178), (150, 190, 215)


def draw_chart(image: Image.Image, guesses: Sequence[tuple[str, float]]) -> Image.Image:
    """Draw the image on the left, and a bar for each class with its probability on the right."""
    shown = scaled(image, _fitted(image.size))
    height = max(shown.height, _ROW * len(guesses)) + 2 * _MARGIN
    left = shown.width + 2 * _MARGIN
    canvas = Image.new("RGB", (left + _WIDTH + _MARGIN, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    top = (height - shown.height) // 2
    canvas.paste(shown, (_MARGIN, top))
    edge = (_MARGIN - 1, top - 1, _MARGIN + shown.width, top + shown.height)
    pen.rectangle(edge, outline=RULE)
    top = (height - _ROW * len(guesses)) // 2
    letters = font(17)
    for number, (name, share) in enumerate(guesses):
        value = f"{100 * share:.1f} %"
        room = _WIDTH - letters.getlength(value) - 12
        line = top + _ROW * number
        pen.text((left, line + 18), shortened(name, letters, room), INK, letters, anchor="ls")
        pen.text((left + _WIDTH, line + 18), value, PALE if number else INK, letters, anchor="rs")
        bar = (left, line + 26, left + _WIDTH - 1, line + 26 + _BAR)
        pen.rectangle(bar, fill=RULE)
        if (length := round(_WIDTH * share)) > 0:
            pen.rectangle((*bar[:2], left + length - 1, bar[3]), fill=_OTHERS if number else _FIRST)
    return canvas


def _fitted(size: tuple[int, int]) -> tuple[int, int]:
    """As large as the box allows; enlarged by a whole number, so that every pixel is as large as the others."""
    factor = min(most / side for most, side in zip(_BOX, size, strict=True))
    factor = int(factor) if factor > 1 else factor
    width, height = (max(1, round(side * factor)) for side in size)
    return width, height
