"""Metrics of the tasks, as the field defines them, over all processes of a run (torchmetrics)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassStatScores

from ...errors import ConfigError, listing
from ..data.decoding import VOID
from ..recipe.schema import DETECTION_TASKS, Recipe
from .coco_metrics import DetectionMetrics


class ClassificationMetrics(nn.Module):
    """Share of pictures whose class is the first guess, or among the first five.

    Shape:
        - logits: ``(N, classes)``
        - target: ``(N,)``
    """

    #: What the best epoch is chosen by, and the progress bar shows.
    main = "top1"

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.top1 = MulticlassAccuracy(classes, average="micro")
        self.top5 = MulticlassAccuracy(classes, average="micro", top_k=min(5, classes))
        self.counts = MulticlassStatScores(classes, average="none")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count a batch."""
        self.top1.update(logits, target)
        self.top5.update(logits, target)
        self.counts.update(logits, target)

    def compute(self) -> dict[str, float]:
        """Percentages over everything counted."""
        return {"top1": _percent(self.top1.compute()), "top5": _percent(self.top5.compute())}

    def by_class(self) -> dict[str, list[float]]:
        """Share of every class's pictures that are recognised, in per cent, NaN for those without."""
        counts = self.counts.compute().cpu().double()  # Apple's GPUs have no float64; per class: right, wrong, ..., all
        return {"top1": (100 * counts[:, 0] / counts[:, -1]).tolist()}

    def reset(self) -> None:
        """Start counting anew."""
        self.counts.reset()
        self.top1.reset()
        self.top5.reset()


class SegmentationMetrics(nn.Module):
    """Mean IoU, mean and overall pixel accuracy, pixels that are :data:`VOID` left out.

    A class that is neither in any mask nor predicted anywhere has no IoU, one that is in no mask has no accuracy: the
    means are over the others, as mmsegmentation and the VOC toolkits do.

    Args:
        classes: number of classes.
        focus: numbers of classes that have a second mean IoU, ``mIoU_focus``; none by default. It is left out if all of
            them are in no mask.

    Shape:
        - logits: ``(N, classes, H, W)``
        - target: ``(N, H, W)``
    """

    main = "mIoU"

    def __init__(self, classes: int, focus: Sequence[int] = ()) -> None:
        super().__init__()
        self.focus = list(focus)
        self.confusion = MulticlassConfusionMatrix(classes, ignore_index=VOID)

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count a batch."""
        self.confusion.update(logits.argmax(1), target)

    def compute(self) -> dict[str, float]:
        """Percentages over everything counted.

        Raises:
            ConfigError: all of it is void.
        """
        table = self.confusion.compute().cpu().double()  # rows: truth, columns: prediction
        right, truth, predicted = table.diagonal(), table.sum(1), table.sum(0)
        if not truth.any():
            raise ConfigError("there is no IoU, for every pixel of the evaluated masks is void; evaluate another split")
        iou, accuracy = right / (truth + predicted - right), right / truth
        values = {
            "mIoU": _percent(torch.nanmean(iou)),
            "mAcc": _percent(torch.nanmean(accuracy)),
            "aAcc": _percent(right.sum() / table.sum()),
        }
        # By the masks, not by what is predicted, so that every epoch has the same figures.
        if truth[self.focus].any():
            values["mIoU_focus"] = _percent(torch.nanmean(iou[self.focus]))
        return values

    def by_class(self) -> dict[str, list[float]]:
        """IoU of every class in per cent, NaN for those without."""
        table = self.confusion.compute().cpu().double()
        right = table.diagonal()
        return {"IoU": (100 * right / (table.sum(1) + table.sum(0) - right)).tolist()}

    def reset(self) -> None:
        """Start counting anew."""
        self.confusion.reset()


Metrics = ClassificationMetrics | SegmentationMetrics | DetectionMetrics


def build_metrics(recipe: Recipe, classes: Sequence[str]) -> Metrics:
    """The metrics of a recipe's task.

    Raises:
        ConfigError: the data has no class of a name in ``data.focus``.
    """
    if recipe.task == "classification":
        return ClassificationMetrics(len(classes))
    if recipe.task in DETECTION_TASKS:
        masks = recipe.task == "instance_segmentation"
        return DetectionMetrics(len(classes), masks, recipe.model.max_detections)
    if unknown := [name for name in recipe.data.focus if name not in classes]:
        raise ConfigError(f"data.focus: no class is called {listing(unknown)}; there are {listing(classes)}")
    return SegmentationMetrics(len(classes), [classes.index(name) for name in recipe.data.focus])


def _percent(share: Tensor) -> float:
    return round(100 * share.item(), 5)  # float32 has no more
