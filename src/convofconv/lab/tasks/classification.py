"""Classification: a class for every image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ...errors import listing
from ..data.build_data import DataSets, EvaluationData, EvaluationSet, Size, image_evaluation, image_sets
from ..drawing.canvas import percent
from ..drawing.class_chart import draw_chart
from ..metrics.classification_metrics import ClassificationMetrics
from ..models.classifier import build_classifier, check_classifies
from ..recipe.schema import find_source
from . import Answer, Task, six_digits

if TYPE_CHECKING:
    from ..metrics.base import Metrics
    from ..predict.finished_run import FinishedRun
    from ..recipe.schema import DataRecipe, Recipe


class Classification(Task):
    """A classifier, cross-entropy, and the share of images that are recognized."""

    target = "label"
    keys: tuple[str, ...] = (
        *("data.crop", "data.resize", "data.scale", "data.random_resized_crop", "data.padding", "data.photometric"),
        *("data.eval_crop", "model.dropout", "model.small_images", "training.label_smoothing"),
    )
    one_size = True
    prints_classes = False

    def build_data(self, recipe: DataRecipe, seed: int) -> DataSets:
        sets = image_sets(recipe, self.target, seed)
        return dataclasses.replace(sets, evaluated_sizes=_sizes(recipe, sets.val))

    def build_evaluation(self, recipe: DataRecipe, split: str) -> EvaluationData:
        data = image_evaluation(recipe, self.target, split)
        return dataclasses.replace(data, sizes=_sizes(recipe, data.images))

    def build_network(self, recipe: Recipe, classes: int) -> nn.Module:
        return build_classifier(recipe.model, classes)

    def check_outputs(self, network: nn.Module, recipe: Recipe, classes: int, height: int, width: int) -> None:
        check_classifies(network, recipe.model.backbone, classes, height, width)

    def loss(self, network: nn.Module, images: Any, target: Any, recipe: Recipe) -> Tensor:
        return F.cross_entropy(network(images), target, label_smoothing=recipe.training.label_smoothing)

    def build_metrics(self, recipe: Recipe, classes: Sequence[str]) -> Metrics:
        return ClassificationMetrics(len(classes))

    def answer(self, run: FinishedRun, image: Image.Image, score: float, top: int) -> Answer:
        shown = _at_training_size(run, image)
        shares = run.outputs(shown)[0].cpu().double().softmax(0)
        values, labels = shares.topk(min(top, len(run.classes)))
        guesses = [(run.classes[label], value) for label, value in zip(labels.tolist(), values.tolist(), strict=True)]
        entries: dict[str, Any] = {
            "classes": [{"class": name, "probability": six_digits(value)} for name, value in guesses]
        }
        if shown is not image:
            entries["resized_to"] = list(shown.size)
        printed = listing((f"{name} ({percent(value)})" for name, value in guesses), top)
        return Answer(draw_chart(image, guesses), printed, entries)


def _sizes(recipe: DataRecipe, images: EvaluationSet) -> list[Size]:
    """Sizes that a network must take, which may be made for one alone."""
    height, width = images[0][0].shape[-2:]
    if find_source(recipe.name).any_size and not recipe.eval_crop:  # they are looked at one by one
        return [(height, width), (height + 1, width + 1)]
    return [(height, width)]


def _at_training_size(run: FinishedRun, image: Image.Image) -> Image.Image:
    """Scaled down to about what the network has seen, where its recipe says nothing else: a photo is no digit."""
    data, shorter = run.recipe.data, min(image.size)
    if data.eval_resize or data.eval_crop or shorter <= 2 * min(data.crop):
        return image
    width, height = (max(1, round(side * min(data.crop) / shorter)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3)


TASK = Classification()
