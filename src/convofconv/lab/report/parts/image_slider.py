"""Two images in one place, and a slider that moves the border between them: plain and converted, before and after."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup

from ....errors import ShapeError
from .embedded_images import embedded
from .rendering import render


def image_slider(
    title: str, left: Any, right: Any, names: tuple[str, str], descriptions: tuple[str, str], *, photo: bool = True
) -> Markup:
    """Two images of one size above each other; without a script, and in print, side by side.

    The slider is a form's own, so that arrow keys, Home and End move it and screen readers know it.

    Args:
        title: what both show.
        left: an array of bytes, or a PIL image.
        right: the other one, of the same size.
        names: of the two, short.
        descriptions: what those hear who do not see the images.
        photo: see :func:`~.embedded_images.embedded`.

    Shape:
        - left, right: ``(H, W)`` or ``(H, W, 3)``.

    Raises:
        ShapeError: the images are of two sizes, or no images.
    """
    sizes = [np.asarray(image).shape[:2] for image in (left, right)]
    if sizes[0] != sizes[1]:
        shown = [" × ".join(map(str, size)) for size in sizes]
        raise ShapeError(f"{title}: two images of one size lie above each other, got {shown[0]} and {shown[1]} pixels")
    images = [
        {"source": embedded(image, photo=photo), "name": name, "description": description}
        for image, name, description in zip((left, right), names, descriptions, strict=True)
    ]
    return render("slider.html", title=title, images=images, height=sizes[0][0], width=sizes[0][1])
