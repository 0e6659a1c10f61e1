"""Mistakes in recipes and options are told in a line, before anything is trained."""

import json
import os

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from PIL import Image
from tiny_runs import CLASSIFY, fit

from convofconv.cli import main
from convofconv.lab.found_by_name import find_task
from convofconv.lab.recipe.recipe_files import FOLDER
from convofconv.lab.training import launch

MISTAKES = [
    (["fit"], "needs a recipe, or the folder of a run, right behind it"),
    (["test", "."], "no recipe is called ., and in the folder of that name no run has begun, it has no recipe.json"),
    (["fit", "digits-resnet"], "did you mean digits-resnet18"),
    (["fit", "none.yaml"], "no such recipe file"),
    (["fit", "digits-resnet18", "--training.lrr=1"], "--training.lrr"),
    (["fit", "digits-resnet18", "--training.lr=-1"], "training.lr must be positive"),
    (["fit", "digits-resnet18", "--training.lr=fast"], "--training.lr"),
    (["fit", "digits-resnet18", "--method=magic"], "no method is called"),
    (["fit", "digits-resnet18", "--data.name=voc", "--data.root=."], "data.name must be one of digits"),
    (["fit", "cifar10-resnet18", "--data.root=nowhere", "--data.download=false"], "data.root: no such folder, nowhere"),
    (["fit", "digits-resnet18", "--data.classes=9"], "data.classes"),
    (
        [
            "fit",
            "digits-resnet18",
            "--model.backbone=vit_tiny_patch16_224",
            *["--model.small_images=false", "--model.options={}"],
        ],
        "the network cannot take images of 28×28 pixels (Input height (28) doesn't match model (224).). Their size",
    ),
    (
        [
            "fit",
            "digits-resnet18",
            "--model.backbone=torchvision/vgg11",
            *["--data.crop=[16,16]", "--model.small_images=false", "--model.options={}"],
        ],
        "the network cannot take images of 16×16 pixels (",
    ),
    (
        ["fit", "digits-resnet18", "--model.weights=timm", "--model.small_images=false", "--model.options={}"],
        "have learnt from images of another normalisation; give --data.mean='[0.485, 0.456, 0.406]' --data.std='[",
    ),
    (["fit", "digits-resnet18", "--model.backbone=resnet19"], "resnet"),
    (["fit", "digits-resnet18", "--training.batch=5000"], "training.batch"),
    (
        ["fit", "digits-resnet18", "--model.small_images=false", "--model.options={}", "--training.batch=1"],
        "training.batch: the network cannot learn from one image of 28×28 pixels at a time",
    ),
    (
        [
            *["fit", "digits-resnet18", "--model.small_images=false", "--model.options={}"],
            *["--model.weights=timm", "--model.backbone=resnet18.tv_in2k"],
        ],
        "model.backbone: Invalid pretrained tag (tv_in2k) for resnet18",
    ),
    (["fit", "digits-resnet18", "--training.lr=.nan"], "training.lr must be finite, got nan"),
    (["fit", "digits-resnet18", "--training.clip=.nan"], "training.clip must be finite, got nan"),
    (["fit", "digits-resnet18", "--data.scale=[1,.inf]"], "data.scale must be finite, got (1.0, inf)"),
    (["fit", "digits-resnet18", f"--training.seed={1 << 63}"], "training.seed must be less than 2^63"),
    (["fit", "digits-resnet18", "--preset=released"], "preset and association are of the method coc, this is plain"),
    (["fit", "digits-resnet18", "--method=stnd", "--association.grid_side=4"], "give --method coc"),
    (["fit", "digits-resnet18", "--model.output_stride=16"], "model.output_stride says nothing to classification"),
    (["fit", "scenes-fcn-resnet18", "--model.small_images=true"], "model.small_images says nothing to segmentation"),
    (["fit", "scenes-fcn-resnet18", "--data.eval_crop=16"], "data.eval_crop says nothing to segmentation"),
    (["test", "digits-resnet18", "--out=nowhere"], "holds no finished run"),
    (
        ["fit", "digits-resnet18", "--data.root=."],
        "data.root: digits is built in and not read from a folder. For a folder per class, DIR/train/CLASS/ and "
        "DIR/val/CLASS/, give --data.name=image_folder --data.root=DIR --data.classes=N",
    ),
    (["validate", "digits-resnet18", "--data.root=.", "--out=nowhere"], "data.root: digits is built in"),
    (["test", "digits-resnet18", "--data.root=.", "--out=nowhere"], "data.root: digits is built in"),
    (["fit", "digits-resnet18", "--model.max_detections=9"], "model.max_detections says nothing to classification"),
    (["fit", "scenes-retinanet-resnet18", "--model.max_detections=-1"], "model.max_detections must be at least 0"),
    (["fit", "digits-resnet18", "--data.mask_resize=nearest-exact"], "data.mask_resize says nothing to classification"),
    (["fit", "scenes-retinanet-resnet18", "--data.mask_resize=nearest-exact"], "mask_resize says nothing to detection"),
    (["fit", "scenes-fcn-resnet18", "--data.mask_resize=bilinear"], "--data.mask_resize: "),
    (["fit", "scenes-fcn-resnet18", "--data.root=."], "give --data.name=voc --data.root=DIR --data.classes=N"),
    (["fit", "scenes-retinanet-resnet18", "--data.root=."], "give --data.name=coco --data.root=DIR --data.classes=N"),
    (["fit", "scenes-maskrcnn-resnet18", "--data.root=."], "data.root: digit_scenes is built in"),
    (["fit", "digits-resnet18", "--data.download=true"], "data.download says nothing to digits; leave it out"),
    (
        ["fit", "imagenet-resnet50", "--data.root=.", "--data.download=true"],
        "data.download says nothing to image_folder; leave it out",
    ),
    (["fit", "nuclei-retinanet-resnet18-w16", "--data.root=.", "--data.year=2007"], "data.year says nothing to coco"),
    (
        ["fit", "digits-resnet18", "--data.limit=360", "--training.batch=64", "--training.epochs=3"],
        "training.warmup_steps is 50, but the run has 15 steps in all, 5 in each epoch",
    ),
    (
        ["fit", "digits-resnet18", "--training.schedule=step", "--training.milestones=[3,7]"],
        "training.milestones: the run ends after training.epochs, 5, and the learning rate would never fall at 7. Give",
    ),
    (
        ["fit", "digits-resnet18", "--training.lr=1e-4", "--training.min_lr=1e-3"],
        "training.min_lr is 0.001, more than training.lr, 0.0001",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: str(value)[-40:])
def test_mistakes_are_told_in_one_line_before_anything_is_trained(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("coc: ")
    assert told.count("\n") == 1
    assert message in told
    assert not list(tmp_path.iterdir()), "a run that is refused leaves no folder"


def test_of_the_folders_of_a_refused_run_those_are_removed_that_it_has_made_and_that_are_empty(tmp_path, capsys):
    refused = [*CLASSIFY, "--training.batch=100"]
    for name in ("kept/by/its/files", "kept/empty"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "kept/by/its/files/notes.txt").touch()
    for out in ("kept/by/its/files", "kept/empty", "kept/empty/new/one", "new"):
        assert fit(refused, tmp_path / out) == 2
        assert "training.batch must be at most the number of training images, 96" in capsys.readouterr().err
    assert (tmp_path / "kept/by/its/files/notes.txt").is_file()
    assert {path.name for path in (tmp_path / "kept/empty").iterdir()} <= {".lock"}
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_another_process_writes_into_the_folder_meanwhile_stays(tmp_path, monkeypatch):
    task = find_task("classification")
    honest = task.build_data

    def build_data(*arguments):
        (tmp_path / "run/notes.txt").touch()
        return honest(*arguments)

    monkeypatch.setattr(task, "build_data", build_data)
    assert fit([*CLASSIFY, "--training.batch=100"], tmp_path / "run") == 2
    assert (tmp_path / "run/notes.txt").is_file()


def test_a_file_that_gives_built_in_data_a_folder_is_refused(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(f"data: {{name: digits, root: {tmp_path}}}\n")
    assert main(["fit", str(path)]) == 2
    assert "data.root: digits is built in" in capsys.readouterr().err


def test_what_a_recipe_says_of_its_own_data_set_does_not_refuse_another_one(tmp_path, capsys):
    """Nobody has given cifar10's folder and download to the digits, nor CamVid's year to the scenes."""
    unknown = f"--training.batch={10**6}"  # ends where the recipe is accepted
    for name, data in (("cifar10-resnet18", "digits"), ("camvid-fcn-resnet18", "digit_scenes")):
        path = tmp_path / "mine.yaml"
        lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
        path.write_text("\n".join(f"  root: {tmp_path}" if line.startswith("  root:") else line for line in lines))
        splits = ["--data.val_split=val", "--data.test_split=", f"--data.classes={10 if data == 'digits' else 11}"]
        assert main(["fit", str(path), f"--data.name={data}", *splits, unknown]) == 2
        assert "training.batch must be at most" in capsys.readouterr().err
        assert main(["fit", str(path), f"--data.name={data}", *splits, "--data.root=/", unknown]) == 2
        assert f"data.root: {data} is built in" in capsys.readouterr().err


def test_a_run_that_was_given_a_folder_for_built_in_data_goes_on(tmp_path, capsys, trained):
    """Earlier versions wrote it down, and read nothing there."""
    out = tmp_path / "run"
    trained([*CLASSIFY, "--training.epochs=1"], out)
    for name in ("recipe.json", "results.json"):
        values = json.loads((out / name).read_text())
        values.get("recipe", values)["data"] |= {"root": str(tmp_path), "download": True, "year": "2007"}
        (out / name).write_text(json.dumps(values))
    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    capsys.readouterr()
    for arguments in (["test", out], ["validate", out], ["fit", out, "--resume"], ["predict", out, tmp_path / "a.png"]):
        assert main([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
    assert main(["test", str(out), "--data.root=/"]) == 2
    assert "data.root: digits is built in" in capsys.readouterr().err


def test_a_network_of_one_size_is_refused_for_files_of_any(tmp_path, capsys):
    """The first image fits, others may not: known only after an epoch, if it were tried."""
    for split in ("train", "val"):
        for name in "ab":
            (tmp_path / "images" / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / "images" / split / name / "1.png")
    options = ["--data.name=image_folder", f"--data.root={tmp_path / 'images'}", "--data.classes=2"]
    options += ["--model.backbone=test_vit", "--model.small_images=false", "--model.options={'img_size': 32}"]
    options += ["--data.crop=[32,32]", "--data.eval_resize=32", "--training.batch=2"]
    assert fit(["digits-resnet18", *options], tmp_path / "run") == 2
    told = capsys.readouterr().err
    assert "cannot take images of 33×33 pixels" in told
    assert "without data.eval_crop it is that of each file" in told
    options += ["--training.warmup_steps=0"]
    assert fit(["digits-resnet18", *options, "--data.eval_crop=32", "--training.epochs=1"], tmp_path / "run") == 0


@pytest.mark.parametrize("text", ["{", "3", "{}"])
def test_damaged_files_of_a_run_are_named(text, tmp_path, capsys, trained):
    trained([*CLASSIFY, "--training.epochs=1"], tmp_path / "run")
    capsys.readouterr()
    (tmp_path / "run/results.json").write_text(text)
    assert main(["test", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"coc: {tmp_path / 'run/results.json'}: damaged, ")
    assert told.count("\n") == 1
    (tmp_path / "run/recipe.json").write_text("{")
    assert fit([*CLASSIFY, "--training.epochs=1", "--resume"], tmp_path / "run") == 2
    assert capsys.readouterr().err.startswith(f"coc: {tmp_path / 'run/recipe.json'}: damaged, ")


def test_a_wrong_value_in_a_recipe_is_named_with_its_file(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("data: {year: 2012}\n")
    assert main(["fit", str(path)]) == 2
    assert capsys.readouterr().err == f"coc: {path}: --data.year: expected str, got 2012\n"


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_told_before_data_is_read(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert fit(CLASSIFY, tmp_path / "run") == 2
    assert "no results can be written there" in capsys.readouterr().err


def test_what_lightning_refuses_is_told_in_one_line(tmp_path, capsys, monkeypatch):
    def trainer(**options):
        raise MisconfigurationException("You requested gpu: [0, 1]\n But your machine only has: [0]")

    monkeypatch.setattr(launch, "Trainer", trainer)
    assert fit(CLASSIFY, tmp_path / "run") == 2
    assert capsys.readouterr().err == "coc: machine: You requested gpu: [0, 1] But your machine only has: [0]\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("option", ["machine.accelerator=gpu", "training.precision=16-mixed"])
def test_what_needs_a_gpu_is_told_where_there_is_none(option, tmp_path, capsys):
    recipe = [argument for argument in CLASSIFY if "accelerator" not in argument]
    assert fit([*recipe, f"--{option}"], tmp_path / "run") == 2
    assert f"{option.replace('=', ' ')} needs a GPU, and torch finds none here" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert fit([*recipe, "--training.epochs=1"], tmp_path / "run") == 0, "what never began is no run"
