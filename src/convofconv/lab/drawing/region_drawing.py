"""An image coloured by the classes of its pixels, and what the colours mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from .canvas import INK, PALE, PAPER, Colour, Font, drawn_size, font, palette, percent, scaled, shortened, text_size

_STRENGTH = 0.5  # of the colours over the image
_LONGEST = 12  # of a class's name, in heights of its letters


def draw_regions(
    image: Image.Image, mask: Image.Image, classes: Sequence[str], shares: Mapping[int, float], background: bool
) -> Image.Image:
    """Lay the mask over the image, and write the classes that occur beside it, or below a wide image.

    Args:
        image: the image.
        mask: of class numbers, as large as the image.
        classes: names.
        shares: of the image, by class number, of those that occur; the order is kept.
        background: class 0 is left as it is, uncoloured.
    """
    size = drawn_size(*image.size)
    coloured = _coloured(scaled(image, size), mask.resize(size, Image.Resampling.NEAREST), background)
    height = text_size(size)
    letters = font(height)
    names = {label: shortened(classes[label], letters, _LONGEST * height) for label in shares}
    colours = list(palette(background))
    if background:
        colours[0] = PAPER
    entries = [(colours[label], names[label], percent(share)) for label, share in shares.items()]
    return _with_legend(coloured, entries, letters)


def _coloured(image: Image.Image, numbers: Image.Image, background: bool) -> Image.Image:
    colours = numbers.convert("RGB")
    strength = Image.new("L", image.size, round(255 * _STRENGTH))
    line = 2 * max(1, round(max(image.size) / 640)) + 1
    flat = Image.frombytes("L", numbers.size, numbers.tobytes())
    inner, outer = flat.filter(ImageFilter.MinFilter(line)), flat.filter(ImageFilter.MaxFilter(line))
    border = ImageChops.difference(inner, outer).point(lambda value: 255 * (value > 0))
    strength.paste(235, mask=border)
    if background:
        strength.paste(0, mask=flat.point(lambda value: 255 * (value == 0)))
    return Image.composite(colours, image, strength)


def _with_legend(image: Image.Image, entries: Sequence[tuple[Colour, str, str]], letters: Font) -> Image.Image:
    height = round(letters.size)
    line, gap, margin = round(1.6 * height), round(0.5 * height), height
    longest_name = max(letters.getlength(name) for _, name, _ in entries)
    longest_share = max(letters.getlength(share) for _, _, share in entries)
    column = round(height + gap + longest_name + 2 * gap + longest_share + 2 * gap)
    below = image.width > 2 * image.height
    columns = max(1, (image.width - margin) // column) if below else 0
    rows = -(-len(entries) // columns) if below else max(1, (image.height - margin) // line)
    rows = -(-len(entries) // -(-len(entries) // rows))  # as few, for the columns to be of one height
    columns = -(-len(entries) // rows)
    room = (columns * column + margin, rows * line + margin)
    if below:
        canvas = Image.new("RGB", (max(image.width, room[0]), image.height + room[1]), PAPER)
        left, top = margin // 2, image.height + margin // 2
    else:
        canvas = Image.new("RGB", (image.width + room[0], max(image.height, room[1])), PAPER)
        left, top = image.width + margin, margin // 2
    canvas.paste(image)
    pen = ImageDraw.Draw(canvas)
    for number, (colour, name, share) in enumerate(entries):
        x, y = left + column * (number // rows), top + line * (number % rows)
        middle = y + line // 2
        swatch = (x, middle - height // 2, x + height - 1, middle - height // 2 + height - 1)
        pen.rectangle(swatch, fill=colour, outline=PALE)
        pen.text((x + height + gap, middle), name, INK, letters, anchor="lm")
        pen.text((x + column - 2 * gap, middle), share, PALE, letters, anchor="rm")
    return canvas
