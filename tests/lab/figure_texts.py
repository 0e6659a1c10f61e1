"""Whether the texts of a figure can be read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def check_texts(figure: Figure) -> int:
    """Check that no text is clipped or lies on another, and give their number."""
    texts = list(_texts(figure))
    for text, box in texts:
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, text
    for (text, box), (other, beside) in itertools.combinations(texts, 2):
        assert not box.overlaps(beside), (text, other)
    return len(texts)


def ticks(axis: Axis) -> list[float]:
    """Where an axis has ticks that are seen."""
    low, high = sorted(axis.get_view_interval())
    return [float(place) for place in axis.get_majorticklocs() if low <= place <= high]


def _texts(figure: Figure) -> Iterator[tuple[str, Bbox]]:
    """Every text that is seen, and its box in pixels; an annotation's without its line."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        if axes.axison:
            labels = []
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                labels += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            for text in (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts, *labels):
                if text.get_text() and text.get_visible():
                    yield text.get_text(), Text.get_window_extent(text)
