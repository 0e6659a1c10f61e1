"""COCO's figures against pycocotools run directly, against cases worked by hand, and over two processes."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("torchmetrics")
pytest.importorskip("torchvision")
pytest.importorskip("pycocotools")

from coco_files import annotation
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convofconv import ConfigError
from convofconv.lab.data.build_data import EvaluationSet
from convofconv.lab.data.coco_annotations import read_coco
from convofconv.lab.data.object_splits import TargetSplit
from convofconv.lab.data.object_transforms import evaluation_transform
from convofconv.lab.metrics.coco_metrics import FIGURES, DetectionMetrics, _encode

pytestmark = pytest.mark.lab

SIDE = 160
#: Class 3 of 1 to 3 has no objects.
CLASSES = 4


def disc(box: torch.Tensor) -> torch.Tensor:
    """A mask of the ellipse in a box."""
    left, top, right, bottom = box.tolist()
    rows, columns = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    across, down = (columns - (left + right) / 2) / (right - left), (rows - (top + bottom) / 2) / (bottom - top)
    return across**2 + down**2 <= 0.25


def boxes_of(rng: np.random.Generator, count: int) -> torch.Tensor:
    """Small, medium and large ones; eighths, so that float32 is exact."""
    sizes = 8 * 2 ** (4.2 * rng.random((count, 1))) * rng.uniform(0.8, 1, (count, 2))
    corners = rng.random((count, 2)) * (SIDE - sizes)
    return torch.tensor(np.round(8 * np.concatenate([corners, corners + sizes], 1)) / 8, dtype=torch.float32)


def random_data(seed: int, images: int = 15) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Detections, near objects and anywhere, and targets with crowds; some images without one or the other."""
    rng = np.random.default_rng(seed)
    data = []
    for number in range(images):
        truth = boxes_of(rng, int(rng.integers(0, 9)) if number else 0)
        labels = torch.tensor(rng.integers(1, CLASSES - 1, len(truth)))
        near = truth + torch.tensor(np.round(8 * rng.normal(0, 1.5, truth.shape)) / 8, dtype=torch.float32)
        near = near.clamp(0, SIDE)[(near[:, 2:] - near[:, :2] > 2).all(1)] if len(near) else near
        found = torch.cat([near, boxes_of(rng, int(rng.integers(0, 6)) if number != 1 else 0)])
        guesses = torch.tensor(rng.integers(1, CLASSES, len(found)))
        guesses[: len(near)] = labels[: len(near)]
        masks = [torch.stack([disc(box) for box in group]) if len(group) else torch.zeros(0, SIDE, SIDE) > 0
                 for group in (truth, found)]  # fmt: skip
        scores = torch.tensor(np.round(rng.random(len(found)), 1), dtype=torch.float32)  # many are the same
        target = {
            "boxes": truth,
            "labels": labels,
            "masks": masks[0].to(torch.uint8),
            "area": masks[0].sum((1, 2)).float(),
            "iscrowd": torch.tensor(rng.random(len(truth)) < 0.15, dtype=torch.int64),
            "image_id": 1000 - number,
        }
        data.append(({"boxes": found, "labels": guesses, "scores": scores, "masks": masks[1]}, target))
    return data


def expected(data: list[tuple[dict[str, Any], dict[str, Any]]], kind: str, limit: int = 100) -> Any:
    """What pycocotools says if it is fed as its documentation says, through a file of results."""
    truth, results = [], []
    for found, target in data:
        image = target["image_id"]
        for group, entries in ((target, truth), (found, results)):
            for place, box in enumerate(group["boxes"].tolist()):
                entry: dict[str, Any] = {"image_id": image, "category_id": int(group["labels"][place])}
                size = [box[2] - box[0], box[3] - box[1]]
                rle = coco_mask.encode(np.asfortranarray(group["masks"][place].numpy().astype(np.uint8)))
                if group is target:
                    entry |= {"id": len(truth) + 1, "area": float(group["area"][place])}
                    entry |= {"iscrowd": int(group["iscrowd"][place]), "bbox": box[:2] + size, "segmentation": rle}
                else:
                    entry |= {"score": float(group["scores"][place])}
                    entry |= {"bbox": box[:2] + size} if kind == "bbox" else {"segmentation": rle}
                entries.append(entry)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": target["image_id"], "width": SIDE, "height": SIDE} for _, target in data],
            "categories": [{"id": label, "name": str(label)} for label in range(1, CLASSES)],
            "annotations": truth,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), kind)
        evaluation.params.maxDets = [0, 1, limit]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def measured(data: list[tuple[dict[str, Any], dict[str, Any]]], masks: bool = True, **options: Any) -> DetectionMetrics:
    metrics = DetectionMetrics(CLASSES, masks, **options)
    for start in range(0, len(data), 4):
        found, targets = zip(*data[start : start + 4], strict=True)
        metrics.update(found, targets)
    return metrics


@pytest.mark.parametrize("seed", range(8))
def test_figures_are_those_of_pycocotools(seed: int) -> None:
    data = random_data(seed)
    assert any(target["iscrowd"].any() for _, target in data)
    metrics = measured(data)
    values, by_class = metrics.compute(), metrics.by_class()
    for prefix, kind in (("", "bbox"), ("mask_", "segm")):
        evaluation = expected(data, kind)
        for name, value in zip(FIGURES, evaluation.stats[:6], strict=True):
            assert values[prefix + name] == pytest.approx(100 * value, abs=1e-6)
        assert 0 < evaluation.stats[0] < 1
        precision = evaluation.eval["precision"][:, :, :, 0, 2]
        table = by_class[f"{prefix}AP"]
        assert table[1:3] == pytest.approx([100 * precision[:, :, number].mean() for number in (0, 1)], abs=1e-6)
        assert math.isnan(table[0])
        assert math.isnan(table[3])
    assert set(values) == {prefix + name for prefix in ("", "mask_") for name in FIGURES}
    assert measured(data, masks=False).compute() == {name: values[name] for name in FIGURES}


def one(found: list[list[float]], truth: list[list[float]], number: int = 1, **other: Any) -> tuple[Any, Any]:
    """An image with boxes of one class, the scores falling."""

    def boxes(values: list[list[float]]) -> dict[str, Any]:
        return {"boxes": torch.tensor(values).reshape(-1, 4), "labels": torch.ones(len(values), dtype=torch.int64)}

    target = {**boxes(truth), "image_id": number, "iscrowd": torch.zeros(len(truth), dtype=torch.int64)}
    sides = target["boxes"][:, 2:] - target["boxes"][:, :2]
    scores = 0.9 - 0.1 * torch.arange(len(found))
    return {**boxes(found), "scores": scores}, {**target, "area": sides.prod(1), **other}


def ap(*images: tuple[Any, Any], **options: Any) -> dict[str, float]:
    metrics = DetectionMetrics(2, **options)
    metrics.update(*zip(*images, strict=True))
    return metrics.compute()


def row(count: int) -> list[list[float]]:
    return [[20.0 * place, 0.0, 20.0 * place + 10, 10.0] for place in range(count)]


def test_all_found_is_100_and_sizes_without_objects_are_left_out() -> None:
    assert ap(one(row(3), row(3))) == {"AP": 100, "AP50": 100, "AP75": 100, "APS": 100}


def test_precision_is_taken_at_101_recalls() -> None:
    """With one of two found it is 1 up to a recall of 0.5: at 51 of 101 recalls; with one of ten at 11."""
    assert ap(one(row(1), row(2)))["AP"] == pytest.approx(100 * 51 / 101, abs=1e-6)
    assert ap(one(row(1), row(10)))["AP"] == pytest.approx(100 * 11 / 101, abs=1e-6)


def test_overlaps_at_the_thresholds_count() -> None:
    """An overlap of 0.6 is enough at 0.5, 0.55 and 0.6; one of 0.75 at the first six of ten."""
    assert ap(one([[0, 0, 6, 10]], [[0, 0, 10, 10]]))["AP"] == pytest.approx(30)
    values = ap(one([[0, 0, 7.5, 10]], [[0, 0, 10, 10]]))
    assert (values["AP"], values["AP50"], values["AP75"]) == pytest.approx((60, 100, 100))


def of_the_file(
    tmp_path: Path, described: list[tuple[list[float], float, list[float]]]
) -> tuple[Any, dict[str, float]]:
    """COCO's six figures of a file itself, and ours of what is read from it; in each image a box, its area and a
    detection, all as left, top, width and height."""
    images = [
        {"id": number, "file_name": "0.png", "width": 128, "height": 128} for number in range(1, len(described) + 1)
    ]
    truth = [annotation(n, n, 1, [], bbox=box, area=area) for n, (box, area, _) in enumerate(described, start=1)]
    results = [
        {"image_id": number, "category_id": 1, "bbox": box, "score": 0.5}
        for number, (*_, box) in enumerate(described, start=1)
    ]
    data = {"images": images, "annotations": truth, "categories": [{"id": 1, "name": "ant"}]}
    (tmp_path / "truth.json").write_text(json.dumps(data))
    Image.new("L", (128, 128)).save(tmp_path / "0.png")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(tmp_path / "truth.json")
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    split = TargetSplit(read_coco(tmp_path / "truth.json", tmp_path, masks=False), training=False)
    items = EvaluationSet(split, evaluation_transform())
    metrics = DetectionMetrics(2)
    for number, (*_, (left, top, width, height)) in enumerate(described):
        # As a network puts them out; these tests have whole numbers there, so that float32 is exact.
        boxes = torch.tensor([[left, top, left + width, top + height]], dtype=torch.float32)
        found = {"boxes": boxes, "labels": torch.tensor([1]), "scores": torch.tensor([0.5])}
        metrics.update([found], [items[number][1]])
    return evaluation.stats[:6], metrics.compute()


def test_overlaps_exactly_on_a_threshold_are_those_of_the_file(tmp_path: Path) -> None:
    """Boxes of tenths, whose area is half of that of a detection of whole numbers around them."""
    images = []
    for left, tenths, height in itertools.product((0, 0.1, 0.3, 0.7), range(11, 100), range(2, 12)):
        width, area = tenths / 10, tenths * height / 5
        for around in range(math.ceil(left + width), 20):
            if area % around == 0 and area // around >= height:
                images.append(([left, 0, width, height], area / 2, [0, 0, around, area // around]))
    theirs, ours = of_the_file(tmp_path, images)
    assert len(images) > 200
    assert 0.5 < theirs[1] < 1  # on the very edge, some fall on either side
    for name, value in zip(FIGURES[:4], theirs, strict=False):
        assert ours[name] == pytest.approx(100 * value, abs=1e-6)


@pytest.mark.parametrize(
    ("area", "sizes"),
    [(1024 - 1e-5, "S"), (1024, "SM"), (1024 + 1e-5, "M"), (9216 - 1e-4, "M"), (9216, "ML"), (9216 + 1e-4, "L")],
)
def test_areas_next_to_a_bound_are_of_the_size_that_the_file_says(tmp_path: Path, area: float, sizes: str) -> None:
    theirs, ours = of_the_file(tmp_path, [([0, 0, 100, 100], area, [0, 0, 100, 100])])
    assert [value >= 0 for value in theirs[3:]] == [size in sizes for size in "SML"]
    assert set(ours) == {"AP", "AP50", "AP75", *(f"AP{size}" for size in sizes)}


def test_boxes_that_leave_their_image_count_as_the_file_has_them(tmp_path: Path) -> None:
    """Half of one lies in it, and a detection of that half overlaps the whole by a half."""
    with pytest.warns(UserWarning, match="1 of 1 boxes leave their images"):
        theirs, ours = of_the_file(tmp_path, [([118, 10, 20, 10], 200, [118, 10, 10, 10])])
    assert (theirs[0], theirs[1], theirs[2]) == pytest.approx((0.1, 1, 0))
    assert (ours["AP"], ours["AP50"], ours["AP75"]) == pytest.approx((10, 100, 0))


@pytest.mark.parametrize(("limit", "share"), [(0, 68 / 101), (100, 68 / 101), (3, 3 / 101), (149, 1), (1000, 1)])
def test_so_many_detections_count_in_a_image(limit: int, share: float) -> None:
    """Of 149 objects that are all found 100 count, as in COCO: recalls from 0 to 0.67."""
    found = one(row(149), row(149))
    found[0]["scores"] = 1 - torch.arange(149) / 1000
    assert ap(found, limit=limit)["AP"] == pytest.approx(100 * share, abs=1e-6)


@pytest.mark.parametrize("limit", [2, 4])
def test_figures_of_fewer_detections_are_those_of_pycocotools(limit: int) -> None:
    data = random_data(4)
    values = measured(data, limit=limit).compute()
    for prefix, kind in (("", "bbox"), ("mask_", "segm")):
        theirs = expected(data, kind, limit).stats[1:6]  # its AP is of 100 detections alone
        assert [values[f"{prefix}{name}"] for name in FIGURES[1:]] == pytest.approx(100 * theirs, abs=1e-6)
    assert values["AP"] < measured(data).compute()["AP"]


def test_images_with_more_objects_than_are_counted_are_reported() -> None:
    def remark(*images: tuple[Any, Any], limit: int = 0) -> str:
        metrics = DetectionMetrics(2, limit=limit)
        metrics.update(*zip(*images, strict=True))
        return metrics.remark()

    many, few = one(row(1), row(149), 1), one(row(1), row(3), 2)
    assert remark(many, few) == (
        "AP counts at most 100 detections of a class in an image; 1 of 2 images has more objects than that, up to 149. "
        "model.max_detections sets the number"
    )
    assert remark(many, few, limit=149) == remark(few) == ""
    assert "2 of 2 images have more objects" in remark(many, few, limit=2)
    # Objects of several classes are counted by class, and crowds need not be found.
    labels = torch.arange(149) % 2 + 1
    assert remark((many[0], {**many[1], "labels": labels, "iscrowd": torch.zeros(149, dtype=torch.int64)})) == ""
    assert remark((many[0], {**many[1], "iscrowd": (torch.arange(149) >= 100).long()})) == ""


def test_no_detections_is_0() -> None:
    assert ap(one([], row(2))) == {"AP": 0, "AP50": 0, "AP75": 0, "APS": 0}


def test_detections_in_images_without_objects_are_wrong() -> None:
    """The best guess is wrong, the second right: precision 1/2 at every recall."""
    assert ap(one(row(1), [], 1), one([[50, 50, 60, 60], *row(1)], row(1), 2))["AP"] == pytest.approx(100 / 3, abs=1e-4)
    assert ap(one([], [], 1), one(row(1), row(1), 2))["AP"] == 100


def test_detections_in_crowds_count_neither_way() -> None:
    crowd = [[0.0, 50.0, 100.0, 100.0]]
    inside = [[0.0, 50.0, 20.0, 70.0], [30.0, 60.0, 50.0, 80.0]]
    image = one([*inside, *row(1)], [*row(1), *crowd], iscrowd=torch.tensor([0, 1]))
    assert ap(image)["AP"] == 100
    plain = one([*inside, *row(1)], row(1))
    assert ap(plain)["AP"] == pytest.approx(100 / 3, abs=1e-4)


def test_sizes_are_by_the_area_that_is_annotated() -> None:
    big = [[0.0, 0.0, 120.0, 120.0]]
    assert set(ap(one(big, big))) == {"AP", "AP50", "AP75", "APL"}
    assert set(ap(one(big, big, area=torch.tensor([2000.0])))) == {"AP", "AP50", "AP75", "APM"}


def test_only_crowds_or_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="the 1 evaluated images have no objects but crowds at most"):
        ap(one(row(1), row(1), iscrowd=torch.tensor([1])))
    with pytest.raises(ConfigError, match="no objects but crowds"):
        ap(one(row(1), []))


def test_images_count_once_and_in_any_order() -> None:
    data = random_data(3)
    values = measured(data).compute()
    assert measured(data[::-1]).compute() == values
    assert measured([*data, data[4]]).compute() == values


def test_counting_starts_anew() -> None:
    metrics = measured(random_data(0, images=20))  # more than are counted afterwards
    before = metrics.compute()
    metrics.reset()
    metrics.update(*zip(*random_data(1), strict=True))
    assert metrics.compute() != before
    assert metrics.compute() == measured(random_data(1)).compute()
    assert metrics.main == "mask_AP"
    assert DetectionMetrics(2).main == "AP"


def test_masks_may_be_probabilities() -> None:
    data = random_data(2)
    soft = [({**found, "masks": 0.4 + 0.2 * found["masks"][:, None].float()}, target) for found, target in data]
    assert measured(soft).compute() == measured(data).compute()


def test_masks_are_encoded_as_pycocotools_reads_them() -> None:
    masks = torch.rand(5, 13, 29) > 0.7
    assert np.array_equal(coco_mask.decode(_encode(masks)), masks.permute(1, 2, 0))
    assert _encode(masks[:0]) == []


def test_masks_are_not_kept_as_pixels() -> None:
    metrics = measured(random_data(0))
    pixels = sum(found["masks"].numel() + target["masks"].numel() for found, target in random_data(0))
    assert len(pickle.dumps(metrics.evaluation.images)) < pixels / 20


def test_a_filled_metric_is_a_module_like_others() -> None:
    metrics = torch.nn.Sequential(measured(random_data(0)))
    values = metrics[0].compute()
    assert len(list(metrics.modules())) == 3
    assert copy.deepcopy(metrics).to("cpu").double()[0].compute() == values
    assert not metrics.state_dict()


def share(rank: int, file: str, results: str) -> None:
    """A process with every second image, an odd number of them in all."""
    torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=2)
    metrics = measured(random_data(5)[rank::2])
    both = metrics.compute()
    Path(f"{results}.{rank}").write_bytes(pickle.dumps((both, metrics.by_class(), len(metrics.evaluation.images))))
    torch.distributed.destroy_process_group()


def test_two_processes_with_unequal_shares_measure_what_one_does(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(share, (str(tmp_path / "meeting"), str(tmp_path / "found")), nprocs=2)
    alone = measured(random_data(5))
    for rank, count in ((0, 8), (1, 7)):
        both, by_class, own = pickle.loads((tmp_path / f"found.{rank}").read_bytes())
        assert both == alone.compute()
        assert str(by_class) == str(alone.by_class())  # NaN is unlike itself
        assert own == count
