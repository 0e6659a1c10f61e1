"""Depth estimation, a distance for every pixel: a task in one file, the example of CONTRIBUTING.md."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchmetrics import MeanMetric

from convofconv.lab.data.build_data import DataSets, EvaluationData, EvaluationSet, TrainingSet
from convofconv.lab.data.splits import read_split
from convofconv.lab.data.transforms import Transform, evaluation_transform, training_transform
from convofconv.lab.metrics.base import Metrics, percent
from convofconv.lab.tasks import Answer, Task


class DepthMetrics(Metrics):
    """Share of pixels whose distance is wrong by less than a quarter."""

    main = "delta1"

    def __init__(self) -> None:
        super().__init__()
        self.share = MeanMetric()

    def update(self, outputs: Tensor, target: Tensor) -> None:
        found = outputs[:, 0].clamp_min(1e-6)
        self.share.update((torch.maximum(found / target, target / found) < 1.25).float())

    def compute(self) -> dict[str, float]:
        return {"delta1": percent(self.share.compute())}


class Depth(Task):
    """Distances in metres: two convs, the L1 loss, and the share of pixels that are about right."""

    target = "mask"  # of scenes, whose digits are the nearer the larger they are
    keys = ("data.crop",)

    def build_data(self, recipe, seed):
        varied = functools.partial(_measured, training_transform(recipe))
        train = TrainingSet(read_split(recipe, recipe.train_split, self.target), varied, seed)
        val = self.build_evaluation(recipe, recipe.val_split)
        test = self.build_evaluation(recipe, recipe.test_split) if recipe.test_split else val
        return DataSets(train, val.images, test.images, val.classes, trained_size=recipe.crop)

    def build_evaluation(self, recipe, split):
        measured = functools.partial(_measured, evaluation_transform(recipe))
        return EvaluationData(EvaluationSet(read_split(recipe, split, self.target), measured), ("distance",))

    def build_network(self, recipe, classes):
        return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1), nn.Softplus())

    def loss(self, network, images, target, recipe):
        return F.l1_loss(network(images)[:, 0], target)

    def build_metrics(self, recipe, classes):
        return DepthMetrics()

    def answer(self, run, image, score, top):
        distances = run.outputs(image)[0, 0].cpu()
        nearest, farthest = distances.min().item(), distances.max().item()
        drawing = Image.fromarray((255 * distances / farthest).byte().numpy())
        return Answer(drawing, f"{nearest:.2f} to {farthest:.2f} m", {"nearest": nearest, "farthest": farthest})


def _measured(transform: Transform, image: Tensor, mask: Any) -> tuple[Tensor, Tensor]:
    image, classes = transform(image, mask)
    return image, 2 - classes / 10


TASK = Depth()
