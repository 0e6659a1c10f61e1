"""Whether the boxes of a COCO file are left, top, width and height in pixels, and its masks where the boxes are.

A right file is never refused: its boxes lie in their images, except a few, and not all in the first pixel. Refused is
what cannot be right as it is written and fits in another format. What only looks strange is reported.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FORMAT = "bbox must be left, top, width and height in pixels"
#: A box that lies outside by more than this share of the image's side is not just drawn carelessly.
_FAR = 0.1
#: The share of the boxes that must fit in another format, since a few may be drawn carelessly.
_NEARLY_ALL = 0.99


def check_boxes(
    boxes: NDArray[np.float64], sides: NDArray[np.float64], area: NDArray[np.float64], ids: NDArray[np.int64]
) -> list[str]:
    """Look for boxes that are in another format.

    Args:
        boxes: as the file has them.
        sides: width and height of the image of each.
        area: of the objects, as the file has them.
        ids: of the annotations.

    Shape:
        - boxes: ``(N, 4)``
        - sides: ``(N, 2)``
        - area, ids: ``(N,)``
        - returns: what to report

    Raises:
        ValueError: they are corners, or fractions of their images.
    """

    def found(what: str, wrong: NDArray[np.bool_], by: NDArray[np.float64]) -> str:
        """How many boxes are wrong, and the one that is so the most."""
        worst = int(np.where(wrong, by, -np.inf).argmax())
        numbers, (width, height) = ", ".join(f"{number:g}" for number in boxes[worst]), sides[worst]
        return (
            f"{wrong.sum()} of {len(boxes)} boxes {what} (annotation {ids[worst]}: {numbers}, in an image of "
            f"{width:.0f}×{height:.0f})"
        )

    ends = boxes[:, :2] + boxes[:, 2:]
    in_pixel = np.all((boxes <= 1) & (sides.min(1, keepdims=True) > 1), axis=1)
    if in_pixel.mean() >= _NEARLY_ALL and (boxes % 1 != 0).any():
        report = found("lie in the first pixel of their images", in_pixel, boxes[:, 2:].prod(1))
        raise ValueError(f"{report}, they are fractions of them; {_FORMAT}")
    outside = np.maximum(-boxes[:, :2], ends - sides).max(1)  # by so many pixels
    leaving, far = outside > 1, outside > 1 + _FAR * sides.min(1)
    as_corners = (boxes[:, 2:] > boxes[:, :2]).all(1) & _inside(boxes[:, :2], boxes[:, 2:], sides)
    report = found("leave their images by more than a pixel", leaving, outside)
    if far.mean() > 1 / 4 and as_corners.mean() >= _NEARLY_ALL:
        raise ValueError(f"{report}, and {as_corners.sum()} fit as left, top, right and bottom; {_FORMAT}")
    reports = []
    if _many(leaving):
        half = boxes[:, 2:] / 2
        as_centres = _inside(boxes[:, :2] - half, boxes[:, :2] + half, sides)
        fit = f", and {as_centres.sum()} fit as centre, width and height" if as_centres.mean() >= _NEARLY_ALL else ""
        reports.append(f"{report}{fit}; {_FORMAT}")
    # Some count the pixels on both edges.
    larger = (area > (boxes[:, 2:] + 1).prod(1)) & (boxes[:, 2:] > 0).all(1)
    if _many(larger):
        report = found("are smaller than their area", larger, area / boxes[:, 2:].prod(1).clip(1e-9))
        reports.append(f"{report}, which decides what counts as small; are they of the images' own size? {_FORMAT}")
    return reports


def check_masks(masks: NDArray[np.float64], boxes: NDArray[np.float64], ids: NDArray[np.int64]) -> list[str]:
    """Look for masks that lie elsewhere than their boxes: both cannot be right.

    Args:
        masks: the boxes that enclose them, as pycocotools gives them.
        boxes: within their images.
        ids: of the annotations.

    Shape:
        - masks: ``(N, 4)``, left, top, width, height
        - boxes: ``(N, 4)``, left, top, right, bottom
        - ids: ``(N,)``
        - returns: what to report

    Raises:
        ValueError: it is so for most of them.
    """
    starts, ends = np.maximum(masks[:, :2], boxes[:, :2]), np.minimum(masks[:, :2] + masks[:, 2:], boxes[:, 2:])
    common, own = (ends - starts).clip(0).prod(1), masks[:, 2:].prod(1)
    # No pixel at all is a mistake where there is room for some.
    elsewhere = (2 * common < own) | ((own == 0) & (boxes[:, 2:] - boxes[:, :2] >= 3).all(1))
    if not _many(elsewhere):
        return []
    first = int(elsewhere.argmax())
    report = (
        f"{elsewhere.sum()} of {len(masks)} masks that were looked at lie outside of their boxes (annotation "
        f"{ids[first]}); corners of polygons must be x and y in turn, in pixels, and {_FORMAT}"
    )
    if elsewhere.mean() > 1 / 2:
        raise ValueError(report)
    return [report]


def _inside(starts: NDArray[np.float64], ends: NDArray[np.float64], sides: NDArray[np.float64]) -> NDArray[np.bool_]:
    within: NDArray[np.bool_] = np.all((starts >= -1) & (ends <= sides + 1), axis=1)
    return within


def _many(wrong: NDArray[np.bool_]) -> bool:
    """More than the slips of an annotator."""
    count, total = int(wrong.sum()), len(wrong)
    return count > total / 2 or (count >= 5 and count > total / 20)
