"""`coc demo` as a function: what it writes, that it is repeatable, what data it reads and what it refuses."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchvision")
pytest.importorskip("matplotlib")
pytest.importorskip("mlxtend")
pytest.importorskip("tqdm")

import torch
from PIL import Image

from convofconv import ConfigError
from convofconv.lab.demo import comparison as demo
from convofconv.lab.demo import demo_runs
from convofconv.lab.demo.chosen_images import write_images
from convofconv.lab.demo.settings import DemoSettings
from convofconv.lab.found_by_name import find_task
from convofconv.lab.recipe.schema import Recipe
from convofconv.lab.training.run import run_fit

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
CLASSES = ("apple", "pear", "plum")


def write_classes(folder: Path, per_class: int = 6, classes: tuple[str, ...] = CLASSES) -> Path:
    """Noisy images, one colour channel brighter per class, every file of another size."""
    noise = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = noise.integers(0, 128, (20 + i, 30 - i, 3), dtype=np.uint8)
            pixels[..., label % 3] += 100
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def write_cifar(folder: Path, hundred: bool = False) -> Path:
    noise = np.random.default_rng(0)
    folder.mkdir(parents=True)

    def batch(name: str, count: int) -> None:
        labels = [i % 4 for i in range(count)]
        entry: dict[str, Any] = {"data": noise.integers(0, 256, (count, 3072), dtype=np.uint8)}
        entry |= {"fine_labels" if hundred else "labels": labels}
        (folder / name).write_bytes(pickle.dumps(entry))

    names = ["cat", "dog", "emu", "fox"]
    if hundred:
        batch("train", 16)
        batch("test", 8)
        (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    else:
        for number in range(1, 6):
            batch(f"data_batch_{number}", 4)
        batch("test_batch", 8)
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    return folder


def settings(out: Path, **changes: Any) -> DemoSettings:
    small = {
        "methods": ("plain", "coc+stnd"),
        "seeds": 2,
        "epochs": 2,
        "train_images": 12,
        "test_images": 10,
        "size": 8,
    }
    return DemoSettings(out=out, **{**small, **changes})


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a demo on digits, and what it printed."""
    out = tmp_path_factory.mktemp("digits")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        demo.run_demo(settings(out, train_images=100, test_images=50))
    return out, printed.getvalue()


def test_digits_end_to_end(digits: tuple[Path, str]) -> None:
    out, printed = digits
    record = results(out)
    assert record["data"]["recipe"]["crop"] == [28, 28]
    assert (record["data"]["train_images"], record["data"]["test_images"]) == (100, 50)
    runs = record["runs"]
    assert {run["versions"]["torch"] for run in runs} == {torch.__version__}
    assert [(run["seed"], run["method"]) for run in runs] == [
        (0, "plain"),
        (0, "coc+stnd"),
        (1, "plain"),
        (1, "coc+stnd"),
    ]
    plain, coc = record["methods"]
    assert plain["trained_parameters"] == plain["deployed_parameters"] == coc["deployed_parameters"]
    assert coc["deployed_parameters"] < coc["trained_parameters"]
    for row in (plain, coc):
        own = [run["history"][-1]["top1"] for run in runs if run["method"] == row["method"]]
        assert row["accuracy"]["mean"] == pytest.approx(np.mean(own))
        assert row["accuracy"]["deviation"] == pytest.approx(np.std(own, ddof=1))
        assert f"{np.mean(own):.2f} ± {np.std(own, ddof=1):.2f} %" in printed
    for run in runs:
        assert len(run["history"]) == 2
        assert run["test"]["folded"] == run["test"]["as_trained"]
        assert run["largest_difference_after_folding"] <= 1e-5
    assert plain["relative_step_time"] == 1
    assert coc["relative_step_time"] > 0


def test_figures_are_drawn_and_nothing_else_is_left(digits: tuple[Path, str]) -> None:
    out, printed = digits
    figures = ("curves.png", "scores.png", "kernels.png")
    for name in figures:
        with Image.open(out / name) as figure:
            figure.load()
            assert figure.size[0] > 600
    assert {path.name for path in out.iterdir()} == {"results.json", *figures}
    assert f"In {out}: results.json, {', '.join(figures)}" in printed


def test_a_line_is_printed_for_every_training(digits: tuple[Path, str]) -> None:
    out, printed = digits
    assert "over 2 seeds" in printed
    assert (
        f"4 networks to train, 2 with each of 2 seeds: plain, coc+stnd; on the CPU, threads: 1; into {out}" in printed
    )
    runs = results(out)["runs"]
    lines = [line for line in printed.splitlines() if line.startswith("seed ")]
    for number, (line, run) in enumerate(zip(lines, runs, strict=True), 1):
        assert line.startswith(f"seed {run['seed']}  {run['method']:<10}{run['history'][-1]['top1']:6.2f} %  ")
        assert re.search(f"  {number} of 4 done{', .* left' if number < 4 else ''}$", line)


def test_an_interrupted_demo_resumes_and_gives_the_same_results(
    digits: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = settings(tmp_path / "out", train_images=100, test_images=50, seeds=1)
    trained: list[str] = []

    def interrupted(recipe: Recipe, out: Path, resume: bool) -> None:
        trained.append(recipe.method)
        if trained == ["plain", "coc+stnd"]:
            raise KeyboardInterrupt
        run_fit(recipe, out, resume)

    monkeypatch.setattr(demo_runs, "run_fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(wanted)
    assert not (wanted.out / "results.json").exists()
    assert "the same coc demo command resumes" in capsys.readouterr().err
    demo.run_demo(wanted)
    assert trained == ["plain", "coc+stnd", "coc+stnd"]
    assert re.search("1 of 2 done\n", capsys.readouterr().out), "no time is known before a run is done"
    once, at_once = results(wanted.out)["runs"], results(digits[0])["runs"][:2]
    for key in ("history", "test", "recipe"):
        for one in (*once, *at_once):
            one["recipe"]["data"]["root"] = None
        assert [run[key] for run in once] == [run[key] for run in at_once]


def test_a_demo_of_other_settings_does_not_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_classes(tmp_path / "fruit")
    seen: list[bool] = []

    def interrupted(recipe: Recipe, out: Path, resume: bool) -> None:
        seen.append((out.parent / "earlier").exists())
        (out.parent / "earlier").mkdir(parents=True, exist_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_runs, "run_fit", interrupted)
    for epochs in (1, 1, 2):
        with pytest.raises(KeyboardInterrupt):
            demo.run_demo(settings(tmp_path / "out", data=folder, epochs=epochs))
    assert seen == [False, True, False]


def test_without_an_associated_layer_there_is_no_figure_of_kernels(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/kernels.png").write_bytes(b"of an earlier demo")
    data = write_cifar(tmp_path / "cifar-10-batches-py")
    (row,) = demo.run_demo(settings(tmp_path / "out", data=data, methods=("stnd",), seeds=1))
    assert not (tmp_path / "out/kernels.png").exists()
    assert results(tmp_path / "out")["data"]["name"] == "CIFAR-10"
    assert row.accuracy.deviation is None
    assert results(tmp_path / "out")["methods"][0]["accuracy"]["deviation"] is None
    assert row.relative_step_time > 0  # relative to a plain network that is not among the methods


def files(folder: Path) -> dict[str, list[bytes]]:
    """What the images hold that were written, by class."""
    return {of_class.name: [path.read_bytes() for path in of_class.iterdir()] for of_class in sorted(folder.iterdir())}


def counts(folder: Path) -> list[int]:
    return [len(images) for images in files(folder).values()]


def test_pool_is_split_by_class_without_overlap(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "fruit", per_class=10)
    chosen = write_images(settings(tmp_path, data=folder, train_images=99), tmp_path / "chosen")
    assert (chosen.classes, chosen.train_images, chosen.test_images) == (CLASSES, 24, 6)
    assert counts(tmp_path / "chosen/train") == [8, 8, 8]
    assert counts(tmp_path / "chosen/val") == [2, 2, 2]
    written = [
        image
        for part in ("train", "val")
        for of_class in files(tmp_path / "chosen" / part).values()
        for image in of_class
    ]
    assert len(set(written)) == 30
    for path in (tmp_path / "chosen").rglob("*.png"):
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((8, 8), "RGB")


def test_the_recipe_normalizes_by_the_training_images(tmp_path: Path) -> None:
    chosen = write_images(settings(tmp_path, data=write_classes(tmp_path / "fruit")), tmp_path / "chosen")
    train = find_task("classification").build_data(chosen.recipe, seed=0).train
    images = torch.stack([train[0, index][0] for index in range(len(train))])
    std, mean = torch.std_mean(images, dim=(0, 2, 3), correction=0)
    assert mean.tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert std.tolist() == pytest.approx([1, 1, 1], abs=1e-5)


def test_caps_are_shared_evenly_by_the_classes(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "fruit", per_class=10)
    write_images(settings(tmp_path, data=folder, train_images=7, test_images=3), tmp_path / "chosen")
    assert counts(tmp_path / "chosen/train") == [3, 2, 2]
    assert counts(tmp_path / "chosen/val") == [1, 1, 1]


def test_train_and_val_folders(tmp_path: Path) -> None:
    data = tmp_path / "fruit"
    write_classes(data / "train")
    write_classes(data / "val", per_class=2, classes=("pear", "plum"))
    (data / "train" / ".ipynb_checkpoints").mkdir()
    chosen = write_images(settings(tmp_path, data=data, train_images=99), tmp_path / "chosen")
    assert chosen.classes == CLASSES
    assert counts(tmp_path / "chosen/train") == [6, 6, 6]
    assert {name: len(images) for name, images in files(tmp_path / "chosen/val").items()} == {"00001": 2, "00002": 2}


@pytest.mark.parametrize("hundred", [False, True])
@pytest.mark.parametrize("name", ["usual", "another"])
def test_cifar_folders_that_are_not_the_originals(tmp_path: Path, hundred: bool, name: str) -> None:
    usual = "cifar-100-python" if hundred else "cifar-10-batches-py"
    folder = write_cifar(tmp_path / (usual if name == "usual" else "mine"), hundred)
    for path in (folder, tmp_path) if name == "usual" else (folder,):
        chosen = write_images(settings(tmp_path, data=path, train_images=99, size=32), tmp_path / "chosen")
        assert chosen.classes == ("cat", "dog", "emu", "fox")
        assert (chosen.train_images, chosen.test_images) == (16 if hundred else 20, 8)
        assert chosen.recipe.crop == (32, 32)


@pytest.mark.skipif(not (SHARED / "cifar10").is_dir(), reason="the real CIFAR-10 subset is not on this machine")
def test_real_cifar_folder(tmp_path: Path) -> None:
    wanted = settings(tmp_path, data=SHARED / "cifar10", train_images=40, test_images=20, size=32)
    write_images(wanted, tmp_path / "chosen")
    assert counts(tmp_path / "chosen/train") == [4] * 10
    assert counts(tmp_path / "chosen/val") == [2] * 10


def broken(folder: Path, case: str) -> tuple[Path, str]:
    """A folder with a mistake in it, and what its message must say."""
    if case == "missing":
        return folder / "nowhere", "nowhere: no such folder"
    if case == "file":
        folder.mkdir()
        (folder / "notes.txt").write_text("")
        return folder / "notes.txt", "notes.txt: not a folder"
    if case == "no classes":
        folder.mkdir()
        (folder / "loose.png").write_bytes(b"")
        return folder, "fruit: no class folders"
    if case == "one class":
        return write_classes(folder, classes=("apple",)), "only one class, apple"
    if case == "empty class":
        write_classes(folder)
        (folder / "quince").mkdir()
        return folder, "no images in quince"
    if case == "single image":
        return write_classes(folder, per_class=1), "a single image of apple, pear, plum"
    if case == "no image":
        write_classes(folder)
        (folder / "plum" / "0.png").write_text("this is no image")
        return folder, "0.png: not a readable image"
    if case == "truncated":
        write_classes(folder)
        whole = (folder / "pear" / "3.png").read_bytes()
        (folder / "pear" / "3.png").write_bytes(whole[: len(whole) // 2])
        return folder, "3.png: not a readable image"
    if case == "no val":
        write_classes(folder / "train")
        return folder, "a folder train but no folder val"
    if case == "empty val":
        write_classes(folder / "train")
        (folder / "val" / "pear").mkdir(parents=True)
        return folder, "val: no images"
    if case == "unknown class":
        write_classes(folder / "train")
        write_classes(folder / "val", classes=("pear", "quince"))
        return folder, "val: quince not among the classes"
    if case == "broken cifar":
        write_cifar(folder)
        (folder / "data_batch_2").write_bytes(b"\x80")
        return folder, "fruit: not a readable CIFAR folder"
    assert case == "cifar without training images"
    write_cifar(folder)
    for number in range(1, 6):
        (folder / f"data_batch_{number}").unlink()
    return folder, "fruit: not a readable CIFAR folder"


@pytest.mark.parametrize(
    "case",
    [
        "missing",
        "file",
        "no classes",
        "one class",
        "empty class",
        "single image",
        "no image",
        "truncated",
        "no val",
        "empty val",
        "unknown class",
        "broken cifar",
        "cifar without training images",
    ],
)
def test_bad_data_is_refused_by_name(tmp_path: Path, case: str) -> None:
    path, message = broken(tmp_path / "fruit", case)
    with pytest.raises(ConfigError, match=message) as caught:
        write_images(settings(tmp_path, data=path, train_images=99, test_images=99), tmp_path / "chosen")
    assert "\n" not in str(caught.value)


def test_a_refused_demo_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        demo.run_demo(settings(tmp_path / "new/out", data=tmp_path / "nowhere"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="no such folder"):
        demo.run_demo(settings(tmp_path / "out/deep", data=tmp_path / "nowhere"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_fewer_images_than_classes_are_refused(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "fruit")
    with pytest.raises(ConfigError, match="train-images must be at least the number of classes, 3; got 2"):
        write_images(settings(tmp_path, data=folder, train_images=2), tmp_path / "chosen")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"epochs": -1}, "epochs must be at least 1, got -1"),
        ({"train_images": 1}, "train-images must be at least 2, got 1"),
        ({"test_images": 0}, "test-images must be at least 1, got 0"),
        ({"size": 4}, "size must be at least 8, got 4"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"methods": ()}, "methods must be names"),
        ({"methods": ("plain", "")}, "methods must be names"),
        ({"methods": ("coc", "coc")}, "methods must differ"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(tmp_path, **changes)


def test_unknown_method_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no method is called 'cocoa'; there are coc, doconv, stnd.*; or plain"):
        demo.run_demo(settings(tmp_path / "out", methods=("plain", "coc", "stnd+cocoa")))
    assert not (tmp_path / "out").exists()


def test_folder_for_results_is_checked_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="taken: no results can be written there"):
        demo.run_demo(settings(tmp_path / "taken"))


def test_number_of_threads_is_put_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    with pytest.raises(ConfigError):
        demo.run_demo(settings(tmp_path, data=tmp_path / "nowhere", threads=before + 1))
    assert torch.get_num_threads() == before
