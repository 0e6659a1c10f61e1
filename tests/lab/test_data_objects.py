"""Objects as targets of detectors: what is left out, how they are varied, and those of the digit scenes."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision")
pytest.importorskip("mlxtend")
pytest.importorskip("pycocotools")

from coco_files import content, write_coco
from data_files import read_split
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import to_image

from convofconv import ConfigError
from convofconv.lab.data.build_data import EvaluationSet, TrainingSet
from convofconv.lab.data.coco_annotations import read_coco
from convofconv.lab.data.object_splits import ObjectSplit, TargetSplit, read_objects
from convofconv.lab.data.object_transforms import evaluation_transform, training_transform
from convofconv.lab.data.objects import (
    ImageEntry,
    Objects,
    collate_objects,
    evaluation_target,
    orientations,
    training_target,
)
from convofconv.lab.recipe.schema import DataRecipe

pytestmark = pytest.mark.lab


def digit_scenes(split: str) -> ObjectSplit:
    return read_objects(DataRecipe("digit_scenes", classes=11), split, "objects")


def rectangles(boxes: list[list[int]], width: int, height: int) -> tuple[Image.Image, Objects]:
    """An image whose objects fill their boxes, each in a colour of its own."""
    from pycocotools import mask as coco_mask

    masks = np.zeros((height, width, len(boxes)), np.uint8, order="F")
    image = np.zeros((height, width, 3), np.uint8)
    for number, (left, top, right, bottom) in enumerate(boxes):
        masks[top:bottom, left:right, number] = 1
        image[top:bottom, left:right] = 50 * number + 50
    count = len(boxes)
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    return Image.fromarray(image), Objects(
        ImageEntry(9, width, height),
        corners,
        np.arange(1, count + 1),
        np.arange(count, dtype=np.float64) + 100,
        np.zeros(count, dtype=bool),
        np.arange(count),
        tuple(coco_mask.encode(masks)) if count else (),
    )


def test_training_leaves_out_crowds_and_empty_boxes_and_evaluation_keeps_all(tmp_path: Path) -> None:
    data = content()
    data["annotations"][0]["bbox"] = [2, 1, 0, 5]
    with pytest.warns(UserWarning, match="no area"):
        split = read_coco(*write_coco(tmp_path, data))
    kept, everything = (TargetSplit(split, training)[1][1] for training in (True, False))
    assert kept["labels"].tolist() == [3]
    assert kept["boxes"].tolist() == [[15, 0, 20, 4]]
    assert [len(kept[name]) for name in ("masks", "area", "iscrowd")] == [1, 1, 1]
    assert everything["labels"].tolist() == [2, 1, 3]
    assert everything["iscrowd"].tolist() == [0, 1, 0]
    assert everything["area"].tolist() == [30, 5, 30]
    assert everything["masks"].sum((1, 2)).tolist() == [30, 5, 30]
    assert kept["image_id"] == everything["image_id"] == 3


def test_targets_are_what_torchvisions_detectors_take(tmp_path: Path) -> None:
    """One loss of a real Mask R-CNN, an image without objects included."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    split = TargetSplit(read_coco(*write_coco(tmp_path, content())), training=True)
    items = TrainingSet(split, training_transform((40,), None), seed=0)
    images, targets = collate_objects([items[0, 1], items[0, 2]])
    assert [target["boxes"].shape for target in targets] == [(2, 4), (0, 4)]
    assert targets[1]["masks"].shape == (0, 40, 80)
    assert [target[name].dtype for target in targets for name in ("boxes", "labels", "masks", "iscrowd")] == [
        torch.float32,
        torch.int64,
        torch.uint8,
        torch.int64,
    ] * 2
    network = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4, _skip_resize=True)
    losses = network(images, targets)
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_boxes_masks_and_pixels_move_together() -> None:
    """Boxes are multiples of 8 and the sizes too, so that the scaled image has exact edges again."""
    boxes = [[0, 0, 16, 8], [32, 16, 64, 32], [8, 24, 16, 32]]
    image, objects = rectangles(boxes, 64, 32)
    transform = training_transform((32, 64, 96), None)
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        varied, target = transform(to_image(image), training_target(objects))
        assert varied.dtype == torch.float32
        assert varied.max() <= 1
        scale = varied.shape[1] / 32
        assert varied.shape == (3, 32 * scale, 64 * scale)
        mirrored = target["boxes"][0, 0] > 0
        seen.add((scale, bool(mirrored)))
        for number, (left, top, right, bottom) in enumerate(boxes):
            if mirrored:
                left, right = 64 - right, 64 - left
            expected = [scale * side for side in (left, top, right, bottom)]
            assert target["boxes"][number].tolist() == expected
            rows, columns = target["masks"][number].nonzero(as_tuple=True)
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert [int(value) for value in found] == expected
            inside = varied[0, int(expected[1]) + 4 : int(expected[3]) - 4, int(expected[0]) + 4 : int(expected[2]) - 4]
            if inside.numel():
                assert torch.allclose(inside, torch.tensor((50 * number + 50) / 255), atol=0.01)
        assert type(target["boxes"]) is torch.Tensor
    assert seen == {(scale, mirrored) for scale in (1, 2, 3) for mirrored in (True, False)}


def test_the_longer_side_is_capped() -> None:
    image, objects = rectangles([[0, 0, 10, 10]], 300, 100)
    transform = training_transform((80,), 120, flip=False)
    varied, target = transform(to_image(image), training_target(objects))
    assert varied.shape == (3, 40, 120)
    assert target["boxes"].tolist() == [[0, 0, 4, 4]]
    assert target["masks"].shape == (1, 40, 120)


def test_what_becomes_too_small_is_left_out_everywhere() -> None:
    image, objects = rectangles([[0, 0, 4, 4], [20, 20, 60, 60], [90, 90, 100, 100]], 100, 100)
    _, target = training_transform((20,), None, flip=False)(to_image(image), training_target(objects))
    assert target["labels"].tolist() == [2, 3]
    assert target["area"].tolist() == [101, 102]
    assert [len(target[name]) for name in ("boxes", "masks", "iscrowd")] == [2, 2, 2]
    assert target["masks"].sum((1, 2)).tolist() == [64, 4]


@pytest.mark.parametrize(("before", "after"), [(7, 57), (11, 29), (11, 58)])
def test_boxes_at_the_edge_survive_rounding(before: int, after: int) -> None:
    """In float32 7 · (57 / 7) is more than 57."""
    assert torch.tensor(float(before)) * torch.tensor(after / before) > after
    image, objects = rectangles([[0, 0, before, before]], before, before)
    _, target = training_transform((after,), None, flip=False)(to_image(image), training_target(objects))
    assert target["boxes"].tolist() == [[0, 0, after, after]]


def test_evaluation_leaves_images_as_they_are() -> None:
    image, objects = rectangles([[10, 10, 30, 40]], 70, 50)
    objects = dataclasses.replace(objects, crowd=np.array([True]))
    found, target = evaluation_transform()(to_image(image), evaluation_target(objects))
    assert torch.allclose(found, to_image(image).float() / 255)
    assert target["boxes"].tolist() == [[10, 10, 30, 40]]
    assert target["iscrowd"].tolist() == [1]
    assert target["image_id"] == 9


def test_seed_epoch_and_index_decide_an_item() -> None:
    split = TargetSplit(digit_scenes("train"), training=True)
    sets = [TrainingSet(split, training_transform((64, 80, 96), 120), seed) for seed in (0, 0, 1)]

    def same(left: Any, right: Any) -> bool:
        return torch.equal(left[0], right[0]) and torch.equal(left[1]["boxes"], right[1]["boxes"])

    first = sets[0][1, 2]
    torch.manual_seed(6)
    assert same(first, sets[1][1, 2])
    assert same(first, pickle.loads(pickle.dumps(sets[0]))[1, 2])
    assert not all(same(first, sets[0][epoch, 2]) for epoch in range(2, 6))
    assert not all(same(sets[0][epoch, 2], sets[2][epoch, 2]) for epoch in range(5))


def test_scenes_are_those_of_segmentation_with_exact_boxes() -> None:
    for name, count in (("train", 400), ("val", 100)):
        split = digit_scenes(name)
        semantic = read_split(DataRecipe("digit_scenes", classes=11), name)
        assert len(split) == count
        assert split.classes == semantic.classes
        assert split.categories == {label: label for label in range(1, 11)}
        for index in range(0, count, 9):
            image, objects = split[index]
            shown, numbers = semantic[index]
            assert np.array_equal(image, shown)
            masks = objects.masks()
            assert image.size == (objects.image.width, objects.image.height)
            assert np.array_equal((masks * objects.labels[:, None, None]).max(0), numbers)
            for mask, box, area in zip(masks, objects.boxes, objects.area, strict=True):
                rows, columns = np.nonzero(mask)
                assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert area == mask.sum()


def test_scenes_have_no_other_splits() -> None:
    with pytest.raises(ConfigError, match=r"digit_scenes has no split test; data\.\*_split can be train or val"):
        digit_scenes("test")


def test_batches_are_lists() -> None:
    split = TargetSplit(digit_scenes("val"), training=False)
    loader = DataLoader(EvaluationSet(split, evaluation_transform()), batch_size=3, collate_fn=collate_objects)
    images, targets = next(iter(loader))
    assert [image.shape for image in images] == [(3, 96, 96)] * 3
    assert [target["image_id"] for target in targets] == [0, 1, 2]


def test_orientations() -> None:
    assert orientations([ImageEntry(1, 20, 10), ImageEntry(2, 10, 20), ImageEntry(3, 10, 10)]) == [1, 0, 0]
