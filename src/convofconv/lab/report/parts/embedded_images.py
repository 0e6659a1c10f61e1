"""Images inside of the page."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from ....errors import ShapeError


def embedded(image: Any, *, photo: bool = False) -> str:
    """An image as an address that holds all of it.

    Args:
        image: an array of bytes, or a PIL image.
        photo: written as JPEG, a tenth of the size; otherwise as PNG, without any loss.

    Shape:
        - image: ``(H, W)``, or ``(H, W, 3)`` of red, green and blue.

    Raises:
        ShapeError: it is of another shape, of other numbers than bytes, or empty.

    Examples:
        >>> embedded(np.zeros((2, 2), np.uint8))[:22]
        'data:image/png;base64,'
    """
    if not isinstance(image, Image.Image):
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)) or not array.size:
            raise ShapeError(
                f"an image is uint8 of shape (H, W) or (H, W, 3), got {array.dtype} of {tuple(array.shape)}"
            )
        image = Image.fromarray(array)
    buffer = io.BytesIO()
    if photo:
        image.convert("RGB").save(buffer, "JPEG", quality=88)
    else:
        image.save(buffer, "PNG", optimize=True)
    kind = "jpeg" if photo else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
