"""Small COCO data sets written to disk for the tests of detection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SQUARE = [[2.0, 1.0, 8.0, 1.0, 8.0, 6.0, 2.0, 6.0]]
#: Columns first: 3 columns of 10 without, then 5 pixels with, then without.
RUNS = {"size": [10, 20], "counts": [30, 5, 165]}
COMPRESSED = {"size": [10, 20], "counts": "n05U5"}  # the same


def content() -> dict[str, Any]:
    """Two images of 20×10 with objects and one without, categories with gaps, all kinds of masks, and a crowd."""
    return {
        "images": [{"id": number, "file_name": f"{number}.png", "width": 20, "height": 10} for number in (7, 3, 5)],
        "categories": [{"id": 90, "name": "cat"}, {"id": 2, "name": "ant"}, {"id": 41, "name": "bee"}],
        "annotations": [
            annotation(100, 3, 41, SQUARE),
            annotation(101, 7, 90, COMPRESSED, bbox=[3, 0, 1, 5], area=5),
            annotation(102, 3, 2, RUNS, iscrowd=1, bbox=[3, 0, 1, 5], area=5),
            annotation(103, 3, 90, SQUARE, bbox=[15, -2, 10, 6]),
        ],
    }


def annotation(number: int, image: int, category: int, segmentation: Any, **other: Any) -> dict[str, Any]:
    own = {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation}
    return {**own, "bbox": [2.0, 1.0, 6.0, 5.0], "area": 30.0, "iscrowd": 0, **other}


def write_coco(folder: Path, data: Any) -> tuple[Path, Path]:
    """The annotation file and the folder with grey images of 20×10."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for number in (3, 5, 7):
        Image.new("L", (20, 10), 10 * number).save(images / f"{number}.png")
    (folder / "instances.json").write_text(data if isinstance(data, str) else json.dumps(data))
    return folder / "instances.json", images


def write_squares(root: Path, **counts: int) -> Path:
    """COCO's layout with so many images a split, in each a red or a green square: learned within seconds."""
    (root / "annotations").mkdir(parents=True)
    numbers = np.random.default_rng(0)
    for split, count in counts.items():
        (root / split).mkdir()
        content: dict[str, Any] = {"images": [], "annotations": []}
        for number in range(1, count + 1):
            side = int(numbers.integers(20, 33))
            left, top = (int(value) for value in numbers.integers(0, 64 - side, 2))
            right, bottom = left + side, top + side
            pixels = np.zeros((64, 64, 3), np.uint8)
            pixels[top:bottom, left:right, number % 2] = 255
            Image.fromarray(pixels).save(root / split / f"{number}.png")
            content["images"].append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
            corners = [[left, top, right, top, right, bottom, left, bottom]]
            place = {"bbox": [left, top, side, side], "area": side**2}
            content["annotations"].append(annotation(number, number, number % 2, corners, **place))
        content["categories"] = [{"id": 0, "name": "red"}, {"id": 1, "name": "green"}]
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root
