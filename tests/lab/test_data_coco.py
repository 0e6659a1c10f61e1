"""COCO files as they are read, and every mistake in one that must be named before training starts."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import pickle
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision")
pytest.importorskip("pycocotools")

from coco_files import COMPRESSED, RUNS, SQUARE, annotation, content, write_coco
from data_files import SHARED
from PIL import ExifTags, Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from convofconv import ConfigError
from convofconv.lab.data.coco_annotations import read_coco
from convofconv.lab.data.objects import evaluation_target, training_target
from convofconv.lab.data.segments import _runs

pytestmark = pytest.mark.lab


def test_classes_images_and_objects(tmp_path: Path) -> None:
    file, folder = write_coco(tmp_path, content())
    split = read_coco(file, folder)
    assert split.classes == ("background", "ant", "bee", "cat")
    assert split.categories == {1: 2, 2: 41, 3: 90}
    assert [(image.id, image.width, image.height) for image in split.images] == [
        (7, 20, 10),
        (3, 20, 10),
        (5, 20, 10),
    ]
    assert split.images[0].path == folder / "7.png"
    image, objects = split[1]
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (20, 10), (30, 30, 30))
    assert objects.boxes.tolist() == [[2, 1, 8, 6], [3, 0, 4, 5], [15, 0, 20, 4]]  # the last one is cut off
    assert objects.labels.tolist() == [2, 1, 3]
    assert objects.crowd.tolist() == [False, True, False]
    assert objects.area.tolist() == [30, 5, 30]
    assert objects.ids.tolist() == [100, 102, 103]
    assert [array.dtype for array in (objects.boxes, objects.labels, objects.area)] == [
        np.float64,
        np.int64,
        np.float64,
    ]


def test_boxes_and_areas_are_the_numbers_of_the_file(tmp_path: Path) -> None:
    data = content()
    data["annotations"][0] |= {"bbox": [2.1, 1.3, 5.7, 4.9], "area": 1024.00001}
    data["annotations"][3]["bbox"] = [15.1, -0.7, 10.3, 6.3]
    _, objects = read_coco(*write_coco(tmp_path, data))[1]
    assert objects.annotated is not None
    assert objects.annotated.tolist() == [[2.1, 1.3, 5.7, 4.9], [3, 0, 1, 5], [15.1, -0.7, 10.3, 6.3]]
    assert objects.boxes.tolist() == [[2.1, 1.3, 2.1 + 5.7, 1.3 + 4.9], [3, 0, 4, 5], [15.1, 0, 20, 6.3 - 0.7]]
    assert objects.area.tolist() == [1024.00001, 5, 30]
    target, learnt = evaluation_target(objects), training_target(objects)
    assert torch.equal(target["bbox"], torch.from_numpy(objects.annotated))
    assert [target[key].dtype for key in ("boxes", "area")] == [torch.float64] * 2
    assert [learnt[key].dtype for key in ("boxes", "area")] == [torch.float32] * 2


def test_masks_of_every_kind(tmp_path: Path) -> None:
    split = read_coco(*write_coco(tmp_path, content()))
    masks = split[1][1].masks()
    assert masks.shape == (3, 10, 20)
    assert masks.dtype == np.uint8
    square, column = np.zeros((2, 10, 20), np.uint8)
    square[1:6, 2:8] = 1
    column[:5, 3] = 1
    assert np.array_equal(masks[0], square)
    assert np.array_equal(masks[1], column)
    assert np.array_equal(split[0][1].masks()[0], column)
    assert split[2][1].masks().shape == (0, 10, 20)


def test_parts_of_an_object_are_one_mask(tmp_path: Path) -> None:
    data = content()
    data["annotations"][0]["segmentation"] = [
        *SQUARE,
        [12.0, 2.0, 15.0, 2.0, 15.0, 5.0, 12.0, 5.0],
        [1.0, 1.0, 2.0, 2.0],
    ]
    with pytest.warns(UserWarning, match=r"instances\.json: parts of masks with fewer than three .* annotations 100$"):
        split = read_coco(*write_coco(tmp_path, data))
    assert split[1][1].masks()[0].sum() == 30 + 9


@pytest.mark.parametrize("bbox", [[2, 1, 0, 5], [2, 1, 6, -5], [20, 1, 6, 5], [-9, 1, 9, 5], [2, 1, 1e-9, 5]])
def test_boxes_without_area_are_kept_and_told_once(tmp_path: Path, bbox: list[float]) -> None:
    data = content()
    data["annotations"][0]["bbox"] = bbox
    with pytest.warns(
        UserWarning, match=r"1 of 4 boxes have no area .* training leaves .* \(annotations 100\)"
    ) as told:
        split = read_coco(*write_coco(tmp_path, data))
    _, objects = split[1]
    assert len(told) == 1
    assert objects.ids.tolist() == [100, 102, 103]
    left, top, right, bottom = objects.boxes[0].astype(np.float32)  # as detectors learn from them
    assert 0 <= left <= right <= 20
    assert 0 <= top <= bottom <= 10
    assert left == right or top == bottom


def test_boxes_alone_need_no_masks(tmp_path: Path) -> None:
    data = content()
    for entry in data["annotations"]:
        del entry["segmentation"]
    split = read_coco(*write_coco(tmp_path, data), masks=False)
    assert split[1][1].run_lengths is None
    assert len(split[1][1]) == 3


def test_iscrowd_is_0_where_it_is_not_said(tmp_path: Path) -> None:
    data = content()
    for entry in data["annotations"]:
        del entry["iscrowd"]
    assert not read_coco(*write_coco(tmp_path, data))[1][1].crowd.any()


def test_splits_can_be_sent_to_workers_and_changed_targets_change_nothing(tmp_path: Path) -> None:
    split = pickle.loads(pickle.dumps(read_coco(*write_coco(tmp_path, content()))))
    split[1][1].boxes[:] = 0
    assert split[1][1].boxes.any()


@pytest.mark.parametrize(("segmentation", "size"), [(SQUARE, 64), ([*SQUARE, *SQUARE], 2 * 64 + 8), (COMPRESSED, 5)])
def test_masks_take_little_more_memory_than_their_numbers(tmp_path: Path, segmentation: Any, size: int) -> None:
    """Besides the mask: a box, a label, an area, whether it is a crowd, an id; a flag and two offsets of the mask."""
    count = 2000
    data = {**content(), "annotations": [annotation(number, 3, 2, segmentation) for number in range(count)]}
    file, folder = write_coco(tmp_path, data)
    read_coco(file, folder)  # what is imported and kept for good is there now
    tracemalloc.start()
    split = read_coco(file, folder)
    gc.collect()  # what is kept is asked for, not what waits to be freed
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(split) == 3
    assert taken < 1.2 * count * (32 + 8 + 8 + 1 + 8 + 17 + size) + 20_000


@pytest.mark.parametrize("seed", range(20))
def test_compressed_run_lengths_are_those_of_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.asfortranarray((rng.random((97, 61)) < rng.choice([0.001, 0.05, 0.5, 0.999])).astype(np.uint8))
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
    expected = np.diff(np.concatenate([[0], changes, [flat.size]]))
    assert _runs(coco_mask.encode(mask)["counts"].decode()).tolist() == expected.tolist()


def changed(path: tuple[Any, ...], value: Any) -> Any:
    data = content()
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


MASK = ("annotations", 0, "segmentation")
MISTAKES = {
    "cut off": (json.dumps(content())[:300], "not JSON, or cut off; copy or download it again"),
    "a list": ([1], "holds images, categories, annotations by name; this one is a list"),
    "no images": (changed(("images",), None), "images are missing; a COCO file needs a list"),
    "empty images": (changed(("images",), []), "images are empty"),
    "images by name": (changed(("images",), {}), "images are an object"),
    "no categories": (changed(("categories",), []), "categories are empty"),
    "no annotations": (changed(("annotations",), []), "annotations are empty"),
    "a number": (
        changed(("annotations", 1), 5),
        r"annotations\[1\] is a number; it must be an object with id, image_id",
    ),
    "no bbox": (changed(("annotations", 1, "bbox"), None), r"annotations\[1\] \(id 101\) has no bbox; every one needs"),
    "no area": (changed(("annotations", 1, "area"), None), r"\(id 101\) has no area"),
    "no file_name": (changed(("images", 0, "file_name"), None), r"images\[0\] \(id 7\) has no file_name"),
    "no id": (changed(("categories", 0, "id"), None), r"categories\[0\] has no id"),
    "id as text": (changed(("images", 0, "id"), "7"), r"images\[0\]: id must be a whole number, got '7'"),
    "same image": (changed(("images", 0, "id"), 3), r"images\[1\] \(id 3\): another of the images has this id"),
    "same annotation": (changed(("annotations", 1, "id"), 100), r"annotations\[1\] \(id 100\): another of the annot"),
    "same category": (changed(("categories", 1, "id"), 90), r"categories\[1\] \(id 90\): another"),
    "no such image": (changed(("annotations", 0, "image_id"), 4), "annotation 100 is of image 4, which is not among"),
    "no such category": (
        changed(("annotations", 0, "category_id"), 1),
        r"annotation 100 \(image 3\) is of category 1, which is not among the categories \(2, 41, 90\)",
    ),
    "no such file": (changed(("images", 0, "file_name"), "x/8.png"), r"images are missing, .*x/8\.png; check the f"),
    "empty image": (changed(("images", 0, "width"), 0), r"image 7 \(7\.png\) has the size 0×10"),
    "three numbers": (changed(("annotations", 0, "bbox"), [1, 2, 3]), r"annotation 100 \(image 3\): bbox must be four"),
    "box of text": (changed(("annotations", 0, "bbox"), [1, 2, 3, "4"]), "bbox must be four numbers"),
    "box of nan": (changed(("annotations", 0, "bbox"), [1, 2, 3, float("nan")]), "bbox must be four numbers"),
    "box of huge": (changed(("annotations", 0, "bbox"), [1, 2, 3, 10**400]), r"annotation 100 \(image 3\): int too"),
    "negative area": (changed(("annotations", 0, "area"), -1), "area must be the number of its pixels; got -1"),
    "no mask": (changed(MASK, None), r"annotation 100 \(image 3\): segmentation must be .* there is none"),
    "mask of text": (changed(MASK, "abc"), "segmentation must be polygons or run lengths; got a text"),
    "two corners": (changed(MASK, [[1, 1, 5, 5]]), "no polygon of three or more corners"),
    "odd polygon": (changed(MASK, [[1, 1, 5, 5, 7, 7, 3]]), "a polygon has 7 numbers, x or y of a corner is missing"),
    "flat polygon": (changed(MASK, SQUARE[0]), "a polygon must be a list of numbers, x and y in turn; got a number"),
    "polygon of text": (changed(MASK, [[1, 1, 5, 5, 7, "7"]]), "a polygon must be a list of numbers"),
    "corners in pairs": (changed(MASK, [[[1, 1], [5, 5], [7, 7]]]), "a polygon must be a list of numbers"),
    "far polygon": (changed(MASK, [[1, 1, 41, 1, 1, 5]]), "a polygon reaches farther than an image's side"),
    "nan polygon": (changed(MASK, [[1, 1, float("nan"), 1, 1, 5]]), "a polygon reaches farther"),
    "transposed": (
        changed(MASK, {**RUNS, "size": [20, 10]}),
        r"the size of its mask is \[20, 10\] \(height, width\), of its image \[10, 20\]",
    ),
    "too few runs": (
        changed(MASK, {**RUNS, "counts": [30, 5]}),
        "run lengths of its mask are of 35 pixels, .* has 200",
    ),
    "negative run": (changed(MASK, {**RUNS, "counts": [30, -5, 175]}), "run lengths of its mask"),
    "nested runs": (changed(MASK, {**RUNS, "counts": [[200]]}), "run lengths of its mask"),
    "no runs": (changed(MASK, {"size": [10, 20]}), "counts of its mask are no run lengths"),
    "runs cut off": (changed(MASK, {**COMPRESSED, "counts": "n0"}), "run lengths of its mask are of 30 pixels"),
    "run cut off": (changed(MASK, {**COMPRESSED, "counts": "n05U"}), "counts of its mask are no run lengths"),
    "second run cut off": (changed(MASK, {**COMPRESSED, "counts": "8V"}), "counts of its mask are no run lengths"),
    "no letters": (changed(MASK, {**COMPRESSED, "counts": "n05 "}), "counts of its mask are no run lengths"),
    "no text": (changed(MASK, {**COMPRESSED, "counts": ""}), "counts of its mask are no run lengths"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named(tmp_path: Path, case: str) -> None:
    data, message = MISTAKES[case]
    file, folder = write_coco(tmp_path, data)
    with pytest.raises(ConfigError, match=message) as error:
        read_coco(file, folder)
    assert str(error.value).startswith(f"{file}: ")


def test_missing_files_are_named(tmp_path: Path) -> None:
    file, folder = write_coco(tmp_path, content())
    with pytest.raises(ConfigError, match=r"no\.json: the annotation file cannot be read \(No such file"):
        read_coco(tmp_path / "no.json", folder)
    with pytest.raises(ConfigError, match=r"images are missing, .*7\.png, .*3\.png, .*; check the folder .*nowhere"):
        read_coco(file, tmp_path / "nowhere")


def test_images_of_another_size_and_broken_ones_are_named_when_they_are_read(tmp_path: Path) -> None:
    file, folder = write_coco(tmp_path, content())
    Image.new("L", (10, 20)).save(folder / "3.png")
    (folder / "5.png").write_bytes(b"nothing")
    split = read_coco(file, folder)
    size = rf"{re.escape(str(folder))}/3\.png: the image is 10×20, but image 3 of .*instances\.json is 20×10"
    with pytest.raises(ConfigError, match=size):
        split[1]
    with pytest.raises(ConfigError, match=r"5\.png: not a readable image"):
        split[2]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("L", (10, 20)).save(folder / "3.png", exif=exif)  # 20×10 as it is shown, and as it was annotated
    assert split[1][0].size == (20, 10)


REAL = [
    ("coco_subset/annotations/instances_train2017.json", "coco_subset/train2017", 81, 336, 2_791),
    ("coco_subset/annotations/instances_val2017.json", "coco_subset/val2017", 81, 206, 1_786),
    ("dsb2018_nuclei/annotations/instances_train.json", "dsb2018_nuclei/train", 2, 347, 10_706),
    ("dsb2018_nuclei/annotations/instances_val.json", "dsb2018_nuclei/val", 2, 98, 3_494),
]


@pytest.mark.parametrize(("file", "folder", "classes", "images", "count"), REAL)
def test_real_data(file: str, folder: str, classes: int, images: int, count: int) -> None:
    if not (SHARED / folder).is_dir():
        pytest.skip(f"the real data {folder} is not on this machine")
    split = read_coco(SHARED / file, SHARED / folder)
    assert (len(split.classes), len(split)) == (classes, images)
    assert len(split.read.args[0].ids) == count
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(SHARED / file)
    for index in range(0, images, images // 10):
        image, objects = split[index]
        assert image.mode == "RGB"
        own = {entry["id"]: entry for entry in theirs.imgToAnns[objects.image.id]}
        assert sorted(own) == sorted(objects.ids.tolist())
        for number, mask, label in zip(objects.ids.tolist(), objects.masks(), objects.labels.tolist(), strict=True):
            assert np.array_equal(mask, theirs.annToMask(own[number]))
            assert split.categories[label] == own[number]["category_id"]
            assert split.classes[label] == theirs.cats[own[number]["category_id"]]["name"]


def test_annotations_of_a_image_need_not_stand_together(tmp_path: Path) -> None:
    data = content()
    data["annotations"].insert(0, annotation(99, 5, 2, SQUARE))
    split = read_coco(*write_coco(tmp_path, data))
    assert [split[index][1].ids.tolist() for index in range(3)] == [[101], [100, 102, 103], [99]]
