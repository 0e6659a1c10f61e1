"""Training runs small enough for tests, through the command line on tiny built-in data, and what they ask of them."""

import json
import sys
from pathlib import Path

from convofconv.cli import main

CLASSIFY = [
    "digits-resnet18",
    "--model.backbone=mobilenetv3_small_050",
    "--model.small_images=false",
    "--model.options={}",
    "--data.limit=96",
    "--training.batch=16",
    "--training.epochs=2",
    "--training.warmup_steps=0",
    "--machine.threads=1",
    "--machine.accelerator=cpu",
]
#: Whose kernels have colours and groups, for what looks into networks.
LOOK_INTO = [
    "digits-resnet18",
    "--model.options={'channels': [8, 8, 8, 8]}",
    "--data.limit=96",
    "--training.batch=16",
    "--training.epochs=2",
    "--training.warmup_steps=0",
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
    "--training.warmup_steps=0",
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
    "--training.warmup_steps=1",
    "--machine.threads=1",
    "--machine.accelerator=cpu",
]
DETECT = ["scenes-retinanet-resnet18", *_SMALL_DETECTOR]
INSTANCES = ["scenes-maskrcnn-resnet18", *_SMALL_DETECTOR, "--model.rois=16"]


def fit(arguments, out):
    return main(["fit", *arguments, f"--out={out}"])


def command(arguments, out):
    return [sys.executable, "-m", "convofconv.cli", "fit", *arguments, f"--out={out}"]


def results(out):
    found = json.loads((Path(out) / "results.json").read_text())
    return {key: value for key, value in found.items() if key not in ("seconds", "cpu_seconds", "command", "versions")}
