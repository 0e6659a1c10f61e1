"""Labelled images where they lie; none is decoded before it is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from PIL import Image

from .splits import Sample, Split


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """Images by number: their labels, and a function that reads one, which can be pickled."""

    labels: Sequence[int]
    read: Callable[[int], Image.Image]

    def split(self, classes: tuple[str, ...]) -> Split:
        """All of them as a split of a data set; the images must be RGB."""
        return Split(classes, range(len(self.labels)), self.sample)

    def sample(self, number: int) -> Sample:
        """The image of a number, and its label."""
        return self.read(number), self.labels[number]
