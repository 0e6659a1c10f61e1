"""COCO annotation files, all that is written in them checked before training starts; no image is decoded for that.

Source:
    https://cocodataset.org/#format-data
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from ...errors import ConfigError, listing
from .box_formats import check_boxes, check_masks
from .decoding import open_annotated
from .object_splits import ObjectSplit
from .objects import ImageEntry, Objects, corners, have_area, to_learn
from .segments import Segments, kind_of, parse_segment

_NUMBER = (int, float)
#: What is needed of every entry, and of what kind it must be.
_KEYS: dict[str, dict[str, Any]] = {
    "images": {"id": int, "file_name": str, "width": int, "height": int},
    "categories": {"id": int, "name": str},
    "annotations": {"id": int, "image_id": int, "category_id": int, "bbox": list, "area": _NUMBER},
}
#: So many masks are compared with their boxes.
_LOOKED_AT = 500
_KINDS = {int: "a whole number", str: "a text", list: "a list", _NUMBER: "a number"}


@dataclasses.dataclass(frozen=True)
class _Columns:
    """All objects of a file, those of an image side by side: ``spans`` says from where to where.

    In arrays, because a million of Python's numbers would be copied into every process that reads images. Boxes are
    left, top, width and height as the file has them.
    """

    file: Path
    spans: dict[int, tuple[int, int]]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    area: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    ids: NDArray[np.int64]
    segments: Segments | None


def read_coco(annotations: Path, folder: Path, masks: bool = True) -> ObjectSplit:
    """Read an annotation file and find its images.

    Labels count from 1 in the order of the category ids, which may have gaps. Boxes are cut off at the image's edges.
    Those that have no area then, and parts of masks with fewer than three corners, are counted and reported once, as a
    warning; training leaves such objects out, evaluation counts them as COCO's evaluator does. So is what looks like
    another format but may be right.

    Args:
        annotations: the JSON, instances_train2017.json for example.
        folder: the folder that file_name is relative to.
        masks: read masks; without, the data needs none.

    Raises:
        ConfigError: a file or folder is missing, or the JSON is broken, lacks something, contradicts itself, or has
            boxes or masks in another format; also when an image is read that is broken or of another size. The message
            names the file and the id.
    """
    content = _load(annotations)
    images, categories, entries = (_entries(annotations, content, key) for key in _KEYS)
    found = {entry["id"]: _image(annotations, folder, entry) for entry in images}
    if missing := [image.path for image in found.values() if image.path and not image.path.is_file()]:
        raise ConfigError(f"{annotations}: images are missing, {listing(missing)}; check the folder {folder}")
    labels = {number: label for label, number in enumerate(sorted(entry["id"] for entry in categories), start=1)}
    names = {labels[entry["id"]]: entry["name"] for entry in categories}
    columns, short = _columns(annotations, found, labels, entries, masks)
    owners = [found[number] for number, (start, end) in columns.spans.items() for _ in range(start, end)]
    _report(columns, owners, short)
    learnt = to_learn(corners(columns.boxes, *_sides(owners).T), columns.crowd)
    return ObjectSplit(
        ("background", *(names[label] for label in sorted(names))),
        {label: number for number, label in labels.items()},
        tuple(found.values()),
        functools.partial(_read, columns),
        frozenset(number for number, (start, end) in columns.spans.items() if not learnt[start:end].any()),
    )


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file}: the annotation file cannot be read ({error.strerror}); check its path") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not JSON, or cut off; copy or download it again ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: a COCO file holds {', '.join(_KEYS)} by name; this one is {kind_of(content)}")
    return content


def _entries(file: Path, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """A list of the file, every entry with what is needed, and an id of its own."""
    entries = content.get(key)
    if not isinstance(entries, list) or not entries:
        state = "are missing" if key not in content else "are empty" if entries == [] else f"are {kind_of(entries)}"
        raise ConfigError(f"{file}: {key} {state}; a COCO file needs a list of at least one")
    ids = set()
    for number, entry in enumerate(entries):
        where = f"{file}: {key}[{number}]"
        if not isinstance(entry, dict):
            raise ConfigError(f"{where} is {kind_of(entry)}; it must be an object with {', '.join(_KEYS[key])}")
        if isinstance(entry.get("id"), int):
            where += f" (id {entry['id']})"
        for name, kind in _KEYS[key].items():
            if name not in entry:
                raise ConfigError(f"{where} has no {name}; every one needs {', '.join(_KEYS[key])}")
            if not isinstance(entry[name], kind):
                raise ConfigError(f"{where}: {name} must be {_KINDS[kind]}, got {entry[name]!r}")
        if entry["id"] in ids:
            raise ConfigError(f"{where}: another of the {key} has this id; give each its own, or remove one")
        ids.add(entry["id"])
    return entries


def _image(file: Path, folder: Path, entry: dict[str, Any]) -> ImageEntry:
    if min(entry["width"], entry["height"]) < 1:
        raise ConfigError(
            f"{file}: image {entry['id']} ({entry['file_name']}) has the size {entry['width']}×{entry['height']}; "
            "correct it"
        )
    return ImageEntry(entry["id"], entry["width"], entry["height"], folder / entry["file_name"])


def _columns(
    file: Path, images: dict[int, ImageEntry], labels: dict[int, int], entries: list[dict[str, Any]], masks: bool
) -> tuple[_Columns, list[int]]:
    """The annotations, checked and sorted by image; and ids of those whose masks are not whole."""
    members: dict[int, list[dict[str, Any]]] = {number: [] for number in images}
    for entry in entries:
        where = f"{file}: annotation {entry['id']}"
        if entry["image_id"] not in members:
            raise ConfigError(
                f"{where} is of image {entry['image_id']}, which is not among the images; add or remove it"
            )
        if entry["category_id"] not in labels:
            raise ConfigError(
                f"{where} (image {entry['image_id']}) is of category {entry['category_id']}, which is not among the "
                f"categories ({listing(labels)}); add or remove it"
            )
        members[entry["image_id"]].append(entry)
    ordered: list[dict[str, Any]] = []
    boxes: list[list[float]] = []
    segments = Segments()
    short: list[int] = []
    spans = {}
    for number, own in members.items():
        spans[number] = (len(ordered), len(ordered) + len(own))
        for entry in own:
            try:
                boxes.append(_box(entry))
                if masks:
                    segment, whole = parse_segment(entry.get("segmentation"), images[number])
                    segments.append(segment)
                    if not whole:
                        short.append(entry["id"])
            except (ValueError, OverflowError) as error:
                raise ConfigError(f"{file}: annotation {entry['id']} (image {number}): {error}") from error
            ordered.append(entry)
    columns = _Columns(
        file,
        spans,
        np.array(boxes, np.float64),
        np.array([labels[entry["category_id"]] for entry in ordered], np.int64),
        np.array([entry["area"] for entry in ordered], np.float64),
        np.array([bool(entry.get("iscrowd", 0)) for entry in ordered]),
        np.array([entry["id"] for entry in ordered], np.int64),
        segments if masks else None,
    )
    return columns, short


def _report(columns: _Columns, owners: Sequence[ImageEntry], short: Sequence[int]) -> None:
    """Say what is strange about boxes and masks, in one warning, or refuse what cannot be right."""
    boxes, ids, sides = columns.boxes, columns.ids, _sides(owners)
    within = corners(boxes, *sides.T)
    try:
        said = check_boxes(boxes, sides, columns.area, ids)
        if columns.segments is not None:
            some = range(0, len(ids), max(1, len(ids) // _LOOKED_AT))
            found = coco_mask.toBbox([columns.segments.encode(number, owners[number]) for number in some])
            said += check_masks(found, within[some], ids[some])
    except ValueError as error:
        raise ConfigError(f"{columns.file}: {error}") from error
    if flat := ids[~have_area(within)].tolist():
        said.append(
            f"{len(flat)} of {len(ids)} boxes have no area in their image, training leaves them out (annotations "
            f"{listing(flat)})"
        )
    if short:
        said.append(f"parts of masks with fewer than three corners are left out in annotations {listing(short)}")
    if said:
        warnings.warn(f"{columns.file}: {'. '.join(said)}", stacklevel=3)


def _box(entry: dict[str, Any]) -> list[float]:
    """Left, top, width and height, as they are written."""
    box: list[float] = entry["bbox"]
    area = entry["area"]
    if len(box) != 4 or not all(isinstance(value, _NUMBER) and math.isfinite(value) for value in box):
        raise ValueError(f"bbox must be four numbers, left, top, width and height; got {box!r}")
    if not 0 <= area < math.inf:
        raise ValueError(f"area must be the number of its pixels; got {area!r}")
    return box


def _sides(owners: Sequence[ImageEntry]) -> NDArray[np.float64]:
    """Width and height of each image."""
    return np.array([(image.width, image.height) for image in owners], np.float64)


def _read(columns: _Columns, entry: ImageEntry) -> tuple[Image.Image, Objects]:
    assert entry.path is not None
    image = open_annotated(entry.path, entry.width, entry.height)
    if image.size != (entry.width, entry.height):
        raise ConfigError(
            f"{entry.path}: the image is {image.width}×{image.height}, but image {entry.id} of {columns.file} is "
            f"{entry.width}×{entry.height}; its boxes would not fit, use the image that was annotated"
        )
    start, end = columns.spans[entry.id]
    run_lengths = None
    if columns.segments is not None:
        run_lengths = tuple(columns.segments.encode(number, entry) for number in range(start, end))
    names = ("labels", "area", "crowd", "ids")
    # Copies: what is done to a target must not be done to the data set.
    arrays: dict[str, Any] = {name: getattr(columns, name)[start:end].copy() for name in names}
    annotated = columns.boxes[start:end].copy()
    boxes = corners(annotated, entry.width, entry.height)
    return image, Objects(entry, boxes, **arrays, run_lengths=run_lengths, annotated=annotated)
