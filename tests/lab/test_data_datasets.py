"""Every data set's splits, and every mistake in data that must be named before training starts."""

from __future__ import annotations

import dataclasses
import pickle
import re
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchvision")
pytest.importorskip("mlxtend")

from data_files import SHARED, read_split, write_cifar10, write_image_folder, write_voc
from PIL import Image
from torchvision.datasets import CIFAR10, ImageFolder, VOCSegmentation

from convofconv import ConfigError
from convofconv.lab.data import scenes
from convofconv.lab.data.cifar import CIFAR
from convofconv.lab.data.class_folders import split_folder
from convofconv.lab.data.digit_images import digit_images, split_digits
from convofconv.lab.data.sources import voc
from convofconv.lab.data.splits import Split
from convofconv.lab.demo.found_images import find_images
from convofconv.lab.recipe.schema import DataRecipe

SPLITS = {"train": {"ant": 3, "bee": 4, "cow": 2}, "val": {"ant": 2, "cow": 1}}


def labels(split: Split) -> list[Any]:
    return [split[i][1] for i in range(len(split))]


def real(folder: str) -> Any:
    return pytest.mark.skipif(not (SHARED / folder).is_dir(), reason=f"the real data {folder} is not on this machine")


def test_digits_are_split_evenly_and_without_overlap() -> None:
    train, val = (read_split(DataRecipe("digits"), split) for split in ("train", "val"))
    assert (len(train), len(val)) == (4000, 1000)
    assert sorted([*train.order, *val.order]) == list(range(5000))
    assert set(Counter(labels(val)).values()) == {100}
    image, label = val[123]
    assert (image.mode, image.size) == ("RGB", (28, 28))
    images, digits = digit_images()
    assert np.array_equal(np.asarray(image)[..., 1], images[val.order[123]])
    assert label == digits[val.order[123]]


def test_scenes_of_a_split_use_its_digits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    images, digits = digit_images()
    used = []
    original = scenes.compose_scene

    def record(glyphs, shown, seed):
        used.append((glyphs, shown, seed))
        return original(glyphs, shown, seed)

    monkeypatch.setattr(scenes, "compose_scene", record)
    recipe = DataRecipe("digit_scenes", classes=11)
    seeds = set()
    for name, count in (("train", 400), ("val", 100)):
        split = read_split(recipe, name)
        assert len(split) == count
        used.clear()
        pairs = [split[0], split[1]]
        members = split_digits(name)
        for glyphs, shown, _ in used:
            assert np.array_equal(glyphs, images[members])
            assert np.array_equal(shown, digits[members])
        seeds |= {seed for _, _, seed in used}
        for image, mask in pairs:
            assert (image.mode, image.size, mask.shape) == ("RGB", (96, 96), (96, 96))
            assert mask.dtype == np.uint8
    assert len(seeds) == 4


def test_cifar_subsets(tmp_path: Path) -> None:
    recipe = DataRecipe("cifar10", write_cifar10(tmp_path), classes=4)
    train, test = (read_split(recipe, split) for split in ("train", "test"))
    assert train.classes == ("cat", "dog", "emu", "fox")
    assert [np.asarray(train[i][0])[0, 0, 0] for i in range(20)] == list(range(20))
    assert labels(train) == [i % 4 for i in range(20)]
    assert labels(test) == [i % 4 for i in range(8)]
    assert train[0][0].mode == "RGB"
    inside = DataRecipe("cifar10", tmp_path / "cifar-10-batches-py", classes=4)
    assert len(read_split(inside, "train")) == 20
    (inside.root / "data_batch_2").unlink()
    with pytest.warns(UserWarning, match="data_batch_2 missing, training has the 16 images of the others"):
        assert labels(read_split(inside, "train")) == [i % 4 for i in (*range(4), *range(8, 20))]


@pytest.mark.parametrize("kind", [list, np.asarray])
def test_labels_of_cifar_may_be_numpys(tmp_path: Path, kind: Any) -> None:
    folder = write_cifar10(tmp_path) / "cifar-10-batches-py"
    for number in range(5):
        file = folder / f"data_batch_{number + 1}"
        batch = pickle.loads(file.read_bytes())
        file.write_bytes(pickle.dumps({**batch, "labels": kind(np.asarray(batch["labels"]))}))
    assert labels(read_split(DataRecipe("cifar10", tmp_path, classes=4), "train")) == [i % 4 for i in range(20)]


class _Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harmed"),)


@pytest.mark.parametrize("file", ["batches.meta", "data_batch_3"])
def test_cifar_folders_cannot_execute_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    monkeypatch.chdir(tmp_path)
    (write_cifar10(tmp_path) / "cifar-10-batches-py" / file).write_bytes(pickle.dumps(_Harm()))
    with pytest.raises(ConfigError, match=r"not a readable CIFAR folder \(UnpicklingError: it asks for pathlib"):
        read_split(DataRecipe("cifar10", tmp_path, classes=4), "train")
    assert not Path("harmed").exists()


def test_image_folders(tmp_path: Path) -> None:
    write_image_folder(tmp_path, SPLITS)
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no image")
    recipe = DataRecipe("image_folder", tmp_path, classes=3)
    train, val = (read_split(recipe, split) for split in ("train", "val"))
    assert train.classes == val.classes == ("ant", "bee", "cow")
    assert labels(train) == [0] * 3 + [1] * 4 + [2] * 2
    assert labels(val) == [0, 0, 2]  # bee is never in val, and cow keeps its number
    assert train[4][0].size == (21, 29)
    assert train[4][0].mode == "RGB"


def litter(folder: Path) -> None:
    """What systems and tools leave in a folder, named like images and like classes."""
    (folder / "._0.png").write_bytes(b"\0\5\26\7 a resource fork of macOS")
    for name in (".ipynb_checkpoints", ".thumbnails", "__MACOSX", "@eaDir"):
        (folder / name / "deep").mkdir(parents=True)
        Image.new("L", (9, 9)).save(folder / name / "0.png")
        Image.new("L", (9, 9)).save(folder / name / "deep" / "1.png")


def test_hidden_files_and_folders_are_not_read(tmp_path: Path) -> None:
    write_image_folder(tmp_path, SPLITS)
    recipe = DataRecipe("image_folder", tmp_path, classes=3)
    before = [labels(read_split(recipe, split)) for split in ("train", "val")]
    for folder in (".", "train", "train/bee", "val", "val/ant"):
        litter(tmp_path / folder)
    splits = [read_split(recipe, split) for split in ("train", "val")]
    assert [split.classes for split in splits] == [("ant", "bee", "cow")] * 2
    assert [labels(split) for split in splits] == before
    (tmp_path / "train" / "eel").mkdir()
    litter(tmp_path / "train" / "eel")
    with pytest.raises(ConfigError, match="train: no images in eel"):
        read_split(recipe, "train")


def test_the_demo_does_not_read_hidden_files(tmp_path: Path) -> None:
    write_image_folder(tmp_path, {"whole": SPLITS["train"]})
    for folder in (tmp_path / "whole", tmp_path / "whole" / "ant"):
        litter(folder)
    source = find_images(tmp_path / "whole", 8)
    assert source.classes == ("ant", "bee", "cow")
    assert source.train.labels == [0] * 3 + [1] * 4 + [2] * 2


def test_images_of_a_class_are_in_the_order_of_torchvision(tmp_path: Path) -> None:
    """Which orders nested folders by their whole paths; a seed shuffles this order."""
    for name in ("b/2.png", "b-c/1.png", "b/c/3.png", "a.png", "B.PNG", "b/10.png"):
        (tmp_path / "train" / "ant" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9)).save(tmp_path / "train" / "ant" / name)
    (tmp_path / "elsewhere").mkdir()
    Image.new("L", (9, 9)).save(tmp_path / "elsewhere" / "0.png")
    (tmp_path / "train" / "ant" / "link").symlink_to(tmp_path / "elsewhere")
    classes, found = split_folder(tmp_path / "train", tmp_path / "train")
    theirs = ImageFolder(tmp_path / "train")
    assert list(classes) == theirs.classes
    assert list(found.read.args[0]) == [path for path, _ in theirs.samples]


def test_images_that_are_left_out_are_reported(tmp_path: Path) -> None:
    """Beside the folders of the classes, and of endings that are not read; what is no image is nobody's business."""
    write_image_folder(tmp_path, {**SPLITS, "val": {"ant": 2, "bee": 0, "cow": 1}})
    recipe = DataRecipe("image_folder", tmp_path, classes=3)
    for name in (
        "train/loose.png",
        "train/ant/a.gif",
        "train/bee/deep/b.HEIC",
        "train/cow/notes.txt",
        "val/classes.csv",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    left_out = (
        "train: 1 images lie beside the folders of the classes and are left out (loose.png). 2 images are left out "
        "because of their endings (a.gif, b.HEIC); those that are read end in .jpg, .jpeg, .png, .ppm, "
    )
    with pytest.warns(UserWarning, match=re.escape(f"{tmp_path}/{left_out}")) as told:
        train = read_split(recipe, "train")
    with pytest.warns(UserWarning, match="val: no images in bee, which will not be evaluated$"):
        val = read_split(recipe, "val")
    assert len(told) == 1
    assert labels(train) == [0] * 3 + [1] * 4 + [2] * 2
    assert labels(val) == [0, 0, 2]


@pytest.mark.parametrize("outer", [("camera1", "camera2"), ("train", "val")])
def test_a_level_of_folders_too_many_is_reported(tmp_path: Path, outer: tuple[str, ...]) -> None:
    for name in outer:
        write_image_folder(tmp_path / "train", {name: {"ant": 1, "bee": 2}})
    recipe = DataRecipe("image_folder", tmp_path, classes=2)
    with pytest.warns(
        UserWarning, match=rf"train: all classes \({', '.join(outer)}\) have the same folders in them, ant, b"
    ):
        assert labels(read_split(recipe, "train")) == [0] * 3 + [1] * 3
    Image.new("L", (9, 9)).save(tmp_path / "train" / outer[0] / "own.png")
    assert len(read_split(recipe, "train")) == 7


def test_tiny_imagenets_further_folder(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "train" / "n01", {"images": {".": 2}})
    write_image_folder(tmp_path / "train" / "n02", {"images": {".": 1}})
    assert labels(read_split(DataRecipe("image_folder", tmp_path, classes=2), "train")) == [0, 0, 1]


@pytest.mark.parametrize("inside", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_splits(tmp_path: Path, inside: str) -> None:
    write_voc(tmp_path, {"train": ["a", "b"], "val": ["c"], "train_aug": ["a", "b", "d e"], "test": ["f"]})
    recipe = DataRecipe("voc", tmp_path / inside, classes=21)
    for split, count in (("train", 2), ("val", 1), ("train_aug", 3), ("test", 1)):
        found = read_split(recipe, split)
        assert len(found) == count
        image, mask = found[count - 1]
        assert np.array_equal(mask[:, :-1], (np.arange(240).reshape(12, 20) % 21)[:, :-1])
        assert (mask[:, -1] == 255).all()
        assert (image.mode, image.size) == ("RGB", (20, 12))
    assert found.classes[15] == "person"


def test_hidden_files_are_in_no_voc_split(tmp_path: Path) -> None:
    """A list that was made of all files in a folder names resource forks too."""
    write_voc(tmp_path, {"train": ["a", "._a", "b"], "val": ["c"]})
    lists = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    (lists / "._train.txt").write_bytes(b"\0\5\26\7")
    recipe = DataRecipe("voc", tmp_path, classes=21)
    assert len(read_split(recipe, "train")) == 2
    with pytest.raises(ConfigError, match=r"there are the splits train, val$"):
        read_split(recipe, "dev")


def test_masks_whose_colours_are_of_different_classes_are_reported(tmp_path: Path) -> None:
    """As where colours were made numbers file by file, the commonest first."""
    write_voc(tmp_path, {"train": ["a", "b", "c"]}, highest=2)
    recipe = DataRecipe("voc", tmp_path, classes=3)
    read_split(recipe, "train")
    file = tmp_path / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "c.png"
    with Image.open(file) as mask:
        mask.putpalette([*(mask.getpalette() or [])[:3], 1, 2, 3])
        mask.save(file)
    with pytest.warns(
        UserWarning, match=r"c\.png: class 1 has the colour 1, 2, 3 here and .* in .*a\.png; the numbers"
    ):
        read_split(recipe, "train")
    with Image.open(file) as mask:
        Image.fromarray(np.asarray(mask)).save(file)  # no colours
    read_split(recipe, "train")


@pytest.mark.parametrize("year", ["2007", "2012"])
def test_voc_is_read_as_torchvision_does(tmp_path: Path, year: str) -> None:
    write_voc(tmp_path, {"train": ["a", "b"], "val": ["c"]}, year)
    for split in ("train", "val"):
        theirs = VOCSegmentation(tmp_path, year, split)
        ours = read_split(DataRecipe("voc", tmp_path, year=year, classes=21), split)
        assert len(theirs) == len(ours)
        for (image, mask), (our_image, our_mask) in zip(theirs, (ours[i] for i in range(len(ours))), strict=True):
            assert np.array_equal(image, our_image)
            assert np.array_equal(mask, our_mask)


def test_names_of_voc_classes(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["a"]}, highest=2)
    assert read_split(DataRecipe("voc", tmp_path, classes=3), "train").classes == ("class 0", "class 1", "class 2")
    (tmp_path / "classes.txt").write_text("road\nsky\n\ntree\n")
    assert read_split(DataRecipe("voc", tmp_path, classes=3), "train").classes == ("road", "sky", "tree")


@pytest.mark.parametrize(("limit", "kept"), [(1, 1), (10, 10), (7, 7), (1000, 1000), (5000, 1000), (0, 1000)])
def test_limits_are_even_and_repeatable(limit: int, kept: int) -> None:
    whole, some, again = (read_split(DataRecipe("digits", limit=n), "val") for n in (0, limit, limit))
    assert len(some) == len(set(some.order)) == kept
    assert set(some.order) <= set(whole.order)
    assert list(some.order) == list(again.order)
    if limit == 10:
        assert sorted(labels(some)) == list(range(10))


def tiny_imagenet(root: Path, lines: str) -> DataRecipe:
    """As it is downloaded: training images in folders, a file for the classes of the others."""
    write_image_folder(root / "train" / "n01", {"images": {".": 1}})
    write_image_folder(root / "train" / "n02", {"images": {".": 1}})
    write_image_folder(root / "val", {"images": {".": 3}})
    for number, path in enumerate(sorted((root / "val" / "images").iterdir())):
        path.rename(path.with_name(f"val_{number}.png"))
    (root / "val" / "val_annotations.txt").write_text(lines)
    return DataRecipe("image_folder", root, classes=2)


def test_tiny_imagenets_validation_images_are_labelled_by_a_file(tmp_path: Path) -> None:
    recipe = tiny_imagenet(tmp_path, "val_0.png\tn02\t0\t0\t9\t9\nval_2.png\tn01\t0\t0\t9\t9\n")
    split = read_split(recipe, "val")
    assert split.classes == ("n01", "n02")
    assert labels(split) == [1, 0]
    with Image.open(tmp_path / "val" / "images" / "val_2.png") as image:
        assert np.array_equal(np.asarray(split[1][0]), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("val_0.png\tn03\n", "val_annotations.txt: n03 not among the classes"),
        ("val_7.png\tn01\n", r"val_annotations.txt: images are missing, .*val_7.png"),
        ("val_0.png n01\n", "no class in the line of val_0.png n01"),
        ("\n", "names no images"),
    ],
)
def test_a_wrong_file_of_labels_is_named(lines: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_split(tiny_imagenet(tmp_path, lines), "val")


@pytest.mark.parametrize("name", ["digits", "digit_scenes", "cifar10", "image_folder", "voc"])
def test_splits_can_be_sent_to_worker_processes(tmp_path: Path, name: str) -> None:
    write_cifar10(tmp_path)
    write_image_folder(tmp_path, SPLITS)
    write_voc(tmp_path, {"train": ["a"]})
    classes = {"digits": 10, "digit_scenes": 11, "cifar10": 4, "image_folder": 3, "voc": 21}[name]
    split = read_split(DataRecipe(name, tmp_path, classes=classes), "train")
    sent = pickle.loads(pickle.dumps(split))
    assert np.array_equal(sent[0][0], split[0][0])
    assert np.array_equal(sent[0][1], split[0][1])


def test_missing_data_is_downloaded_only_if_asked_and_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    class Fetched(CIFAR10):
        def __init__(self, root: Path, download: bool) -> None:
            fetched.append((root, download))
            write_cifar10(root)

    monkeypatch.setitem(CIFAR, "CIFAR-10", Fetched)
    recipe = DataRecipe("cifar10", tmp_path, download=True, classes=4)
    assert len(read_split(recipe, "train")) == 20
    assert len(read_split(recipe, "test")) == 8
    assert fetched == [(tmp_path, True)]


def test_of_several_processes_one_fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    class Slow(CIFAR10):
        def __init__(self, root: Path, download: bool) -> None:
            fetched.append(root)
            (root / "cifar-10-batches-py").mkdir()
            time.sleep(0.3)
            shutil.rmtree(root / "cifar-10-batches-py")
            write_cifar10(root)

    monkeypatch.setitem(CIFAR, "CIFAR-10", Slow)
    recipe = DataRecipe("cifar10", tmp_path / "data", download=True, classes=4)
    with ThreadPoolExecutor(3) as pool:  # the lock is of the folder, and threads wait for each other as processes do
        assert [len(split) for split in pool.map(read_split, [recipe] * 3, ["train"] * 3)] == [20] * 3
    assert fetched == [tmp_path / "data"]


@pytest.mark.parametrize("name", ["cifar10", "voc"])
def test_failed_downloads_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    class Offline(CIFAR10):
        def __init__(self, *_: Any, **__: Any) -> None:
            raise OSError("no route to host")

    monkeypatch.setitem(CIFAR, "CIFAR-10", Offline)
    monkeypatch.setattr(voc, "VOCSegmentation", Offline)
    with pytest.raises(ConfigError, match=rf"data\.download: {name} could not be fetched into .*\(no route to host\)"):
        read_split(DataRecipe(name, tmp_path, download=True), "train")


def broken(root: Path, case: str) -> tuple[DataRecipe, str, str]:
    """A recipe with a mistake in its data, the split that is asked for, and what must be said."""
    folder = DataRecipe("image_folder", root, classes=3)
    of_voc = DataRecipe("voc", root, classes=21)
    if case == "digits have no test split":
        return DataRecipe("digits"), "test", r"digits has no split test; data\.\*_split can be train or val"
    if case == "digits have 10 classes":
        return DataRecipe("digits", classes=11), "train", r"data\.classes must be 10, .* of digits \(0, 1.*; got 11"
    if case == "scenes have 11 classes":
        return DataRecipe("digit_scenes"), "val", r"data\.classes must be 11, .* \(background, 0, .*; got 10"
    if case == "no cifar":
        return DataRecipe("cifar100", root), "train", "no CIFAR-100 there; it needs the folder cifar-100-python"
    if case == "cifar has no val":
        return DataRecipe("cifar10", root), "val", r"cifar10 has no split val; data\.\*_split can be train or test"
    if case == "classes of cifar":
        return DataRecipe("cifar10", write_cifar10(root)), "test", r"data\.classes must be 4, .*\(cat, .*; got 10"
    if case == "broken cifar":
        (write_cifar10(root) / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"\x80")
        return DataRecipe("cifar10", root), "train", "cifar-10-batches-py: not a readable CIFAR folder"
    if case == "no split folder":
        litter(write_image_folder(root, SPLITS))
        return folder, "dev", "dev: no such folder; data.root needs a folder per split, .* there are train, val$"
    if case == "no training folder":
        write_image_folder(root, {"val": {"ant": 1}})
        return folder, "val", "train: no such folder; .* there are val$"
    if case == "no class folders":
        (root / "train").mkdir()
        return folder, "train", "train: no class folders"
    if case == "empty class":
        write_image_folder(root, {"train": {"ant": 1, "bee": 0, "cow": 2}})
        return folder, "train", "train: no images in bee"
    if case == "empty split":
        write_image_folder(root, {**SPLITS, "val": {"ant": 0, "bee": 0}})
        return folder, "val", "val: no images"
    if case == "class only in val":
        write_image_folder(root, {**SPLITS, "val": {"ant": 1, "dog": 1}})
        return folder, "val", "val: dog not among the classes in .*train"
    if case == "classes of folder":
        write_image_folder(root, SPLITS)
        recipe = dataclasses.replace(folder, classes=4)
        return recipe, "val", r"data\.classes must be 3, .*\(ant, bee, cow\); got 4"
    if case == "no such year":
        write_voc(root, {"train": ["a"]}, "2007")
        return of_voc, "train", r"no folder VOCdevkit/VOC2012 in it; check data\.root and data\.year"
    if case == "no such voc split":
        write_voc(root, {"train": ["a"], "val": ["b"]})
        return of_voc, "train_aug", r"train_aug\.txt: no such file; there are the splits train, val"
    if case == "empty voc split":
        write_voc(root, {"train": ["a"], "val": []})
        return of_voc, "val", "no images in the split val"
    if case == "classes.txt":
        (write_voc(root, {"train": ["a"]}) / "classes.txt").write_text("road\nsky\n")
        return of_voc, "train", r"data\.classes must be 2, the number of classes of voc \(road, sky\); got 21"
    assert case in ("missing image", "missing mask")
    part, ending = ("JPEGImages", "jpg") if case == "missing image" else ("SegmentationClass", "png")
    (write_voc(root, {"val": ["a", "b"]}) / "VOCdevkit" / "VOC2012" / part / f"b.{ending}").unlink()
    return of_voc, "val", rf"val\.txt: files of this split are missing, .*{part}/b\.{ending}$"


@pytest.mark.parametrize(
    "case",
    [
        "digits have no test split",
        "digits have 10 classes",
        "scenes have 11 classes",
        "no cifar",
        "cifar has no val",
        "classes of cifar",
        "broken cifar",
        "no split folder",
        "no training folder",
        "no class folders",
        "empty class",
        "empty split",
        "class only in val",
        "classes of folder",
        "no such year",
        "no such voc split",
        "empty voc split",
        "classes.txt",
        "missing image",
        "missing mask",
    ],
)
def test_mistakes_are_named(tmp_path: Path, case: str) -> None:
    recipe, split, message = broken(tmp_path, case)
    with pytest.raises(ConfigError, match=message):
        read_split(recipe, split)


@pytest.mark.parametrize(
    ("recipe", "splits"),
    [
        pytest.param(("cifar10", "cifar10", 10), {"train": 10_000, "test": 2_000}, marks=real("cifar10")),
        pytest.param(
            ("image_folder", "tiny_imagenet50", 50), {"train": 15_000, "val": 2_500}, marks=real("tiny_imagenet50")
        ),
        pytest.param(
            ("voc", "voc2012_subset", 21), {"train": 437, "val": 445, "train_aug": 1_437}, marks=real("voc2012_subset")
        ),
        pytest.param(("voc", "camvid", 11), {"train": 367, "val": 101, "test": 233}, marks=real("camvid")),
    ],
)
def test_real_data(recipe: tuple[Any, str, int], splits: dict[str, int]) -> None:
    name, folder, classes = recipe
    read = DataRecipe(name, SHARED / folder, classes=classes, year="2007" if folder == "camvid" else "2012")
    for split, count in splits.items():
        found = read_split(read, split)
        assert len(found) == count
        for i in range(0, count, count // 10):
            image, target = found[i]
            assert image.mode == "RGB"
            if name == "voc":
                assert target.shape == image.size[::-1]
            else:
                assert 0 <= target < classes


def test_masks_of_the_augmented_voc_may_have_a_folder_of_their_own(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train_aug": ["a", "b"]})
    recipe = DataRecipe("voc", tmp_path, classes=21)
    before = [read_split(recipe, "train_aug")[i][1] for i in range(2)]
    own, augmented = (tmp_path / "VOCdevkit/VOC2012" / name for name in ("SegmentationClass", "SegmentationClassAug"))
    augmented.mkdir()
    (own / "b.png").rename(augmented / "b.png")
    (augmented / "a.png").write_bytes(b"VOC's own mask counts")
    assert np.array_equal([read_split(recipe, "train_aug")[i][1] for i in range(2)], before)
