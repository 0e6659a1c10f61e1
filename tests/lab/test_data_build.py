"""Data sets as loaders see them: keys, kinds, and that an item depends on seed, epoch and index alone."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchvision")
pytest.importorskip("mlxtend")

from data_files import SHARED, build_data, build_evaluation, write_image_folder, write_voc
from PIL import Image
from torch.utils.data import DataLoader

from convofconv import ConfigError
from convofconv.lab.data.build_data import DataSets
from convofconv.lab.data.loading import evaluation_loader, training_loader
from convofconv.lab.recipe.schema import DataRecipe


def varied(tmp_path: Path, seed: int = 0) -> DataSets:
    write_voc(tmp_path, {"train": ["a", "b", "c", "d", "e"], "val": ["f", "g"], "test": ["h"]})
    return again(tmp_path, seed)


def again(tmp_path: Path, seed: int = 0) -> DataSets:
    recipe = DataRecipe(
        "voc", tmp_path, classes=21, crop=(8, 8), scale=(0.5, 2.0), flip=True, photometric=True, padding=2, workers=0
    )
    return build_data(recipe, "segmentation", seed)


def same(left: tuple[torch.Tensor, torch.Tensor], right: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return torch.equal(left[0], right[0]) and torch.equal(left[1], right[1])


def test_built_in_data_needs_no_folder() -> None:
    digits = build_data(DataRecipe(), "classification", 0)
    image, label = digits.train[0, 5]
    assert image.shape == (3, 32, 32)
    assert label in range(10)
    assert digits.classes == tuple("0123456789")
    assert digits.test is digits.val
    assert digits.val[0][0].shape == (3, 28, 28)
    found = build_data(DataRecipe("digit_scenes", classes=11, crop=(64, 80)), "segmentation", 0)
    image, mask = found.train[3, 5]
    assert image.shape == (3, 64, 80)
    assert mask.shape == (64, 80)
    assert mask.dtype == torch.int64
    assert found.val[99][1].shape == (96, 96)
    assert found.val[99][1].unique().numel() > 2


def test_the_recipes_splits_are_taken(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["a"] * 3, "train_aug": ["a"] * 6, "val": ["b"] * 2, "test": ["c"] * 4})
    recipe = DataRecipe("voc", tmp_path, classes=21, train_split="train_aug", test_split="test")
    data = build_data(recipe, "segmentation", 0)
    assert [len(part) for part in (data.train, data.val, data.test)] == [6, 2, 4]
    limited = build_data(DataRecipe("voc", tmp_path, classes=21, limit=2), "segmentation", 0)
    assert [len(part) for part in (limited.train, limited.val, limited.test)] == [2, 2, 2]


@pytest.mark.parametrize("highest", [0, 1])
def test_masks_in_which_void_stands_for_the_object_are_refused(tmp_path: Path, highest: int) -> None:
    """0 and 255, as many tools write two classes: all of the object would be void, and the mean IoU 100 %."""
    write_voc(tmp_path, {"train": ["a", "b"], "val": ["b"]}, highest=highest)
    (tmp_path / "classes.txt").write_text("background\nnucleus\n")
    recipe = DataRecipe("voc", tmp_path, classes=2)
    if highest:
        assert build_data(recipe, "segmentation", 0).classes == ("background", "nucleus")
        return
    with pytest.raises(ConfigError, match="of 2 training masks none has a pixel of class 1, nucleus, and some have"):
        build_data(recipe, "segmentation", 0)


def test_masks_with_nothing_to_learn_from_are_refused_whatever_the_classes(tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(30)]
    write_voc(tmp_path, {"train": names, "val": ["00"]}, highest=0)
    recipe, files = DataRecipe("voc", tmp_path, classes=21), tmp_path / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    with pytest.raises(
        ConfigError, match="of 30 training masks none has a pixel of class 1 to 20, and some have pixels of"
    ):
        build_data(recipe, "segmentation", 0)
    for file in files.iterdir():
        Image.new("L", (20, 12), 0).save(file)
    with pytest.raises(ConfigError, match="none has a pixel of class 1 to 20; there is nothing to learn"):
        build_data(recipe, "segmentation", 0)
    # Objects may be rare.
    Image.new("L", (20, 12), 7).save(files / "29.png")
    assert len(build_data(recipe, "segmentation", 0).train) == 30


def test_mistakes_in_every_split_are_found_at_once(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["a"], "val": ["b"]})
    for key in ("train_split", "val_split", "test_split"):
        with pytest.raises(ConfigError, match=r"dev\.txt: no such file"):
            build_data(DataRecipe("voc", tmp_path, classes=21, **{key: "dev"}), "segmentation", 0)


def test_one_split_is_evaluated_without_the_others(tmp_path: Path) -> None:
    data = varied(tmp_path)
    for split in ("train", "test"):
        (tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / f"{split}.txt").unlink()
    found = build_evaluation(DataRecipe("voc", tmp_path, classes=21), "segmentation", "val")
    assert found.classes == data.classes
    assert len(found.images) == 2
    assert same(found.images[1], data.val[1])
    write_image_folder(tmp_path, {"train": {"ant": 0, "bee": 0}, "val": {"bee": 2}})
    images = build_evaluation(DataRecipe("image_folder", tmp_path, classes=2), "classification", "val")
    assert images.classes == ("ant", "bee")
    assert [images.images[index][1] for index in range(2)] == [1, 1]


def test_seed_epoch_and_index_decide_an_item(tmp_path: Path) -> None:
    data = varied(tmp_path)
    torch.manual_seed(5)
    first = data.train[1, 2]
    torch.manual_seed(6)
    data.train[0, 0]
    assert same(first, data.train[1, 2])
    assert same(first, again(tmp_path).train[1, 2])
    assert not same(first, data.train[2, 2])
    assert not same(first, data.train[1, 3])  # all images are alike here, so only their variation can differ
    assert not same(first, again(tmp_path, seed=1).train[1, 2])


def test_items_leave_the_random_state_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = varied(tmp_path)
    monkeypatch.setattr("torch.cuda.manual_seed_all", lambda seed: pytest.fail("the GPUs were seeded"))
    before = torch.get_rng_state()
    data.train[0, 0]
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_and_processes_make_no_difference(tmp_path: Path) -> None:
    data = varied(tmp_path)
    order = [[(0, 1), (0, 3)], [(1, 0), (1, 1)], [(0, 4), (2, 2)]]
    alone = list(DataLoader(data.train, batch_sampler=order))
    assert alone[0][0].shape == (2, 3, 8, 8)
    workers = list(DataLoader(data.train, batch_sampler=order, num_workers=2))
    assert len(workers) == 3
    assert all(same(one, other) for one, other in zip(alone, workers, strict=True))
    sent = pickle.loads(pickle.dumps(data))  # as to workers that are started anew, where processes cannot be forked
    assert same(sent.train[2, 2], data.train[2, 2])
    assert same(sent.val[1], data.val[1])


def test_labs_loaders(tmp_path: Path) -> None:
    data = varied(tmp_path)
    loader = training_loader(data.train, 2, seed=0, workers=0)
    batches = list(loader)
    assert [images.shape for images, _ in batches] == [(2, 3, 8, 8)] * 2
    (((images, masks),),) = evaluation_loader(data.val, 4, workers=0)
    assert images.shape == (2, 3, 12, 20)
    assert masks.shape == (2, 12, 20)
    write_image_folder(tmp_path, {"train": {"ant": 3, "bee": 4}, "val": {"ant": 1, "bee": 1}})
    folders = build_data(DataRecipe("image_folder", tmp_path, classes=2, eval_crop=16), "classification", 0)
    (((images, labels),),) = evaluation_loader(folders.val, 4, workers=0)
    assert images.shape == (2, 3, 16, 16)
    assert labels.tolist() == [0, 1]


def test_bad_masks_are_named_when_they_are_read(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["a"], "val": ["b"]})
    data = build_data(DataRecipe("voc", tmp_path, classes=11), "segmentation", 0)
    with pytest.raises(ConfigError, match=r"b\.png: class 11, 12, 13, 14, 15, \.\.\. \(5 more\) in the mask"):
        list(evaluation_loader(data.val, 1, workers=0))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_in_one_line_whatever_process_reads_it(workers: int, tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["a", "b"], "val": ["c"]})
    broken = tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages" / "b.jpg"
    broken.write_bytes(b"nothing")
    data = build_data(DataRecipe("voc", tmp_path, classes=21, val_split="train"), "segmentation", 0)
    for loader in (training_loader(data.train, 2, 0, workers), evaluation_loader(data.val, 1, workers)):
        with pytest.raises(ConfigError) as error:
            list(loader)
        told = str(error.value)
        assert told.startswith(f"{broken}: not a readable image, repair or remove it (")
        assert "\n" not in told


@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason="the real data camvid is not on this machine")
def test_real_camvid() -> None:
    recipe = DataRecipe(
        "voc", SHARED / "camvid", year="2007", classes=11, crop=(120, 120), scale=(0.5, 2.0), test_split="test", limit=8
    )
    data = build_data(recipe, "segmentation", 0)
    assert data.classes[3] == "Road"
    images, masks = next(iter(training_loader(data.train, 8, seed=0, workers=0)))
    assert images.shape == (8, 3, 120, 120)
    assert set(masks.unique().tolist()) <= {*range(11), 255}
    assert len(data.test) == 8
