"""Figures that matplotlib has drawn, as images; wide ones scroll on a phone."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from .embedded_images import embedded
from .rendering import render

#: Dots per inch of the image, and of the page: sharp on screens of high density too.
_DRAWN, _SHOWN = 120, 76


def drawn_figure(title: str, figure: Figure, description: str) -> Markup:
    """A figure below its title.

    Args:
        title: what it shows.
        figure: of matplotlib.
        description: what those hear who do not see it.

    Examples:
        >>> 'alt="Nothing."' in drawn_figure("Empty", Figure(figsize=(1, 1)), "Nothing.")
        True
    """
    figure.set_dpi(_DRAWN)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    image = Image.fromarray(pixels).quantize(256)  # a third of the size
    width, height = (round(side * _SHOWN / _DRAWN) for side in image.size)
    return render(
        "drawing.html", title=title, source=embedded(image), description=description, width=width, height=height
    )
