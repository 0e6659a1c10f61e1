"""Boxes and masks in other formats are refused or reported before training, and right files never are."""

from __future__ import annotations

import copy
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchvision")
pytest.importorskip("pycocotools")

from coco_files import annotation, write_squares
from data_files import SHARED

from convofconv import ConfigError
from convofconv.cli import main
from convofconv.lab.data.box_formats import check_boxes
from convofconv.lab.data.coco_annotations import read_coco

pytestmark = pytest.mark.lab

Boxes = np.ndarray[Any, np.dtype[np.float64]]


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """26 images of 64×64 with a square in each."""
    return write_squares(tmp_path_factory.mktemp("formats"), train=26, val=2)


def as_corners(box: list[float]) -> list[float]:
    left, top, width, height = box
    return [left, top, left + width, top + height]


def as_centre(box: list[float]) -> list[float]:
    left, top, width, height = box
    return [left + width / 2, top + height / 2, width, height]


def as_fractions(box: list[float]) -> list[float]:
    return [side / 64 for side in box]


def scaled(box: list[float], by: float) -> list[float]:
    return [by * side for side in box]


def rewritten(squares: Path, out: Path, box: Any = None, polygon: Any = None, which: slice = slice(None)) -> Any:
    """What reads the file with boxes and polygons in another format."""
    content = json.loads((squares / "annotations" / "instances_train.json").read_text())
    for entry in content["annotations"][which]:
        entry["bbox"] = box(entry["bbox"]) if box else entry["bbox"]
        entry["segmentation"] = [[float(x) for x in polygon(part)] for part in entry["segmentation"]] if polygon else []
    (out / "instances.json").write_text(json.dumps(content))
    return lambda masks=False: read_coco(out / "instances.json", squares / "train", masks)


EXAMPLE = r"\(annotation \d+: [\d.]+, [\d.]+, [\d.]+, [\d.]+, in an image of 64×64\)"


def test_corners_are_refused(squares: Path, tmp_path: Path) -> None:
    read = rewritten(squares, tmp_path, as_corners)
    with pytest.raises(ConfigError) as caught:
        read()
    assert re.fullmatch(
        rf"{re.escape(str(tmp_path))}/instances\.json: (\d+) of 26 boxes leave their images by more than a pixel "
        rf"{EXAMPLE}, and 26 fit as left, top, right and bottom; bbox must be left, top, width and height in pixels",
        str(caught.value),
    )


@pytest.mark.parametrize(
    "form", [as_fractions, lambda box: as_fractions(as_corners(box)), lambda box: as_fractions(as_centre(box))]
)
def test_fractions_are_refused(squares: Path, tmp_path: Path, form: Any) -> None:
    message = rf"instances\.json: 26 of 26 boxes lie in the first pixel of their images {EXAMPLE}, they are fractions"
    with pytest.raises(ConfigError, match=message):
        rewritten(squares, tmp_path, form)()


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (as_centre, rf"\d+ of 26 boxes leave .* {EXAMPLE}, and 26 fit as centre, width and height; bbox must be left"),
        (lambda box: scaled(box, 4), rf"\d+ of 26 boxes leave their images by more than a pixel {EXAMPLE}; bbox must"),
        (
            lambda box: scaled(box, 0.25),
            rf"26 of 26 boxes are smaller than their area {EXAMPLE}, .* of the images' own s",
        ),
    ],
    ids=["centre", "of larger images", "of smaller images"],
)
def test_what_may_be_right_is_reported_once(squares: Path, tmp_path: Path, form: Any, message: str) -> None:
    with pytest.warns(UserWarning, match=rf"instances\.json: {message}") as told:
        split = rewritten(squares, tmp_path, form)()
    assert len(told) == 1
    assert len(split) == 26


def test_a_few_slips_of_annotators_are_no_other_format(squares: Path, tmp_path: Path) -> None:
    """Even far outside: as before, they are cut off without a word."""
    assert len(rewritten(squares, tmp_path, as_corners, which=slice(3))()) == 26


def swapped(part: list[float]) -> list[float]:
    return [side for corner in zip(part[1::2], part[::2], strict=True) for side in corner]


@pytest.mark.parametrize(
    ("form", "least"),
    [(lambda part: scaled(part, 1 / 64), 26), (lambda part: scaled(part, 0.1), 26), (swapped, 14)],
    ids=["fractions", "of smaller images", "y and x"],
)
def test_masks_in_another_format_are_refused(squares: Path, tmp_path: Path, form: Any, least: int) -> None:
    message = (
        r"instances\.json: (\d+) of 26 masks .* lie outside of their boxes \(annotation \d+\); corners of polygons"
    )
    with pytest.raises(ConfigError, match=message) as caught:
        rewritten(squares, tmp_path, polygon=form)(masks=True)
    found = re.search(message, str(caught.value))
    assert found
    assert int(found[1]) >= least
    assert len(rewritten(squares, tmp_path, polygon=form)(masks=False)) == 26  # read without


def test_masks_of_which_many_lie_elsewhere_are_reported(squares: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"\d+ of 26 masks that were looked at lie outside of their boxes"):
        rewritten(squares, tmp_path, polygon=swapped, which=slice(14))(masks=True)


def test_the_command_refuses_before_it_trains(squares: Path, tmp_path: Path, capsys: Any) -> None:
    content = json.loads((squares / "annotations" / "instances_train.json").read_text())
    right = copy.deepcopy(content)
    for entry in content["annotations"]:
        entry["bbox"] = as_corners(entry["bbox"])
    (squares / "annotations" / "instances_train.json").write_text(json.dumps(content))
    try:
        arguments = ["scenes-retinanet-resnet18", "--data.name=coco", f"--data.root={squares}", "--data.classes=3"]
        assert main(["fit", *arguments, f"--out={tmp_path / 'run'}"]) == 2
    finally:
        (squares / "annotations" / "instances_train.json").write_text(json.dumps(right))
    told = capsys.readouterr().err
    assert told.startswith(f"coc: {squares}/annotations/instances_train.json: ")
    assert told.count("\n") == 1


def columns(boxes: Any, side: float = 100.0) -> tuple[Any, ...]:
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    sides = np.full((len(boxes), 2), side)
    return boxes, sides, boxes[:, 2:].clip(0).prod(1), np.arange(len(boxes))


RIGHT = {
    "tiny": [[0, 0, 1, 1], [99, 99, 1, 1], [3, 4, 0.5, 0.5]],
    "placeholders without area": [[0, 0, 0, 0]] * 9,
    "placeholders of a pixel": [[0, 0, 1, 1]] * 9,
    "the whole image": [[0, 0, 100, 100]] * 9,
    "less than a pixel outside": [[-0.9, 10, 101.8, 20]] * 9,
    "nearly the whole image, drawn carelessly": [[0, 0, 99, 99]] * 30 + [[3, 3, 99, 99]],
    "at the left and the top": [[0, 10 * place, 30, 9] for place in range(10)],
}


@pytest.mark.parametrize("boxes", RIGHT.values(), ids=list(RIGHT))
def test_unusual_boxes_are_right(boxes: Any) -> None:
    assert check_boxes(*columns(boxes)) == []


def test_amodal_boxes_are_not_refused() -> None:
    """Of objects that go on outside of their images, drawn whole."""
    rng = np.random.default_rng(0)
    sizes = rng.uniform(20, 60, (500, 2))
    starts = rng.uniform(-0.5, 1, (500, 2)) * (100 - sizes / 2)
    (told,) = check_boxes(*columns(np.concatenate([starts, sizes], 1)))
    assert "boxes leave their images by more than a pixel" in told
    assert "fit as" not in told


def test_the_area_may_count_the_pixels_on_both_edges() -> None:
    boxes, sides, _, ids = columns([[10, 10, 4, 7]] * 9)
    assert check_boxes(boxes, sides, np.full(9, 5.0 * 8), ids) == []
    assert check_boxes(boxes, sides, np.full(9, 5.0 * 8 + 1), ids)


REAL = ["coco_subset/{}2017", "dsb2018_nuclei/{}"]


@pytest.mark.parametrize("folder", REAL)
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_files_are_right_and_their_corners_are_not(folder: str, split: str, tmp_path: Path) -> None:
    images = SHARED / folder.format(split)
    if not images.is_dir():
        pytest.skip(f"the real data {images.parent.name} is not on this machine")
    file = images.parent / "annotations" / f"instances_{images.name}.json"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_coco(file, images, masks=True)
    content = json.loads(file.read_text())
    sides = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for form in (as_corners, None):
        wrong = copy.deepcopy(content)
        for entry in wrong["annotations"]:
            box = as_corners(entry["bbox"])
            entry["bbox"] = (
                box if form else [n / side for n, side in zip(box, sides[entry["image_id"]] * 2, strict=True)]
            )
        (tmp_path / "wrong.json").write_text(json.dumps(wrong))
        with pytest.raises(ConfigError, match="fit as left, top, right and bottom" if form else "they are fractions"):
            read_coco(tmp_path / "wrong.json", images, masks=False)


def test_as_many_as_two_are_enough(tmp_path: Path) -> None:
    """There may be no more in a file that somebody tries out."""
    (tmp_path / "truth.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "truth.json", "width": 64, "height": 48}],
                "categories": [{"id": 1, "name": "ant"}],
                "annotations": [
                    annotation(1, 1, 1, [], bbox=[40, 8, 60, 30], area=440),
                    annotation(2, 1, 1, [], bbox=[2, 20, 12, 40], area=200),
                ],
            }
        )
    )
    with pytest.raises(
        ConfigError, match=r"2 of 2 boxes leave .* \(annotation 1: 40, 8, 60, 30, in an image of 64×48\)"
    ):
        read_coco(tmp_path / "truth.json", tmp_path, masks=False)
