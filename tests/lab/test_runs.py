"""Whole training runs through the command line, on tiny built-in data."""

import csv
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from coco_files import write_squares
from PIL import Image
from safetensors.torch import load_file, save_file

import convofconv as coc
from convofconv.cli import main
from convofconv.lab.recipe import DETECTION_TASKS
from convofconv.lab.runs.checkpoints import AtomicCheckpoints
from convofconv.lab.runs.finish import versions
from convofconv.lab.runs.folder import RunFolder
from convofconv.lab.runs.options import FOLDER

CLASSIFY = [
    "digits-resnet18",
    "--model.backbone=mobilenetv3_small_050",
    "--model.small_images=false",
    "--model.options={}",
    "--data.limit=96",
    "--training.batch=16",
    "--training.epochs=2",
    "--machine.threads=1",
    "--machine.accelerator=cpu",
]
SEGMENT = [
    "scenes-fcn-resnet18",
    "--model.options={'channels': [8, 8, 8, 8]}",
    "--model.head_channels=8",
    "--data.limit=16",
    "--data.crop=[32, 32]",
    "--training.batch=8",
    "--training.epochs=2",
    "--machine.threads=1",
    "--machine.accelerator=cpu",
]

_SMALL_DETECTOR = [
    # Without batch norm, whose running averages lag behind in so few steps.
    "--model.options={'channels': [8, 8, 8, 8], 'stem_type': 'deep', 'stem_width': 4, 'norm_layer': 'groupnorm1'}",
    "--model.fpn_channels=16",
    "--data.eval_resize=64",
    "--data.limit=16",
    "--data.shorter=[48, 64]",
    "--data.flip=true",
    "--training.batch=8",
    "--training.epochs=2",
    "--training.warmup_steps=2",
    "--machine.threads=1",
    "--machine.accelerator=cpu",
]
DETECT = ["scenes-retinanet-resnet18", *_SMALL_DETECTOR]
INSTANCES = ["scenes-maskrcnn-resnet18", *_SMALL_DETECTOR, "--model.rois=16"]


def fit(arguments, out):
    return main(["fit", *arguments, f"--out={out}"])


@pytest.fixture(scope="session")
def squares(tmp_path_factory):
    """Data that a small detector learns to find something in within an epoch, so that its figures are no zeros."""
    root = write_squares(tmp_path_factory.mktemp("squares"), train=128, val=8)
    options = ["--data.name=coco", f"--data.root={root}", "--data.classes=3", "--data.limit=128"]
    return [*options, "--training.batch=2", "--training.schedule=constant"]


def results(out):
    found = json.loads((Path(out) / "results.json").read_text())
    return {key: value for key, value in found.items() if key not in ("seconds", "cpu_seconds", "command", "versions")}


@pytest.mark.parametrize("method", ["plain", "stnd", "orth", "coc", "coc+stnd", "coc+orth"])
@pytest.mark.parametrize(
    "recipe",
    [CLASSIFY, SEGMENT, DETECT, INSTANCES],
    ids=["classification", "segmentation", "detection", "instance_segmentation"],
)
def test_every_task_and_method_trains_folds_and_evaluates(recipe, method, squares, tmp_path, capsys):
    if detects := recipe in (DETECT, INSTANCES):
        recipe = [*recipe, *squares]
    assert fit([*recipe, f"--method={method}", "--training.epochs=1"], tmp_path / "run") == 0
    found = results(tmp_path / "run")
    assert found["recipe"]["method"] == method
    assert not detects or found["test"]["folded"][f"{found['metric']}50"] > 10
    assert found["test"]["folded"] == pytest.approx(found["test"]["as_trained"], abs=2)
    assert found["largest_difference_after_folding"] < 1e-4
    assert all(len(values) == len(found["classes"]) for values in found["test_by_class"].values())
    folded = load_file(tmp_path / "run" / "model.safetensors")
    assert not any("parametrizations" in key for key in folded)
    assert (tmp_path / "run" / "converted.safetensors").exists() == (method != "plain")
    assert found["parameters"]["folded"] <= found["parameters"]["as_trained"]
    capsys.readouterr()
    assert main(["validate", *recipe, f"--method={method}", "--training.epochs=1", f"--out={tmp_path / 'run'}"]) == 0
    shown = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    main_metric = found["metric"]
    name, of_classes = list(found["test_by_class"].items())[-1]
    for label, value in zip(found["classes"], of_classes, strict=True):
        told = shown.get(f"val {name} of {label}")
        assert (told is None) == (value is None or recipe == CLASSIFY)
        assert told is None or float(told) == pytest.approx(value, abs=2)
    assert float(shown[f"val {main_metric}"]) == pytest.approx(found["validation"][main_metric], abs=2)


def test_a_run_learns(tmp_path):
    """Not a stub: 4,000 digits for two epochs, and most of the others are recognised."""
    options = ["--data.limit=0", "--training.batch=64", "--training.lr=0.1", "--training.warmup_steps=10"]
    narrow = ["--model.backbone=resnet10t", "--model.options={'channels': [16, 16, 32, 32]}", "--training.epochs=3"]
    assert fit([*CLASSIFY, *options, *narrow, "--method=coc"], tmp_path / "run") == 0
    assert results(tmp_path / "run")["test"]["folded"]["top1"] > 80


def test_the_commit_is_that_of_the_code_and_not_of_a_repository_around_it(tmp_path, monkeypatch):
    from convofconv.lab.runs import finish as module

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


def test_the_log_has_a_line_per_epoch_and_the_curves_are_a_picture(tmp_path):
    assert fit(CLASSIFY, tmp_path / "run") == 0
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["step"] for row in rows] == ["6", "12"]
    assert (tmp_path / "run" / "curves.png").read_bytes()[:4] == b"\x89PNG"


def command(arguments, out):
    return [sys.executable, "-m", "convofconv.cli", "fit", *arguments, f"--out={out}"]


def kill_at(arguments, out, moment):
    """Start or go on with a run, and kill it when ``moment()`` is true."""
    process = subprocess.Popen(
        [*command(arguments, out), "--resume"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 300
    while process.poll() is None and not moment():
        assert time.monotonic() < deadline, "the run never came to that moment"
        time.sleep(0.001)
    ended = process.poll()
    assert ended is None, f"the run ended before it was killed:\n{process.stdout.read()}"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
@pytest.mark.parametrize(
    ("recipe", "batch"),
    [([*CLASSIFY, "--model.dropout=0.2", "--training.accumulate=2"], 16), (INSTANCES, 4)],
    ids=["classification", "instance_segmentation"],
)
def test_killed_three_times_and_resumed_equals_never_killed(recipe, batch, tmp_path):
    """In mid-epoch after a random step, while a checkpoint is being written, and after an epoch."""
    arguments = [*recipe, "--method=coc", "--training.epochs=3", "--training.checkpoint_steps=1"]
    arguments += ["--data.flip=true", "--training.ema=0.9", f"--data.limit={6 * batch}", f"--training.batch={batch}"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def written(name, times=1):
        path = broken / name
        seen = {"mtime": path.stat().st_mtime_ns if path.exists() else 0, "count": 0}

        def moment():
            now = path.stat().st_mtime_ns if path.exists() else 0
            if now != seen["mtime"]:
                seen.update(mtime=now, count=seen["count"] + 1)
            return seen["count"] >= times

        return moment

    kill_at(arguments, broken, written("last.ckpt", random.randint(2, 4)))
    kill_at(arguments, broken, lambda: any(broken.glob(".last.ckpt.*.part")))
    kill_at(arguments, broken, written("metrics.csv"))
    assert subprocess.run([*command(arguments, broken), "--resume"], capture_output=True).returncode == 0
    assert subprocess.run(command(arguments, whole), capture_output=True).returncode == 0
    assert (broken / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    for name in ("model.safetensors", "converted.safetensors"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    assert results(broken) == results(whole)
    assert not list(broken.glob(".*.part")), "left by the kills"


def test_no_checkpoint_is_between_gradients_that_are_accumulated(tmp_path, monkeypatch):
    """Gradients are in no checkpoint: a run that goes on from there would lose some."""
    honest, batches = AtomicCheckpoints.save_checkpoint, []

    def save(self, checkpoint, path, storage_options=None):
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
        batches.append((progress["processed"], checkpoint["global_step"]))
        honest(self, checkpoint, path, storage_options)

    monkeypatch.setattr(AtomicCheckpoints, "save_checkpoint", save)
    options = ["--data.limit=96", "--training.batch=32", "--training.accumulate=2", "--training.checkpoint_steps=1"]
    assert fit([*CLASSIFY, *options], tmp_path / "run") == 0
    inside = [(batch, step) for batch, step in batches if batch % 6]
    assert inside == [(2, 1), (4, 2), (2, 4), (4, 5)]


def test_the_best_epoch_is_the_one_whose_network_is_kept(tmp_path):
    """Killed behind an epoch that was the best, and gone on with, another epoch may become the best in the history."""
    run = tmp_path / "run"
    assert fit(CLASSIFY, run) == 0
    history = results(run)["history"]
    for kept in (1, 2):
        best = torch.load(run / "best.ckpt", weights_only=True)
        torch.save({**best, "history": history[:kept]}, run / "best.ckpt")
        (run / "results.json").unlink()
        assert fit([*CLASSIFY, "--resume"], run) == 0
        assert (results(run)["best_epoch"], results(run)["validation"]) == (kept, history[kept - 1])


_WITHOUT_NORM = [
    *CLASSIFY,
    "--model.backbone=resnet18",
    "--model.options={'channels': [32, 32, 32, 32], 'norm_layer': 'groupnorm'}",
]


# A process group that is left to the end of Python aborts a run now and then.
_PARTED = """
import torch.distributed
from convofconv.cli import main

code = main()
assert not torch.distributed.is_initialized(), "still bound to the other process"
raise SystemExit(code)
"""


def by_torchrun(arguments, out):
    script = out.parent / "parted.py"
    script.write_text(_PARTED)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    return subprocess.run([*launcher, *command(arguments, out)[3:]], capture_output=True, text=True, timeout=300)


def by_slurm(arguments, out, places=(None, None)):
    """What srun does: two processes that know each other by SLURM's variables alone, each in its own place."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    common |= {"SLURM_JOB_NAME": "coc", "SLURM_JOB_ID": "1", "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            command(arguments, out),
            cwd=places[rank],
            env={**os.environ, **common, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [process.communicate(timeout=300)[1] for process in processes]
    codes = [process.returncode for process in processes]
    return subprocess.CompletedProcess([], max(codes, key=abs), stderr="".join(told))


@pytest.mark.parametrize(
    ("recipe", "limit", "launch"),
    [
        ([*_WITHOUT_NORM, "--training.ema=0.9"], 95, by_torchrun),
        (_WITHOUT_NORM, 95, by_slurm),
        (DETECT, 63, by_torchrun),
    ],
    ids=["classification", "slurm", "detection"],
)
def test_two_processes_train_as_one_does(recipe, limit, launch, squares, tmp_path):
    """With the same global batch and without batch norm: only the order of sums differs.

    An odd number of pictures, that a sampler which pads would round up. Mask R-CNN draws the boxes that it learns from
    at random in every process, so its two cannot equal one.
    """
    # So many steps let rounding grow, and a box may cross a threshold of overlap.
    data, rounding, slack = (squares, 1e-3, 2) if recipe == DETECT else ([], 1e-4, 0)
    arguments = [*recipe, *data, "--method=coc", "--training.epochs=1", f"--data.limit={limit}"]
    alone = subprocess.run(command(arguments, tmp_path / "one"), capture_output=True, text=True, timeout=300)
    for done in (alone, launch(arguments, tmp_path / "two")):
        assert done.returncode == 0, done.stderr
    one, both = (load_file(tmp_path / name / "converted.safetensors") for name in ("one", "two"))
    for key, value in one.items():
        assert (both[key].double() - value.double()).abs().max() <= rounding * value.double().abs().max() + 1e-6, key
    for kind, found in results(tmp_path / "two")["test"].items():
        assert found == pytest.approx(results(tmp_path / "one")["test"][kind], abs=slack)
        assert recipe != DETECT or found["AP50"] > 10
    assert results(tmp_path / "two")["recipe"]["machine"]["devices"] == 2


def test_machines_that_share_no_folder_are_told_before_they_train(tmp_path):
    places = [tmp_path / "first", tmp_path / "second"]
    for place in places:
        place.mkdir()
    done = by_slurm([*CLASSIFY, "--training.epochs=1"], "run", places)
    assert done.returncode == 2, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("coc: ")]
    assert len(told) == 2
    assert all(line.startswith("coc: --out must be a folder that all processes share") for line in told)
    assert not (places[0] / "run" / "last.ckpt").exists()


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


def test_a_finished_run_is_not_run_over(tmp_path, capsys):
    assert fit([*CLASSIFY, "--training.epochs=1"], tmp_path / "run") == 0
    assert fit([*CLASSIFY, "--training.epochs=1"], tmp_path / "run") == 2
    assert "holds a run already: go on with it by --resume, or choose another --out" in capsys.readouterr().err


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("option", ["machine.accelerator=gpu", "training.precision=16-mixed"])
def test_what_needs_a_gpu_is_told_where_there_is_none(option, tmp_path, capsys):
    recipe = [argument for argument in CLASSIFY if "accelerator" not in argument]
    assert fit([*recipe, f"--{option}"], tmp_path / "run") == 2
    assert f"{option.replace('=', ' ')} needs a GPU, and torch finds none here" in capsys.readouterr().err
    assert fit([*recipe, "--training.epochs=1"], tmp_path / "run") == 0, "what never began is no run"


def test_a_start_that_failed_does_not_block_its_folder(tmp_path, capsys):
    assert fit([*CLASSIFY, "--training.batch=100"], tmp_path / "run") == 2
    assert "training.batch must be at most the number of training pictures, 96" in capsys.readouterr().err
    assert fit([*CLASSIFY, "--training.epochs=1"], tmp_path / "run") == 0


def image_folder(root, classes):
    for split in ("train", "val"):
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for place in range(4):
                size = (24, 20) if place % 2 else (20, 28)
                Image.new("RGB", size, (80 * number, 40 * place, 99)).save(root / split / name / f"{place}.png")
    return [
        f"--data.root={root}",
        "--data.name=image_folder",
        f"--data.classes={len(classes)}",
        "--data.eval_resize=16",
    ]


def test_classes_of_other_names_are_not_taken_for_those_that_were_learnt(tmp_path, capsys):
    """On pictures of several sizes, which are evaluated as they are."""
    recipe = [*CLASSIFY, "--training.batch=8", "--data.train_split=train"]
    own = image_folder(tmp_path / "own", ["ant", "bee"])
    assert fit([*recipe, *own, "--training.epochs=1"], tmp_path / "run") == 0
    renamed = image_folder(tmp_path / "renamed", ["bee", "zebra"])
    capsys.readouterr()
    assert main(["test", *recipe, *renamed, "--training.epochs=1", f"--out={tmp_path / 'run'}"]) == 2
    message = "class 0 is 'bee' here, and 'ant' in the data that the run has learnt from"
    assert message in capsys.readouterr().err
    assert fit([*recipe, *renamed, "--training.epochs=1", "--resume"], tmp_path / "run") == 2
    assert message in capsys.readouterr().err
    assert fit([*recipe, *own, "--training.epochs=1", "--resume"], tmp_path / "run") == 0


def test_two_processes_do_not_work_in_one_folder(tmp_path, capsys):
    with RunFolder(tmp_path / "run").at_work(timeout=0):
        process = subprocess.run(command(CLASSIFY, tmp_path / "run"), capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert "another process is at work on this run" in process.stderr


def test_ctrl_c_says_how_to_go_on(tmp_path):
    log = tmp_path / "run" / "metrics.csv"
    long = [*CLASSIFY, "--training.epochs=500"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # shells have what they put aside ignore it
    process = subprocess.Popen(command(long, tmp_path / "run"), stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    while not log.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"interrupted; coc fit {tmp_path / 'run'} --resume goes on from its last checkpoint" in told
    assert "Traceback" not in told


def test_the_folder_of_a_run_stands_for_its_recipe_and_what_was_overruled(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fit([*CLASSIFY, "--method=coc", "--training.epochs=3"], "whole") == 0
    capsys.readouterr()
    for split in ("val", "test"):
        assert main(["validate" if split == "val" else "test", "whole", "--machine.threads=2"]) == 0
        found = results("whole")["validation" if split == "val" else "test"]
        found = found.get("folded", found)
        assert f"{split} top1: {found['top1']:.2f}" in capsys.readouterr().out
    assert main(["fit", "whole"]) == 2
    assert "whole holds a run already" in capsys.readouterr().err
    assert main(["fit", "whole", "--resume", "--training.lr=0.5"]) == 2
    assert "training.lr=0.1 there, 0.5 here" in capsys.readouterr().err
    assert main(["fit", "whole", "--out=again"]) == 0
    assert results("again") == results("whole")
    of_another = {key: value.flatten()[:1] for key, value in load_file("again/model.safetensors").items()}
    save_file(of_another, "again/model.safetensors")
    capsys.readouterr()
    assert main(["test", "again"]) == 2
    assert "again/model.safetensors: not the network of recipe.json: size mismatch" in capsys.readouterr().err


def test_a_run_of_another_recipe_is_not_gone_on_with(tmp_path, capsys):
    assert fit([*CLASSIFY, "--training.epochs=1"], tmp_path / "run") == 0
    assert fit([*CLASSIFY, "--training.epochs=1", "--training.lr=0.5", "--resume"], tmp_path / "run") == 2
    assert "holds a run of another recipe: training.lr=0.1 there, 0.5 here" in capsys.readouterr().err


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path, capsys, monkeypatch):
    from convofconv.lab.tasks.module import Training

    honest = Training.loss
    steps = []

    def loss(self, logits, target):
        steps.append(1)
        return honest(self, logits, target) * (float("nan") if len(steps) == 9 else 1)

    monkeypatch.setattr(Training, "loss", loss)
    assert fit(CLASSIFY, tmp_path / "run") == 2
    message = capsys.readouterr().err
    assert "the loss is nan at batch 3 of epoch 2 (step 8). The last checkpoint is kept" in message
    checkpoint = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6


def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path, capsys, monkeypatch):
    from convofconv.lab.runs import checkpoints

    honest, saves = torch.save, []

    def save(content, path):
        saves.append(1)
        if len(saves) > 2:  # the first epoch writes its best and its last
            Path(path).write_bytes(b"half a file")
            raise OSError(28, "No space left on device")
        honest(content, path)

    monkeypatch.setattr(checkpoints.torch, "save", save)
    assert fit(CLASSIFY, tmp_path / "run") == 2
    assert "the checkpoint cannot be written ([Errno 28] No space left on device); the one before" in (
        capsys.readouterr().err
    )
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == 6
    assert not list((tmp_path / "run").glob(".*.part"))


def test_a_damaged_checkpoint_is_named(tmp_path, capsys):
    assert fit([*CLASSIFY, "--training.epochs=1"], tmp_path / "run") == 0
    (tmp_path / "run" / "last.ckpt").write_bytes(b"half a file")
    assert fit([*CLASSIFY, "--training.epochs=1", "--resume"], tmp_path / "run") == 2
    assert "last.ckpt: not a readable checkpoint" in capsys.readouterr().err


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
    (["fit", "digits-resnet18", "--model.backbone=resnet19"], "resnet"),
    (["fit", "digits-resnet18", "--training.batch=5000"], "training.batch"),
    (["fit", "digits-resnet18", f"--training.seed={1 << 63}"], "training.seed must be less than 2^63"),
    (["fit", "digits-resnet18", "--preset=released"], "preset and association are of the method coc, this is plain"),
    (["fit", "digits-resnet18", "--method=stnd", "--association.grid_side=4"], "give --method coc"),
    (["fit", "digits-resnet18", "--model.output_stride=16"], "model.output_stride says nothing to classification"),
    (["fit", "scenes-fcn-resnet18", "--model.small_images=true"], "model.small_images says nothing to segmentation"),
    (["fit", "scenes-fcn-resnet18", "--data.eval_crop=16"], "data.eval_crop says nothing to segmentation"),
    (["test", "digits-resnet18", "--out=nowhere"], "holds no finished run"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: str(value)[-40:])
def test_mistakes_are_told_in_one_line_before_anything_is_trained(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("coc: ")
    assert told.count("\n") == 1
    assert message in told


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


@pytest.mark.parametrize("method", ["plain", "coc+stnd", "coc+orth"])
@pytest.mark.parametrize("name", [path.stem for path in sorted(FOLDER.glob("*.yaml"))])
def test_every_recipe_trains_a_short_epoch(name, method, tmp_path):
    """On a few built-in pictures of small size, detectors with narrow heads, in place of the recipe's own data.

    The other methods are parts of these, and tested with every task above.
    """
    task = recipe_task(name)
    scenes = task != "classification"
    # Batch norm of so many layers diverges on maps of a single pixel, and at the full rate.
    side = 64 if "hrnet" in name or "imagenet-" in name or task in DETECTION_TASKS else 32
    data = {"name": "digit_scenes", "classes": 11} if scenes else {"name": "digits", "classes": 10}
    data |= {"root": "null", "limit": 4, "eval_resize": side, "train_split": "train", "val_split": "val"}
    data |= {"test_split": "", "focus": "[]", "workers": 0, "download": "false"}
    options = ["--training.batch=2", "--training.eval_batch=4", "--training.epochs=1", "--model.weights="]
    options += ["--training.lr=0.001", "--machine.threads=1", "--machine.accelerator=cpu", f"--method={method}"]
    if task in DETECTION_TASKS:
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


def recipe_task(name):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["task"]


def test_recipes_lists_every_recipe_with_a_line(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list(FOLDER.glob("*.yaml"))) > 10
    assert all(len(line.split("  ", 1)[1].strip()) > 20 for line in lines)


def test_a_network_that_only_evaluation_breaks_is_told(tmp_path, monkeypatch, capsys):
    from convofconv.lab.runs import fit as module

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


def test_a_run_is_verified_where_it_was_trained(tmp_path, monkeypatch):
    """There need be no GPU for this: the strategy says where, and all but the moving itself is as it would be."""
    from convofconv.lab.runs import finish as module
    from convofconv.lab.runs import fit as caller
    from convofconv.lab.tasks.module import Training

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


def test_the_profile_trains_nothing(tmp_path, capsys):
    assert fit([*DETECT, "--profile"], tmp_path / "run") == 0
    told = capsys.readouterr().out
    assert "limited by" in told
    assert "processes" not in told
    assert not (tmp_path / "run").exists()


def test_the_profile_computes_as_the_run_does(tmp_path, capsys, monkeypatch):
    from convofconv.lab.tasks.module import Training

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


def test_converted_weights_load_into_a_converted_network(tmp_path):
    assert fit([*CLASSIFY, "--method=coc", "--training.epochs=1"], tmp_path / "run") == 0
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
