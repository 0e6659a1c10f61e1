"""`coc demo` as a function: what it writes, that it is repeatable, what data it reads and what it refuses."""

from __future__ import annotations

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
from figure_texts import ticks
from matplotlib.figure import Figure
from PIL import Image

from convofconv import ConfigError
from convofconv.lab.data.decoding import open_picture
from convofconv.lab.demo import data as demo_data
from convofconv.lab.demo import run as demo
from convofconv.lab.demo import training
from convofconv.lab.demo.settings import DemoSettings
from convofconv.lab.files.atomic import write_atomic

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
CLASSES = ("apple", "pear", "plum")


def write_classes(folder: Path, per_class: int = 6, classes: tuple[str, ...] = CLASSES) -> Path:
    """Noisy pictures, one colour channel brighter per class, every file of another size."""
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
        "epochs": 1,
        "train_images": 12,
        "test_images": 10,
        "size": 8,
    }
    return DemoSettings(out=out, **{**small, **changes})


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def test_digits_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = demo.run_demo(settings(tmp_path, train_images=100, test_images=50))
    record = results(tmp_path)
    assert record["data"]["shape"] == [1, 28, 28]
    assert (record["data"]["train_images"], record["data"]["test_images"]) == (100, 50)
    assert record["torch"] == torch.__version__
    assert [(run["seed"], run["method"]) for run in record["runs"]] == [
        (0, "plain"),
        (0, "coc+stnd"),
        (1, "plain"),
        (1, "coc+stnd"),
    ]
    plain, coc = rows
    assert plain.trained_parameters == plain.deployed_parameters == coc.deployed_parameters < coc.trained_parameters
    for row, entry in zip(rows, record["methods"], strict=True):
        own = [run["accuracy"][-1] for run in record["runs"] if run["method"] == row.method]
        assert row.accuracy_mean == entry["accuracy_mean"] == pytest.approx(np.mean(own))
        assert row.accuracy_std == pytest.approx(np.std(own, ddof=1))
    for run in record["runs"]:
        assert len(run["loss"]) == len(run["accuracy"]) == 1
        assert run["folded_accuracy"] == run["accuracy"][-1]
        assert run["difference"] <= 1e-5
    assert plain.relative_step_time == 1
    assert coc.relative_step_time > 0
    for name in ("curves.png", "kernels.png"):
        with Image.open(tmp_path / name) as figure:
            figure.load()
            assert figure.size[0] > 600
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "curves.png", "kernels.png"}
    printed = capsys.readouterr().out
    assert "over 2 seeds" in printed
    assert (
        f"4 networks to train, 2 with each of 2 seeds: plain, coc+stnd; on the CPU, threads: 1; into {tmp_path}"
        in printed
    )
    lines = [line for line in printed.splitlines() if line.startswith("seed ")]
    for number, (line, run) in enumerate(zip(lines, record["runs"], strict=True), 1):
        assert line.startswith(f"seed {run['seed']}  {run['method']:<10}{100 * run['accuracy'][-1]:6.2f} %  ")
        assert re.search(f"  {number} of 4 done{', .* s left' if number < 4 else ''}$", line)
    assert f"In {tmp_path}: results.json, curves.png, kernels.png" in printed


def test_the_same_settings_give_the_same_results(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "fruit")
    kept = []
    for turn in ("a", "b"):
        demo.run_demo(settings(tmp_path / turn, data=folder))
        kept.append([{**run, "seconds": 0} for run in results(tmp_path / turn)["runs"]])
    assert kept[0] == kept[1]


def test_methods_start_equal_and_do_not_touch_the_global_random_state(tmp_path: Path) -> None:
    from convofconv.lab.demo.training import build

    before = torch.get_rng_state()
    plain, coc = (build(method, 1, 10, seed=3).eval() for method in ("plain", "coc"))
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(plain(x), coc(x))


def test_without_an_associated_layer_there_is_no_figure_of_kernels(tmp_path: Path) -> None:
    (tmp_path / "kernels.png").write_bytes(b"of an earlier run")
    (row,) = demo.run_demo(settings(tmp_path, data=write_classes(tmp_path / "fruit"), methods=("stnd",), seeds=1))
    assert not (tmp_path / "kernels.png").exists()
    assert row.accuracy_std is None
    assert results(tmp_path)["methods"][0]["accuracy_std"] is None
    assert row.relative_step_time > 0  # relative to a plain network that is not among the methods


def test_pool_is_split_by_class_without_overlap(tmp_path: Path) -> None:
    data = demo_data.load_data(
        settings(tmp_path, data=write_classes(tmp_path / "fruit", per_class=10), train_images=99)
    )
    assert data.classes == CLASSES
    for part, per_class in ((data.train, 8), (data.test, 2)):
        images, labels = part.tensors
        assert images.shape[1:] == data.shape == (3, 8, 8)
        assert labels.bincount().tolist() == [per_class] * 3
    everything = torch.cat([data.train.tensors[0], data.test.tensors[0]]).flatten(1)
    assert len(everything.unique(dim=0)) == 30
    assert float(data.train.tensors[0].mean().abs()) < 1e-5


def test_caps_are_shared_evenly_by_the_classes(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "fruit", per_class=10)
    data = demo_data.load_data(settings(tmp_path, data=folder, train_images=7, test_images=3))
    assert data.train.tensors[1].bincount().tolist() == [3, 2, 2]
    assert data.test.tensors[1].bincount().tolist() == [1, 1, 1]


def test_train_and_val_folders(tmp_path: Path) -> None:
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "val", per_class=2, classes=("pear", "plum"))
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    data = demo_data.load_data(settings(tmp_path, data=tmp_path, train_images=99))
    assert data.classes == CLASSES
    assert data.train.tensors[1].bincount().tolist() == [6, 6, 6]
    assert data.test.tensors[1].bincount(minlength=3).tolist() == [0, 2, 2]


@pytest.mark.parametrize("hundred", [False, True])
@pytest.mark.parametrize("name", ["usual", "another"])
def test_cifar_folders_that_are_not_the_originals(tmp_path: Path, hundred: bool, name: str) -> None:
    usual = "cifar-100-python" if hundred else "cifar-10-batches-py"
    folder = write_cifar(tmp_path / (usual if name == "usual" else "mine"), hundred)
    for path in (folder, tmp_path) if name == "usual" else (folder,):
        data = demo_data.load_data(settings(tmp_path, data=path, train_images=99, size=32))
        assert data.classes == ("cat", "dog", "emu", "fox")
        assert (len(data.train), len(data.test)) == (16 if hundred else 20, 8)
        assert data.shape == (3, 32, 32)


def test_cifar_end_to_end(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar-10-batches-py")
    demo.run_demo(settings(tmp_path / "out", data=tmp_path, seeds=1))
    assert results(tmp_path / "out")["data"]["name"] == "CIFAR-10"


@pytest.mark.skipif(not (SHARED / "cifar10").is_dir(), reason="the real CIFAR-10 subset is not on this machine")
def test_real_cifar_folder(tmp_path: Path) -> None:
    data = demo_data.load_data(settings(tmp_path, data=SHARED / "cifar10", train_images=40, test_images=20, size=32))
    assert data.train.tensors[1].bincount().tolist() == [4] * 10
    assert data.test.tensors[1].bincount().tolist() == [2] * 10


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_pictures_of_any_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    if mode == "I;16":
        image = Image.fromarray(ramp.astype(np.uint16) * 16)  # 12 bits, as cameras of microscopes have
    elif mode in ("I", "F"):
        image = Image.fromarray(ramp.astype(np.int32 if mode == "I" else np.float32) * 100)
    else:
        image = Image.fromarray(ramp).convert(mode)
    path = tmp_path / f"picture.{'tiff' if mode in ('CMYK', 'F', 'I') else 'png'}"
    image.save(path, **({"transparency": b"\x00\x80"} if mode == "P" else {}))
    found = open_picture(path, 8)
    assert found.mode == "RGB"
    assert found.size == (16, 16)
    assert np.asarray(found).min() < 5
    assert np.asarray(found).max() > 250
    if mode in ("L", "I;16", "I", "F"):
        assert np.array_equal(np.asarray(found)[..., 0], ramp)


def test_large_jpegs_are_decoded_small(tmp_path: Path) -> None:
    Image.new("RGB", (640, 480), "red").save(tmp_path / "large.jpg")
    assert open_picture(tmp_path / "large.jpg", 32).size == (160, 120)


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
        return folder, "no pictures in quince"
    if case == "single picture":
        return write_classes(folder, per_class=1), "a single picture of apple, pear, plum"
    if case == "no picture":
        write_classes(folder)
        (folder / "plum" / "0.png").write_text("this is no picture")
        return folder, "0.png: not a readable picture"
    if case == "truncated":
        write_classes(folder)
        whole = (folder / "pear" / "3.png").read_bytes()
        (folder / "pear" / "3.png").write_bytes(whole[: len(whole) // 2])
        return folder, "3.png: not a readable picture"
    if case == "no val":
        write_classes(folder / "train")
        return folder, "a folder train but no folder val"
    if case == "empty val":
        write_classes(folder / "train")
        (folder / "val" / "pear").mkdir(parents=True)
        return folder, "val: no pictures"
    if case == "unknown class":
        write_classes(folder / "train")
        write_classes(folder / "val", classes=("pear", "quince"))
        return folder, "val: quince not among the classes"
    if case == "broken cifar":
        write_cifar(folder)
        (folder / "data_batch_2").write_bytes(b"\x80")
        return folder, "fruit: not a readable CIFAR folder"
    assert case == "cifar without training pictures"
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
        "single picture",
        "no picture",
        "truncated",
        "no val",
        "empty val",
        "unknown class",
        "broken cifar",
        "cifar without training pictures",
    ],
)
def test_bad_data_is_refused_by_name(tmp_path: Path, case: str) -> None:
    path, message = broken(tmp_path / "fruit", case)
    with pytest.raises(ConfigError, match=message) as caught:
        demo_data.load_data(settings(tmp_path, data=path, train_images=99, test_images=99))
    assert "\n" not in str(caught.value)


def test_a_refused_demo_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        demo.run_demo(settings(tmp_path / "new/out", data=tmp_path / "nowhere"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="no such folder"):
        demo.run_demo(settings(tmp_path / "out/deep", data=tmp_path / "nowhere"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("epochs", [1, 3])
def test_curves_of_few_epochs_can_be_read(monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    from convofconv.lab.demo import figures

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    loss, accuracy = (2.3, 2.2, 2.1)[:epochs], (0.1, 0.2, 0.3)[:epochs]
    figures.curves([training.Run("plain", 0, loss, accuracy, 0.1, 0.0, 1, 1, 1.0)], "digits")
    for axes in drawn[0].axes[:2]:
        assert ticks(axes.xaxis) == list(range(1, epochs + 1))
    drawn[0].draw_without_rendering()
    labels = [label.get_text() for label in drawn[0].axes[0].get_yticklabels(which="both") if label.get_text()]
    assert labels
    assert epochs > 1 or not any("10^" in label for label in labels), "powers of ten say nothing in so short a range"


def test_fewer_pictures_than_classes_are_refused(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "fruit")
    with pytest.raises(ConfigError, match="train-images must be at least the number of classes, 3; got 2"):
        demo_data.load_data(settings(tmp_path, data=folder, train_images=2))


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


def test_interrupted_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write_atomic(path, b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("results.json", b"old")]
