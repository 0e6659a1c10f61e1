"""The splits of detection as a recipe names them: limited, checked against one another, and made into batches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("torchvision")
pytest.importorskip("mlxtend")
pytest.importorskip("pycocotools")

from coco_files import SQUARE, annotation, content, write_coco
from data_files import build_data

from convofconv import ConfigError
from convofconv.cli import main
from convofconv.lab.data.loading import training_loader
from convofconv.lab.recipe.schema import DataRecipe

pytestmark = pytest.mark.lab


def write_splits(root: Path, **data: Any) -> Path:
    """COCO's layout: images in a folder per split, what is in them beside one another."""
    (root / "annotations").mkdir(parents=True)
    for split, values in data.items():
        file, images = write_coco(root, values)
        shutil.move(file, root / "annotations" / f"instances_{split}.json")
        shutil.move(images, root / split)
    return root


def recipe(root: Path, **changes: Any) -> DataRecipe:
    return DataRecipe(**{"name": "coco", "root": root, "classes": 4, "eval_resize": 10, **changes})


def test_cocos_layout_is_read_and_batched(tmp_path: Path) -> None:
    root = write_splits(tmp_path, train=content(), val=content(), more=content())
    data = build_data(recipe(root, test_split="more"), "instance_segmentation", 0)
    assert data.classes == ("background", "ant", "bee", "cat")
    assert data.categories == (None, 2, 41, 90)
    # Of those to train with, one has no objects.
    assert [len(part) for part in (data.train, data.val, data.test)] == [2, 3, 3]
    assert data.groups == [1, 1]
    images, targets = next(iter(training_loader(data.train, 2, 0, 0, collate=data.collate, groups=data.groups)))
    assert sorted(target["image_id"] for target in targets) == [3, 7]
    assert all(image.shape == (3, 10, 20) and image.dtype == torch.float32 for image in images)
    by_image = {target["image_id"]: target for target in targets}
    assert by_image[3]["labels"].tolist() == [2, 3]  # without the crowd
    assert by_image[7]["masks"].shape == (1, 10, 20)
    assert data.val[1][1]["iscrowd"].sum() == 1
    boxes_alone = build_data(recipe(root), "detection", 0)
    assert "masks" not in boxes_alone.val[0][1]


def test_training_images_are_resized_and_the_others_are_not(tmp_path: Path) -> None:
    root = write_splits(tmp_path, train=content(), val=content())
    data = build_data(recipe(root, shorter=(30, 40), longest=70), "detection", 0)
    sizes = {tuple(data.train[epoch, 0][0].shape) for epoch in range(20)}
    assert sizes == {(3, 30, 60), (3, 35, 70)}
    assert data.val[0][0].shape == (3, 10, 20)
    for longest, side in ((0, 30), (40, 20)):
        as_in_evaluation = build_data(recipe(root, eval_resize=30, longest=longest), "detection", 0)
        assert as_in_evaluation.train[0, 0][0].shape == (3, side, 2 * side)


def test_masks_are_resized_as_the_recipe_says(tmp_path: Path) -> None:
    root = write_splits(tmp_path, train=content(), val=content())
    ways = ("nearest", "nearest-exact")
    plain, exact = (
        build_data(recipe(root, shorter=(7,), mask_resize=how), "instance_segmentation", 0).train[0, 1] for how in ways
    )
    assert torch.equal(plain[0], exact[0])
    assert plain[1]["masks"].shape == exact[1]["masks"].shape
    assert not torch.equal(plain[1]["masks"], exact[1]["masks"])


def test_images_with_nothing_to_learn_from_are_left_out_of_training_alone(tmp_path: Path) -> None:
    """ImageEntry 5 has no objects, 3 is given a crowd alone, and 7 a box without area besides its whole one."""
    some = crowds()
    some["annotations"] += [annotation(200, 7, 41, SQUARE, bbox=[4, 4, 0, 3]), annotation(201, 7, 41, SQUARE)]
    root = write_splits(tmp_path, train=some, val=some)
    with pytest.warns(UserWarning, match="no area"):
        data = build_data(recipe(root), "detection", 0)
    assert [data.train[0, number][1]["image_id"] for number in range(len(data.train))] == [7]
    assert data.groups == [1]
    assert [data.val[number][1]["image_id"] for number in range(len(data.val))] == [7, 3, 5]
    some["annotations"].pop()
    (root / "annotations" / "instances_train.json").write_text(json.dumps(some))
    with pytest.warns(UserWarning, match="no area"), pytest.raises(ConfigError, match=r"split train .* to learn from"):
        build_data(recipe(root), "detection", 0)


def test_a_limit_is_spread_over_the_split() -> None:
    scenes = DataRecipe("digit_scenes", classes=11, limit=4, eval_resize=96)
    data = build_data(scenes, "detection", 0)
    assert [data.val[number][1]["image_id"] for number in range(4)] == [0, 25, 50, 75]
    assert len(data.groups or ()) == len(data.train) == 4


def without(number: int) -> dict[str, Any]:
    """Without the category of that number and its objects."""
    data = content()
    data["categories"] = [entry for entry in data["categories"] if entry["id"] != number]
    data["annotations"] = [entry for entry in data["annotations"] if entry["category_id"] != number]
    return data


def crowds() -> dict[str, Any]:
    data = content()
    data["annotations"] = [entry for entry in data["annotations"] if entry["iscrowd"]]
    return data


@pytest.mark.parametrize(
    ("splits", "changes", "message"),
    [
        ({}, {"classes": 3}, r"data.classes must be 4, the background included, for train of coco .*ant.*; got 3"),
        ({"val": without(2)}, {}, "data.classes must be 3"),
        (
            {"val": {**without(2), "categories": [{"id": i, "name": str(i)} for i in (2, 41, 90)]}},
            {},
            "must be the same",
        ),
        ({"val": crowds()}, {}, "the 3 images of the split val have no objects but crowds"),
        ({"train": crowds()}, {}, "the split train have no objects"),
        ({"val": {**content(), "annotations": []}}, {}, r"instances_val.json: annotations are empty"),
        (
            {"more": content()},
            {"val_split": "test"},
            r"instances_test.json: the annotation file cannot be read, .*; there are the splits more, train, val$",
        ),
    ],
)
def test_splits_that_do_not_fit_are_refused(
    splits: dict[str, Any], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    root = write_splits(tmp_path, **{"train": content(), "val": content(), **splits})
    (root / "annotations" / "._instances_train.json").write_bytes(b"\0\5\26\7")
    (root / "annotations" / "captions_train.json").write_text("{}")
    with pytest.raises(ConfigError, match=message):
        build_data(recipe(root, **changes), "instance_segmentation", 0)


def test_where_there_are_no_annotations_their_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"annotations/instances_train.json: .* there are the splits \(none\)"):
        build_data(recipe(tmp_path), "detection", 0)


def test_the_command_line_names_a_broken_file_and_needs_none_for_training_to_evaluate(
    tmp_path: Path, capsys: Any
) -> None:
    val = content()
    val["annotations"].append(annotation(104, 3, 41, SQUARE))
    root = write_splits(tmp_path / "data", train=json.dumps(content())[:-40], val=val)
    arguments = ["nuclei-retinanet-resnet18-w16", f"--data.root={root}", "--data.classes=4"]
    assert main(["fit", *arguments, f"--out={tmp_path / 'run'}"]) == 2
    told = capsys.readouterr().err
    assert "instances_train.json: not JSON, or cut off" in told
    assert told.count("\n") == 1
    # What never began is no run, and the same command works once the file is mended.
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content()))
    arguments += ["--training.epochs=1", "--training.batch=2", "--model.fpn_channels=8", "--data.eval_resize=32"]
    arguments += ["--training.warmup_steps=0"]
    arguments += ["--data.shorter=[32]", "--machine.threads=1", "--machine.accelerator=cpu"]
    assert main(["fit", *arguments, "--model.max_detections=1", f"--out={tmp_path / 'run'}"]) == 0
    remark = "AP counts at most 1 detections of a class in an image; 1 of 3 images has more objects than that, up to 2."
    assert remark in capsys.readouterr().out
    # A finished run is evaluated where the training split is not.
    (root / "annotations" / "instances_train.json").unlink()
    shutil.rmtree(root / "train")
    assert main(["test", *arguments, f"--out={tmp_path / 'run'}"]) == 0
    told = capsys.readouterr().out
    assert "test AP: " in told
    assert "AP counts" not in told  # 100 by default, and as many as are asked for
    assert main(["test", str(tmp_path / "run"), "--model.max_detections=1"]) == 0
    assert remark in capsys.readouterr().out
