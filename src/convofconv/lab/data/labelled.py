"""Labelled images where they lie; none is decoded before it is asked for."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from .decoding import open_image
from .splits import Sample, Split


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """Images by number: their labels, and a function that reads one, which can be pickled."""

    labels: Sequence[int]
    read: Callable[[int], Image.Image]

    @classmethod
    def in_files(cls, files: Sequence[str | Path], labels: Sequence[int], size: int | None = None) -> LabelledImages:
        """Images of any mode, upright, as RGB.

        Args:
            files: an image each.
            labels: as many.
            size: they are scaled down to about this size as they are decoded.
        """
        return cls(labels, functools.partial(_open, files, size))

    def split(self, classes: tuple[str, ...]) -> Split:
        """All of them as a split of a data set; the images must be RGB."""
        return Split(classes, range(len(self.labels)), self.sample)

    def sample(self, number: int) -> Sample:
        """The image of a number, and its label."""
        return self.read(number), self.labels[number]


def _open(files: Sequence[str | Path], size: int | None, number: int) -> Image.Image:
    return open_image(files[number], size, upright=True)
