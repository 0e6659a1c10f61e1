"""Runs on a GPU: every task trains, folds, evaluates, is resumed and predicts there."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from PIL import Image

pytest.importorskip("lightning", reason="needs the extra [lab]")

from tiny_runs import CLASSIFY, DETECT, INSTANCES, SEGMENT, fit, results
from tiny_study import options_in, tiny_study

from convofconv.cli import main
from convofconv.lab.studies.execution import run_study
from convofconv.lab.training.module import Training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")

TASKS = {"classification": CLASSIFY, "segmentation": SEGMENT, "detection": DETECT, "instance_segmentation": INSTANCES}
tasks = pytest.mark.parametrize("task", TASKS)
ON_GPU = ["--machine.accelerator=gpu", "--method=coc+stnd"]


def recipe(task, squares):
    return [*TASKS[task], *(squares if task in ("detection", "instance_segmentation") else ()), *ON_GPU]


@tasks
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_every_task_trains_folds_and_evaluates(task, precision, squares, tmp_path, capsys):
    out = tmp_path / "run"
    assert fit([*recipe(task, squares), "--training.epochs=1", f"--training.precision={precision}"], out) == 0
    found = results(out)
    assert found["device"] == "cuda"
    assert task not in ("detection", "instance_segmentation") or found["test"]["folded"][f"{found['metric']}50"] > 10
    assert found["test"]["folded"] == pytest.approx(found["test"]["as_trained"], abs=2)
    assert all(len(values) == len(found["classes"]) for values in found["test_by_class"].values())
    capsys.readouterr()
    for where in ("gpu", "cpu"):
        assert main(["validate", str(out), f"--machine.accelerator={where}"]) == 0
        shown = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
        for name, value in found["test"]["folded"].items():
            assert float(shown[f"val {name}"]) == pytest.approx(value, abs=0.006 if where == "gpu" else 2)


@tasks
def test_a_resumed_run_does_what_is_left(task, squares, tmp_path, monkeypatch):
    """To the same losses as a whole run, except for the order in which GPUs add up."""
    arguments = [*recipe(task, squares), "--training.checkpoint_steps=1", "--data.limit=32", "--training.ema=0.9"]
    assert fit(arguments, tmp_path / "whole") == 0
    honest, seen = Training.training_step, []

    def training_step(module, *rest):
        seen.append(1)
        if len(seen) == steps // 2 + 1:
            raise KeyboardInterrupt
        return honest(module, *rest)

    steps = torch.load(tmp_path / "whole/last.ckpt", weights_only=True)["global_step"]
    monkeypatch.setattr(Training, "training_step", training_step)
    assert fit(arguments, tmp_path / "broken") == 130
    seen.clear()
    monkeypatch.setattr(Training, "training_step", lambda *step: seen.append(1) or honest(*step))
    assert fit([*arguments, "--resume"], tmp_path / "broken") == 0
    assert len(seen) == steps - steps // 2
    losses = [history(tmp_path / name) for name in ("whole", "broken")]
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


def history(out):
    with (out / "metrics.csv").open() as lines:
        return [float(row["loss"]) for row in csv.DictReader(lines)]


@tasks
def test_predictions_are_those_of_the_cpu(task, squares, tmp_path):
    assert fit([*recipe(task, squares), "--training.epochs=1"], tmp_path / "run") == 0
    images = tmp_path / "images"
    images.mkdir()
    for i in range(3):
        noise = torch.randint(256, (40 + 8 * i, 48, 3), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(images / f"{i}.png")
    told = {}
    for device in ("cuda", "cpu"):
        arguments = ["predict", str(tmp_path / "run"), str(images), f"--device={device}"]
        assert main([*arguments, f"--out={tmp_path / device}"]) == 0
        told[device] = json.loads((tmp_path / device / "predictions.json").read_text())
    assert set(told["cuda"]) == set(told["cpu"])
    if task == "classification":
        assert flat(told["cuda"]) == pytest.approx(flat(told["cpu"]), abs=1e-2)


def flat(tree):
    if isinstance(tree, dict):
        tree = [tree[key] for key in sorted(tree)]
    if isinstance(tree, list):
        return [number for item in tree for number in flat(item)]
    return [float(tree)] if isinstance(tree, int | float) else []


def test_compiled_training(tmp_path):
    torch._dynamo.reset()
    assert fit([*CLASSIFY, *ON_GPU, "--training.epochs=1", "--training.compile=true"], tmp_path / "run") == 0
    assert results(tmp_path / "run")["device"] == "cuda"


def test_a_study_runs_on_the_gpu(tmp_path):
    study = tiny_study(tmp_path)
    run_study(study, options_in(tmp_path, workers=2))
    records = [json.loads(line) for line in (tmp_path / "results/tiny-small/records.jsonl").read_text().splitlines()]
    assert [record["status"] for record in records] == ["done"] * 2
    assert {record["device"] for record in records} == {"cuda"}
