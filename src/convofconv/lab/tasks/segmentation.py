"""Segmentation: a class for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ...errors import ConfigError, listing
from ..data.build_data import DataSets, EvaluationData, image_evaluation, image_sets
from ..data.decoding import VOID
from ..data.splits import check_masks_show_objects
from ..drawing.canvas import palette, percent
from ..drawing.region_drawing import draw_regions
from ..metrics.segmentation_metrics import SegmentationMetrics
from ..models.fcn import build_fcn
from . import Answer, Task, six_digits

if TYPE_CHECKING:
    from ..metrics.base import Metrics
    from ..predict.finished_run import FinishedRun
    from ..recipe.schema import DataRecipe, Recipe


class Segmentation(Task):
    """A fully convolutional network, cross-entropy over the pixels that are not void, and the mean IoU."""

    target = "mask"
    keys: tuple[str, ...] = (
        *("data.crop", "data.resize", "data.scale", "data.random_resized_crop", "data.padding", "data.photometric"),
        *("data.mask_resize", "data.focus", "model.dropout", "model.output_stride", "model.head_channels"),
        "training.label_smoothing",
    )
    backbone = "backbone."

    def build_data(self, recipe: DataRecipe, seed: int) -> DataSets:
        # Of the mean colour, which is 0 to the network except where data.photometric varies it with the image.
        outside = [round(255 * mean) for mean in recipe.mean]
        return image_sets(recipe, self.target, seed, outside, check_masks_show_objects)

    def build_evaluation(self, recipe: DataRecipe, split: str) -> EvaluationData:
        return image_evaluation(recipe, self.target, split)

    def build_network(self, recipe: Recipe, classes: int) -> nn.Module:
        return build_fcn(recipe.model, classes)

    def loss(self, network: nn.Module, images: Any, target: Any, recipe: Recipe) -> Tensor:
        """The mean over pixels that are not void; zero where a batch has no others.

        Pixels count the same in all processes, which average their gradients: each divides by the mean of their
        numbers.
        """
        logits, smoothing = network(images), recipe.training.label_smoothing
        # torch's own mean over no pixels is no number, and would end the run as diverged.
        counted = _mean_over_processes((target != VOID).sum()).clamp_min(1)
        summed = F.cross_entropy(logits, target, ignore_index=VOID, reduction="sum", label_smoothing=smoothing)
        return summed / counted

    def build_metrics(self, recipe: Recipe, classes: Sequence[str]) -> Metrics:
        if unknown := [name for name in recipe.data.focus if name not in classes]:
            raise ConfigError(f"data.focus: no class is called {listing(unknown)}; there are {listing(classes)}")
        return SegmentationMetrics(len(classes), [classes.index(name) for name in recipe.data.focus])

    def answer(self, run: FinishedRun, image: Image.Image, score: float, top: int) -> Answer:
        logits = run.outputs(image)
        size = (image.height, image.width)
        if logits.shape[-2:] != size:
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        numbers = logits[0].argmax(0).byte().cpu().numpy()
        counts = np.bincount(numbers.ravel(), minlength=len(run.classes))
        order = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
        shares = {label: counts[label] / numbers.size for label in order}
        background = run.classes[0] == "background"
        mask = Image.fromarray(numbers)
        mask.putpalette([part for colour in palette(background) for part in colour])
        entries = {"shares": {run.classes[label]: six_digits(share) for label, share in shares.items()}}
        printed = listing(f"{run.classes[label]} ({percent(share)})" for label, share in shares.items())
        return Answer(draw_regions(image, mask, run.classes, shares, background), printed, entries, mask)


def _mean_over_processes(count: Tensor) -> Tensor:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return count
    mean = count.float()
    torch.distributed.all_reduce(mean)
    return mean / torch.distributed.get_world_size()


TASK = Segmentation()
