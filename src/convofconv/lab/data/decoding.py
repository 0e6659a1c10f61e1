"""Image files to RGB and mask files to class numbers; whatever is wrong with a file is said with its name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from ...errors import ConfigError, listing

#: A class number per pixel.
Mask = NDArray[np.uint8]

#: Pixels of a mask that count neither in training nor in evaluation.
VOID = 255


#: By EXIF orientation, what makes an image upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: What takes such a turn back, where it is another one.
_TURNS_BACK = {6: _TURNS[8], 8: _TURNS[6]}


def open_image(path: str | Path, size: int | None = None, upright: bool = False) -> Image.Image:
    """Decode an image of any mode to RGB.

    One of more than 8 bits goes from the darkest to the brightest of its own pixels: nothing says how many of 16 bits a
    camera used, and a microscope's 12 would be nearly black. Pixels that are no number are black. Colours of 16 bits
    keep their upper 8, for Pillow reads no more of them.

    Args:
        path: the file.
        size: the image will be scaled down to about this size; a large JPEG is then decoded at a fraction of its own.
        upright: turn it as its EXIF orientation says; not where masks or boxes belong to the pixels as they are stored.

    Raises:
        ConfigError: the file is no image, or a broken one.
    """
    try:
        with _open(path) as image:
            if size is not None:
                image.draft(None, (2 * size, 2 * size))  # decodes a camera's JPEG far faster
            image = _turned(image, upright)
            if image.mode in ("F", "I") or image.mode.startswith("I;16"):  # Pillow would clip these at 255
                image = _to_8_bits(np.asarray(image, dtype=np.float64))
            if image.mode in ("P", "PA"):  # a palette's transparency is lost, with a warning, on the direct way
                image = image.convert("RGBA")
            rgb: Image.Image = image.convert("RGB")
            return rgb
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        raise ConfigError(f"{path}: not a readable image, repair or remove it ({error})") from error


@contextmanager
def _open(path: str | Path) -> Iterator[Image.Image]:
    """Not by its name: Pillow maps uncompressed files to memory then, and scrambles TIFFs that lie on their side."""
    with open(path, "rb") as file, Image.open(file) as image:
        yield image


def _turned(image: Image.Image, upright: bool) -> Image.Image:
    """Turned as the EXIF orientation says, or as stored. Pillow itself turns TIFFs, and no others, as it decodes."""
    orientation = _orientation(image)
    if orientation not in _TURNS:
        return image
    image.load()
    is_upright = _orientation(image) != orientation
    if is_upright == upright:
        return image
    return image.transpose(_TURNS[orientation] if upright else _TURNS_BACK.get(orientation, _TURNS[orientation]))


def _orientation(image: Image.Image) -> int | None:
    """What EXIF says; that which cannot be read says nothing, and is not written anew."""
    try:
        orientation: int | None = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow's reader of these raises nearly anything too
        return None
    return orientation


def _to_8_bits(values: NDArray[np.float64]) -> Image.Image:
    known = np.isfinite(values)
    lowest = values[known].min() if known.any() else 0.0
    above = np.where(known, values, lowest) - lowest
    return Image.fromarray((255 * above / max(above.max(), 1e-12)).astype(np.uint8))


def open_annotated(path: Path, width: int, height: int) -> Image.Image:
    """Decode an image that has been annotated at a size.

    As it is stored, or upright as its EXIF orientation says if that alone gives the size: some tools show images one
    way and some the other. Where both ways have the size, they cannot be distinguished.
    """
    stored = open_image(path)
    if stored.size != (width, height) and (turned := open_image(path, upright=True)).size == (width, height):
        return turned
    return stored


def open_mask(path: Path, classes: int) -> Mask:
    """Decode a mask, a palette or grey image of 8 bits, to class numbers; colours of a palette mean nothing.

    Shape:
        ``(H, W)``

    Raises:
        ConfigError: the file is no such image, a broken one, or has a number that is neither a class nor void.
    """
    try:
        with _open(path) as image:
            mode, mask = image.mode, np.array(_turned(image, upright=False))
    except Exception as error:
        raise ConfigError(f"{path}: not a readable mask, repair or remove it ({error})") from error
    if mode not in ("P", "L"):
        raise ConfigError(f"{path}: a mask is a palette or grey image of 8 bits, mode P or L; this one is {mode}")
    present = np.flatnonzero(np.bincount(mask.ravel(), minlength=VOID + 1))
    if unknown := [int(number) for number in present if classes <= number != VOID]:
        raise ConfigError(
            f"{path}: class {listing(unknown)} in the mask; with data.classes = {classes} there are 0 to "
            f"{classes - 1}, and {VOID} for void"
        )
    return mask


def check_palettes(masks: Sequence[Path]) -> None:
    """Warn of masks in which a number has another colour than in the first one; their pixels are not decoded.

    Colours mean nothing, but where they differ they were probably made numbers file by file, each in its own way.
    """
    known: dict[int, tuple[Path, tuple[int, ...]]] = {}
    for path in masks:
        try:
            with _open(path) as image:
                colours = (image.getpalette("RGB") or []) if image.mode == "P" else []
        except Exception:  # a broken one is named when it is read
            continue
        for number, colour in enumerate(zip(*[iter(colours)] * 3, strict=True)):
            first, theirs = known.setdefault(number, (path, colour))
            if colour != theirs:
                warnings.warn(
                    f"{path}: class {number} has the colour {listing(colour)} here and {listing(theirs)} in {first}; "
                    "the numbers of a mask must be classes, its colours mean nothing",
                    stacklevel=4,
                )
                return


def read_lines(path: Path) -> list[str]:
    """The lines of a list in a text file, without spaces around them and without empty ones.

    Raises:
        ConfigError: it is no text in UTF-8, or not there.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as text in UTF-8 ({error}); write the list anew") from error


def open_pair(file: Path, mask: Path, classes: int) -> tuple[Image.Image, Mask]:
    """Decode an image and its mask.

    Raises:
        ConfigError: one of them cannot be decoded, or they differ in size.
    """
    numbers = open_mask(mask, classes)
    height, width = numbers.shape
    image = open_annotated(file, width, height)
    if image.size != (width, height):
        raise ConfigError(f"{mask}: the mask is {width}×{height} but its image {file} is {image.width}×{image.height}")
    return image, numbers
