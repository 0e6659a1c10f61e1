"""Whole training runs through the command line, on tiny built-in data: what they compute and write."""

import csv
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from figure_texts import ticks
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file
from tiny_runs import CLASSIFY, DETECT, INSTANCES, SEGMENT, fit, results

import convofconv as coc
from convofconv.cli import main
from convofconv.lab.files.run_folder import RunFolder
from convofconv.lab.found_by_name import find_task
from convofconv.lab.models.network import build_network
from convofconv.lab.recipe.recipe_files import recipe_of
from convofconv.lab.training.finish import versions, write_history


@pytest.mark.parametrize(
    ("recipe", "method"),
    [
        *((CLASSIFY, method) for method in ("plain", "stnd", "coc+orth")),
        (SEGMENT, "orth"),
        (DETECT, "coc+stnd"),
        (INSTANCES, "coc"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_every_task_and_method_trains_folds_and_evaluates(recipe, method, squares, tmp_path, capsys):
    if detects := recipe in (DETECT, INSTANCES):
        recipe = [*recipe, *squares]
    assert fit([*recipe, f"--method={method}", "--training.epochs=1"], tmp_path / "run") == 0
    found = results(tmp_path / "run")
    assert found["recipe"]["method"] == method
    assert not detects or found["test"]["folded"][f"{found['metric']}50"] > 10
    assert found["test"]["folded"] == pytest.approx(found["test"]["as_trained"], abs=2)
    assert all(len(values) == len(found["classes"]) for values in found["test_by_class"].values())
    folded = load_file(tmp_path / "run" / "model.safetensors")
    assert not any("parametrizations" in key for key in folded)
    assert (tmp_path / "run" / "converted.safetensors").exists() == (method != "plain")
    if method != "plain":
        assert difference_of_files(tmp_path / "run") < 1e-4
    assert found["parameters"]["folded"] <= found["parameters"]["as_trained"]
    capsys.readouterr()
    # No recipe here has a split of its own to test on.
    assert main(["validate", str(tmp_path / "run")]) == 0
    shown = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    for name, value in found["test"]["folded"].items():
        assert float(shown[f"val {name}"]) == pytest.approx(value, abs=0.006)
    name, of_classes = list(found["test_by_class"].items())[-1]
    for label, value in zip(found["classes"], of_classes, strict=True):
        told = shown.get(f"val {name} of {label}")
        assert (told is None) == (value is None or recipe == CLASSIFY)
        assert told is None or float(told) == pytest.approx(value, abs=0.006)


def difference_of_files(run):
    """Of what the two networks that a run leaves compute, before boxes are selected."""
    recipe = recipe_of(json.loads((run / "recipe.json").read_text()))
    classes = len(results(run)["classes"])
    converted, plain = (
        build_network(dataclasses.replace(recipe, method=method), classes) for method in (recipe.method, "plain")
    )
    converted.load_state_dict(load_file(run / "converted.safetensors"))
    plain.load_state_dict(load_file(run / "model.safetensors"))
    task = find_task(recipe.task)
    images = task.batch([torch.rand(3, 64, 64)] * 2)
    return coc.verify(task.compared(converted), task.compared(plain), images, tolerance=1)


def test_a_run_learns(tmp_path):
    """Not a stub: some hundred digits for a few epochs, and most of the others are recognised."""
    options = ["--data.limit=800", "--training.batch=32", "--training.lr=0.1", "--training.warmup_steps=10"]
    narrow = ["--model.backbone=resnet10t", "--model.options={'channels': [16, 16, 32, 32]}", "--training.epochs=4"]
    assert fit([*CLASSIFY, *options, *narrow, "--method=coc"], tmp_path / "run") == 0
    assert results(tmp_path / "run")["test"]["folded"]["top1"] > 80


def test_a_run_is_verified_where_it_was_trained(tmp_path, monkeypatch):
    """There need be no GPU for this: the strategy says where, and all but the moving itself is as it would be."""
    from convofconv.lab.training import finish as module
    from convofconv.lab.training import run as caller
    from convofconv.lab.training.module import Training

    gpu, done = torch.device("cuda", 0), []

    def finish(trainer, *rest):
        place = SimpleNamespace(root_device=gpu)
        fake = SimpleNamespace(strategy=place, test=trainer.test, is_global_zero=True)
        with monkeypatch.context() as patched:
            patched.setattr(Training, "to", lambda self, *to: done.append(to[0]))
            patched.setattr(module, "verify", lambda *_, **__: done.append("verified") or 0.0)
            honest(fake, *rest)

    honest = caller.finish
    monkeypatch.setattr(caller, "finish", finish)
    assert fit([*CLASSIFY, "--training.epochs=1", "--method=coc"], tmp_path / "run") == 0
    assert done[:2] == [gpu, "verified"]
    assert results(tmp_path / "run")["device"] == "cuda"


def test_figures_by_class_are_computed_in_the_test_itself(tmp_path, monkeypatch):
    """Behind it Lightning has taken them to the CPU, where NCCL sums nothing over processes."""
    from lightning.pytorch import Trainer

    from convofconv.lab.metrics.classification_metrics import ClassificationMetrics

    honest_test, honest_figures, inside, computed = Trainer.test, ClassificationMetrics.by_class, [], []

    def test(*arguments, **options):
        inside.append(True)
        found = honest_test(*arguments, **options)
        inside.clear()
        return found

    def by_class(metrics):
        computed.append(bool(inside))
        return honest_figures(metrics)

    monkeypatch.setattr(Trainer, "test", test)
    monkeypatch.setattr(ClassificationMetrics, "by_class", by_class)
    assert fit([*CLASSIFY, "--training.epochs=1"], tmp_path / "run") == 0
    assert computed == [True]
    assert max(results(tmp_path / "run")["test_by_class"]["top1"]) > 0


def test_a_network_that_only_evaluation_breaks_is_told(tmp_path, monkeypatch, capsys):
    from convofconv.lab.training import run as module

    def poison(trainer, training, *rest):
        checkpoint = torch.load(tmp_path / "run/best.ckpt", weights_only=True)
        name = next(name for name in checkpoint["state_dict"] if name.endswith("running_var"))
        checkpoint["state_dict"][name].fill_(-1)  # the root of it is no number
        torch.save(checkpoint, tmp_path / "run/best.ckpt")
        finish(trainer, training, *rest)

    finish = module.finish
    monkeypatch.setattr(module, "finish", poison)
    assert fit([*CLASSIFY, "--training.epochs=1"], tmp_path / "run") == 2
    assert "statistics of batch norm lag behind" in capsys.readouterr().err
    assert not (tmp_path / "run/results.json").exists()


def test_the_best_epoch_is_the_one_whose_network_is_kept(tmp_path, trained):
    """Killed behind an epoch that was the best, and resumed, another epoch may become the best in the history."""
    run = tmp_path / "run"
    trained(CLASSIFY, run)
    history = results(run)["history"]
    for kept in (1, 2):
        best = torch.load(run / "best.ckpt", weights_only=True)
        torch.save({**best, "history": history[:kept]}, run / "best.ckpt")
        (run / "results.json").unlink()
        assert fit([*CLASSIFY, "--resume"], run) == 0
        assert (results(run)["best_epoch"], results(run)["validation"]) == (kept, history[kept - 1])


def test_the_commit_is_that_of_the_code_and_not_of_a_repository_around_it(tmp_path, monkeypatch):
    from convofconv.lab.training import finish as module

    own = tmp_path / "repository" / ".venv" / "finish.py"
    own.parent.mkdir(parents=True)
    own.touch()
    git = partial(subprocess.run, cwd=own.parents[1], check=True, capture_output=True, text=True)
    git(["git", "init"])
    commit = [
        "git",
        "-c",
        "user.name=one",
        "-c",
        "user.email=one@example.org",
        "commit",
        "--allow-empty",
        "-m",
        "first",
    ]
    git(commit)
    monkeypatch.setattr(module, "__file__", str(own))
    assert versions()["git_commit"] is None
    git(["git", "add", str(own)])
    git([*commit[:-1], "second"])
    assert versions()["git_commit"] == git(["git", "rev-parse", "HEAD"]).stdout.strip()


def test_the_log_has_a_line_per_epoch_and_the_curves_are_a_image(tmp_path, trained):
    trained(CLASSIFY, tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["step"] for row in rows] == ["6", "12"]
    assert (tmp_path / "run" / "curves.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_the_curves_have_whole_epochs_as_ticks(epochs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    history = [{"epoch": epoch, "step": epoch, "lr": 0.1, "loss": 2.3, "top1": 9.5} for epoch in range(1, epochs + 1)]
    write_history(RunFolder(tmp_path), history, "top1")
    assert [ticks(axes.xaxis) for axes in drawn[0].axes] == [list(range(1, epochs + 1))] * 2


def test_the_log_has_the_rate_that_an_epoch_was_trained_with(tmp_path):
    options = ["--training.schedule=step", "--training.milestones=[1]", "--training.gamma=0.5", "--training.lr=0.01"]
    assert fit([*CLASSIFY, *options, "--training.warmup_steps=0"], tmp_path / "run") == 0
    assert [epoch["lr"] for epoch in results(tmp_path / "run")["history"]] == pytest.approx([0.01, 0.005])


def test_a_detector_with_frozen_norms_starts_from_a_classifier_and_is_evaluated_without_it(tmp_path, capsys):
    options = "--model.options={'channels': [8, 8, 8, 8]}"
    first = [*CLASSIFY, "--model.backbone=resnet18", options, "--method=stnd", "--training.epochs=1"]
    assert fit(first, tmp_path / "first") == 0
    arguments = [*DETECT, options, "--method=stnd", f"--model.weights={tmp_path / 'first'}", "--model.freeze_norm=true"]
    assert fit([*arguments, "--training.epochs=1"], tmp_path / "run") == 0
    started, ended = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "run"))
    for entry in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(ended[f"backbone.body.bn1.{entry}"], started[f"bn1.{entry}"])
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    assert main(["test", *arguments, "--training.epochs=1", f"--out={tmp_path / 'elsewhere'}"]) == 0
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "elsewhere"), str(tmp_path / "a.png"), f"--out={tmp_path / 'found'}"]) == 0


def test_converted_weights_load_into_a_converted_network(tmp_path, trained):
    trained([*CLASSIFY, "--method=coc", "--training.epochs=1"], tmp_path / "run")
    import timm

    state = load_file(tmp_path / "run" / "converted.safetensors")
    model = coc.convert_like(timm.create_model("mobilenetv3_small_050", num_classes=10), state)
    model.load_state_dict(state)
    plain = timm.create_model("mobilenetv3_small_050", num_classes=10)
    plain.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"))
    x = torch.randn(2, 3, 28, 28)
    assert coc.verify(model.eval(), plain.eval(), x, tolerance=1e-4) < 1e-4


@pytest.mark.parametrize("ema", [0, 0.9])
def test_a_runs_own_checkpoint_is_folded_into_its_own_network(ema, tmp_path, capsys):
    """After its only epoch the last network is the best one."""
    options = ["--method=coc", "--training.epochs=1", f"--training.ema={ema}"]
    assert fit([*CLASSIFY, *options], tmp_path / "run") == 0
    last, out = str(tmp_path / "run" / "last.ckpt"), str(tmp_path / "folded.safetensors")
    arch = ["--arch=timm/mobilenetv3_small_050", "--options.num_classes=10"]
    assert main(["fold", last, *arch, f"--out={out}"]) == 0, capsys.readouterr().err
    assert main(["verify", last, out, *arch, "--shape", "2", "3", "28", "28"]) == 0, capsys.readouterr().err
    folded, own = load_file(out), load_file(tmp_path / "run" / "model.safetensors")
    assert folded.keys() == own.keys()
    assert all(torch.equal(folded[key], own[key]) for key in own)


def test_accumulated_batches_train_as_whole_ones_do(tmp_path):
    without_norm = [
        "--model.backbone=resnet10t",
        "--model.options={'channels': [8, 8, 8, 8], 'norm_layer': 'groupnorm1'}",
    ]
    for times in (1, 4):
        options = [*without_norm, f"--training.accumulate={times}", "--method=coc"]
        assert fit([*CLASSIFY, *options], tmp_path / str(times)) == 0
    once, four = (load_file(tmp_path / name / "converted.safetensors") for name in ("1", "4"))
    for key, value in once.items():
        assert (four[key].double() - value.double()).abs().max() <= 1e-4 * value.double().abs().max() + 1e-6, key


def test_a_network_of_the_lab_is_folded_by_a_function_of_ones_own(tmp_path, monkeypatch, capsys):
    """As docs/lab.md says, with the code that stands there."""
    guide = (Path(__file__).parents[2] / "docs/lab.md").read_text()
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", guide, re.S) if "def network():" in code]
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    options = ["--method=coc", "--data.limit=64", "--training.batch=32", "--training.epochs=1", "--machine.threads=1"]
    options += ["--training.warmup_steps=0"]
    assert fit(["digits-resnet18", *options], tmp_path / "run") == 0
    out = tmp_path / "folded.safetensors"
    assert main(["fold", str(tmp_path / "run/last.ckpt"), "--arch=mine:network", f"--out={out}"]) == 0
    folded, own = load_file(out), load_file(tmp_path / "run" / "model.safetensors")
    assert folded.keys() == own.keys()
    assert all(torch.equal(folded[key], own[key]) for key in own)


@pytest.mark.parametrize("recipe", [CLASSIFY, SEGMENT], ids=["classification", "segmentation"])
def test_half_precision_is_for_training_alone(recipe, tmp_path, monkeypatch):
    """Logits of half precision are so coarse that classes tie."""
    from convofconv.lab.training.module import Training

    honest_loss, seen = Training.loss, set()

    def loss(self, images, target):
        self.network.register_forward_hook(lambda module, _, out: seen.add((module.training, out.dtype)))
        return honest_loss(self, images, target)

    monkeypatch.setattr(Training, "loss", loss)
    assert fit([*recipe, "--training.epochs=1", "--training.precision=bf16-mixed"], tmp_path / "run") == 0
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}


def test_the_profile_trains_nothing(tmp_path, capsys):
    assert fit([*DETECT, "--profile"], tmp_path / "run") == 0
    told = capsys.readouterr().out
    assert "limited by" in told
    assert "processes" not in told
    assert not (tmp_path / "run").exists()


def test_one_of_several_processes_profiles(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert fit([*CLASSIFY, "--profile"], tmp_path / "run") == 0
    assert capsys.readouterr().out == ""


def test_the_profile_computes_as_the_run_does(tmp_path, capsys, monkeypatch):
    from convofconv.lab.training.module import Training

    honest, seen = Training.loss, set()

    def loss(self, images, target):
        found = honest(self, images, target)
        seen.add((len(images), torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")))
        return found

    monkeypatch.setattr(Training, "loss", loss)
    options = [
        "--training.precision=bf16-mixed",
        "--training.batch=32",
        "--training.accumulate=2",
        "--machine.devices=2",
        "--machine.nodes=2",
    ]
    assert fit([*CLASSIFY, *options, "--profile"], tmp_path / "run") == 0
    assert seen == {(4, torch.bfloat16)}
    assert "one of 4 processes" in capsys.readouterr().out
