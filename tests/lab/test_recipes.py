"""Every recipe that comes with the package."""

import itertools
import json
from pathlib import Path

import pytest
import yaml
from tiny_runs import fit, results

from convofconv.cli import main
from convofconv.lab.found_by_name import find_task
from convofconv.lab.recipe.recipe_files import FOLDER, recipe_from
from convofconv.lab.recipe.schema import sources_of
from convofconv.lab.studies.study import FOLDER as STUDIES
from convofconv.lab.studies.study import read_study
from convofconv.lab.training.schedule import check_schedule


@pytest.mark.parametrize("name", [path.stem for path in sorted(FOLDER.glob("*.yaml"))])
def test_every_recipe_trains_a_short_epoch(name, tmp_path):
    """On a few built-in images of small size and with a narrow network, in place of the recipe's own.

    With the paper's three parts at once; every method alone is tested with every task in test_runs.py, and a step of
    every recipe's own network in test_tasks.py.
    """
    method = "coc+stnd+orth"
    task = recipe_task(name)
    scenes = "digits" not in sources_of(task)
    # Batch norm of so many layers diverges on maps of a single pixel, and at the full rate.
    detects = find_task(task).lists_objects
    side = 64 if "hrnet" in name or "imagenet-" in name or detects else 32
    data = {"name": "digit_scenes", "classes": 11} if scenes else {"name": "digits", "classes": 10}
    data |= {"root": "null", "limit": 4, "eval_resize": side, "train_split": "train", "val_split": "val"}
    data |= {"test_split": "", "focus": "[]", "workers": 0, "download": "false"}
    options = ["--training.batch=2", "--training.eval_batch=4", "--training.epochs=1", "--model.weights="]
    options += ["--training.warmup_steps=0", "--training.schedule=constant"]
    options += ["--training.lr=0.001", "--machine.threads=1", "--machine.accelerator=cpu", f"--method={method}"]
    if "resnet" in name:
        options += ["--model.options={'channels': [8, 8, 8, 8], 'stem_type': 'deep', 'stem_width': 4}"]
    elif "hrnet" in name:
        options += ["--model.backbone=hrnet_w18_small"]
    if detects:
        data |= {"shorter": f"[{side}]", "longest": 2 * side}
        # Frozen norms belong to pretrained weights; a deep network of random ones explodes with them.
        options += ["--model.fpn_channels=16", "--model.rois=8", "--model.freeze_norm=false"]
    else:
        data |= {"crop": f"[{side}, {side}]", "eval_crop": 0, "resize": 0}
    if task == "segmentation":
        options += ["--data.scale=[0.5, 0.7]"]
    options += [f"--data.{key}={value}" for key, value in data.items()]
    assert fit([name, *options], tmp_path / "run") == 0
    assert results(tmp_path / "run")["recipe"]["method"] == method


#: Images to train on, by data set and folder: what docs/studies.md and the data sets' own papers say.
IMAGES = {
    "digits None": 4000,
    "digit_scenes None": 400,
    "voc data/camvid": 367,
    "voc data": 10_582,
    "voc data/voc2012_subset": 1437,
    "cifar10 data": 50_000,
    "cifar10 data/cifar10": 10_000,
    "coco data/coco": 117_266,
    "coco data/coco_subset": 336,
    "coco data/dsb2018_nuclei": 347,
    "image_folder data/imagenet": 1_281_167,
    "image_folder data/tiny_imagenet50": 15_000,
    "image_folder data/tiny_imagenet": 100_000,
}


def test_every_recipe_and_every_run_of_a_study_reaches_its_full_rate_and_its_last_milestone(monkeypatch):
    monkeypatch.setattr(Path, "is_dir", lambda self: True)  # no data is looked at
    wanted = {(path.stem, ()) for path in FOLDER.glob("*.yaml")}
    for path in STUDIES.glob("*.yaml"):
        for budget in yaml.safe_load(path.read_text())["budgets"]:
            study = read_study(path.stem, budget)
            points = [{**study.tuning.settings, **point} for point in study.tuning.points()] if study.tuning else [{}]
            for network in study.networks:
                for variant, point in itertools.product(study.variants_of(network), points):
                    settings = {**study.settings(network, variant), **point}
                    schedules = {key: value for key, value in settings.items() if key.startswith(("training", "data."))}
                    wanted.add((study.networks[network]["recipe"], json.dumps(schedules)))
    assert len(wanted) > 50
    for name, settings in wanted:
        recipe = recipe_from(name, json.loads(settings or "{}"))
        images = IMAGES[f"{recipe.data.name} {recipe.data.root}"]
        check_schedule(recipe.training, min(images, recipe.data.limit or images) // recipe.training.batch)


def recipe_task(name):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["task"]


def test_recipes_lists_every_recipe_with_a_line(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list(FOLDER.glob("*.yaml"))) > 10
    assert all(len(line.split("  ", 1)[1].strip()) > 20 for line in lines)
