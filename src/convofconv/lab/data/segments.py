"""Masks as COCO files write them, polygons or run lengths, checked where they are read and encoded for pycocotools."""

from __future__ import annotations

import itertools
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from .objects import ImageEntry, RunLengths

#: A mask before it is decoded: the corners of its parts, x and y in turn, or run lengths.
Segment = tuple[NDArray[np.float64], ...] | RunLengths


class Segments:
    """The masks of a file by number, in few pieces of memory.

    For a million of Python's objects would be copied into every process that reads images, and are many times as
    large as what is in them. A mask has one part, its run lengths, or one or more, its polygons.
    """

    def __init__(self) -> None:
        self._content = bytearray()
        #: Where every part begins in the content, and every mask in the parts; and where the last one ends.
        self._parts, self._masks = array("q", [0]), array("q", [0])
        self._polygons = bytearray()  # by mask, whether it is of polygons

    def append(self, segment: Segment) -> None:
        """Add the mask of the next number."""
        for part in [segment["counts"]] if isinstance(segment, dict) else segment:
            self._content += bytes(part)
            self._parts.append(len(self._content))
        self._masks.append(len(self._parts) - 1)
        self._polygons.append(not isinstance(segment, dict))

    def encode(self, number: int, image: ImageEntry) -> RunLengths:
        """The run lengths of a mask, exactly as pycocotools' own annToRLE gives them."""
        places = self._parts[self._masks[number] : self._masks[number + 1] + 1]
        parts = [self._content[start:end] for start, end in itertools.pairwise(places)]
        if not self._polygons[number]:
            return {"size": [image.height, image.width], "counts": bytes(parts[0])}
        polygons = [np.frombuffer(part, np.float64) for part in parts]
        merged: RunLengths = coco_mask.merge(coco_mask.frPyObjects(polygons, image.height, image.width))
        return merged


def parse_segment(segmentation: Any, image: ImageEntry) -> tuple[Segment, bool]:
    """Check the mask of an annotation.

    Returns:
        the mask, and whether all its parts have three corners; those that have not are left out.

    Raises:
        ValueError: it is no mask, or not one of this image; the message says what to do.
    """
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, image), True
    if not isinstance(segmentation, list) or not segmentation:
        found = "there is none" if not segmentation else f"got {kind_of(segmentation)}"
        raise ValueError(f"segmentation must be polygons or run lengths; {found}. Draw a mask, or read boxes alone")
    parts = [_polygon(part, image) for part in segmentation]
    kept = tuple(part for part in parts if len(part) >= 6)
    if not kept:
        raise ValueError("its mask has no polygon of three or more corners; draw it anew or remove it")
    return kept, len(kept) == len(parts)


def kind_of(value: Any) -> str:
    """What JSON calls it, for messages."""
    names = {dict: "an object", list: "a list", str: "a text", type(None): "null"}
    return names.get(type(value), "a number")


def _polygon(part: Any, image: ImageEntry) -> NDArray[np.float64]:
    corners = np.array(part) if isinstance(part, list) else np.array(None)
    if corners.ndim != 1 or corners.dtype.kind not in "if":
        raise ValueError(f"a polygon must be a list of numbers, x and y in turn; got {kind_of(part)}")
    if len(corners) % 2:
        raise ValueError(f"a polygon has {len(part)} numbers, x or y of a corner is missing; draw it anew")
    sides = np.array([image.width, image.height])
    # pycocotools walks along every edge step by step and takes memory for each.
    if not (np.abs(corners.reshape(-1, 2) - sides / 2) <= 1.5 * sides).all():
        raise ValueError(
            f"a polygon reaches farther than an image's side out of its image, {image.width}×{image.height}; is "
            "it of another image?"
        )
    return corners.astype(np.float64)


def _run_lengths(segmentation: dict[str, Any], image: ImageEntry) -> RunLengths:
    """Compressed run lengths; pycocotools itself would make a mask of random pixels from ones that do not fit."""
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [image.height, image.width]:
        raise ValueError(
            f"the size of its mask is {size!r} (height, width), of its image {[image.height, image.width]}; "
            "mask and image must have the same"
        )
    try:
        runs = _runs(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("counts of its mask are no run lengths; write the mask anew") from error
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != image.height * image.width:
        raise ValueError(
            f"the run lengths of its mask are of {runs.sum()} pixels, its image has "
            f"{image.height * image.width}; write the mask anew"
        )
    if isinstance(counts, str):
        return {"size": size, "counts": counts.encode()}
    encoded: RunLengths = coco_mask.frPyObjects({"size": size, "counts": runs.tolist()}, *size)
    return encoded


def _runs(text: str) -> NDArray[np.int64]:
    """Run lengths from COCO's text: five bits a character, the least first, each run less the one before the last.

    Source:
        rleFrString in pycocotools' maskApi.c
    """
    bits = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    if not len(bits) or (bits < 0).any() or (bits > 63).any() or bits[-1] & 32:
        raise ValueError("broken text")
    ends = np.flatnonzero(bits & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 12:
        raise ValueError("broken text")
    shifts = 5 * (np.arange(len(bits)) - np.repeat(starts, lengths))
    runs: NDArray[np.int64] = np.add.reduceat((bits & 31) << shifts, starts)
    runs -= np.where(bits[ends] & 16, 1 << 5 * lengths, 0)  # the last bit is the sign
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs
