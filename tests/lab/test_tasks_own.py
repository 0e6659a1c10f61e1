"""A task of one's own is one file: found by its name, trained, folded, evaluated and asked like the package's."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import pytest

pytest.importorskip("lightning", reason="needs the extra [lab]")

from PIL import Image
from safetensors.torch import load_file
from tiny_runs import fit, results

from convofconv.cli import main
from convofconv.errors import ConfigError
from convofconv.lab import tasks
from convofconv.lab.found_by_name import find_task, names_in
from convofconv.lab.recipe import schema
from convofconv.lab.recipe.recipe_files import recipe_of

pytestmark = pytest.mark.lab

RECIPE = """\
# Distances of digits.
task: depth
data: {name: digit_scenes, classes: 11, limit: 64, crop: [32, 32]}
training: {epochs: 2, batch: 2, optimizer: adamw, lr: 0.02, schedule: constant}
machine: {accelerator: cpu, threads: 1}
"""


@pytest.fixture
def depth(monkeypatch, tmp_path):
    """The toy's folder is part of the room of tasks; gives a recipe of it."""
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(Path(__file__).parent / "toy_task")])
    monkeypatch.setattr(schema, "TaskName", Literal[names_in("tasks")])
    path = tmp_path / "depth.yaml"
    path.write_text(RECIPE)
    yield str(path)
    sys.modules.pop("convofconv.lab.tasks.depth", None)


def test_one_file_is_trained_folded_evaluated_and_asked(depth, tmp_path, capsys):
    run = tmp_path / "run"
    assert fit([depth, "--method=coc"], run) == 0
    found = results(run)
    first, last = found["history"]
    assert last["loss"] < first["loss"]
    assert (found["metric"], found["test"]["folded"]) == ("delta1", pytest.approx(found["test"]["as_trained"], abs=0.1))
    assert found["test"]["folded"]["delta1"] > 50
    assert sorted(load_file(run / "model.safetensors")) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    capsys.readouterr()
    assert main(["test", str(run)]) == 0
    assert capsys.readouterr().out == f"test delta1: {found['test']['folded']['delta1']:.2f}\n"
    assert main(["verify", str(run)]) == 0
    assert "within the tolerance" in capsys.readouterr().out
    Image.new("RGB", (20, 10)).save(tmp_path / "black.png")
    assert main(["predict", str(run), str(tmp_path / "black.png"), f"--out={tmp_path / 'said'}", "--device=cpu"]) == 0
    (one,) = json.loads((tmp_path / "said/predictions.json").read_text())["images"]
    assert f"black.png: {one['nearest']:.2f} to {one['farthest']:.2f} m" in capsys.readouterr().out


def test_what_says_nothing_to_it_is_refused(depth, tmp_path, capsys):
    assert fit([depth, "--data.crop=[20, 20]", "--data.padding=4"], tmp_path / "run") == 2
    assert "data.padding says nothing to depth; leave it out" in capsys.readouterr().err
    assert fit([depth, "--task=width"], tmp_path / "run") == 2
    assert "depth" in capsys.readouterr().err


WHOLE = ("classification", "segmentation")
OBJECTS = ("detection", "instance_segmentation")
#: Of every key that says something to some tasks only, a value that is not its default, and the tasks.
OF_SOME_TASKS = {
    "data.crop": ((8, 8), WHOLE),
    "data.resize": (9, WHOLE),
    "data.scale": ((0.5, 1.0), WHOLE),
    "data.random_resized_crop": (True, WHOLE),
    "data.padding": (1, WHOLE),
    "data.photometric": (True, WHOLE),
    "model.dropout": (0.5, WHOLE),
    "training.label_smoothing": (0.1, WHOLE),
    "data.eval_crop": (9, ["classification"]),
    "model.small_images": (True, ["classification"]),
    "data.mask_resize": ("nearest-exact", ["segmentation", "instance_segmentation"]),
    "data.focus": (("0",), ["segmentation"]),
    "model.output_stride": (16, ["segmentation"]),
    "model.head_channels": (3, ["segmentation"]),
    "data.shorter": ((9,), OBJECTS),
    "data.longest": (9, OBJECTS),
    "model.fpn_channels": (16, OBJECTS),
    "model.smallest_anchor": (8, OBJECTS),
    "model.head_norm": ("group", OBJECTS),
    "model.rois": (8, OBJECTS),
    "model.max_detections": (7, OBJECTS),
}


@pytest.mark.parametrize("task", names_in("tasks"))
@pytest.mark.parametrize("key", OF_SOME_TASKS)
def test_every_task_takes_its_own_keys_and_refuses_the_others(task, key):
    section, name = key.split(".")
    value, _ = OF_SOME_TASKS[key]
    built_in = next(iter(schema.sources_of(task)), "digits")  # a task that makes its own data takes any
    given = {"data": {"name": built_in, "eval_resize": 32}}
    given.setdefault(section, {})[name] = value
    refused = pytest.raises(ConfigError, match=f"^{key} says nothing to {task}; leave it out$")
    with nullcontext() if key in find_task(task).keys else refused:
        recipe_of({"task": task, **given})


@pytest.mark.parametrize("key", OF_SOME_TASKS)
def test_the_first_four_tasks_know_the_keys_that_are_theirs(key):
    _, tasks_with_it = OF_SOME_TASKS[key]
    assert {task for task in (*WHOLE, *OBJECTS) if key in find_task(task).keys} == {*tasks_with_it}


def test_no_key_of_some_tasks_is_forgotten():
    assert set(OF_SOME_TASKS) == set(schema.KEYS_OF_SOME_TASKS)
