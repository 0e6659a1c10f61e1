"""Metrics of segmentation, over all processes of a run (torchmetrics)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from ...errors import ConfigError
from ..data.decoding import VOID
from .base import Metrics, percent


class SegmentationMetrics(Metrics):
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
            "mIoU": percent(torch.nanmean(iou)),
            "mAcc": percent(torch.nanmean(accuracy)),
            "aAcc": percent(right.sum() / table.sum()),
        }
        # By the masks, not by what is predicted, so that every epoch has the same figures.
        if truth[self.focus].any():
            values["mIoU_focus"] = percent(torch.nanmean(iou[self.focus]))
        return values

    def by_class(self) -> dict[str, list[float]]:
        """IoU of every class in per cent, NaN for those without."""
        table = self.confusion.compute().cpu().double()
        right = table.diagonal()
        return {"IoU": (100 * right / (table.sum(1) + table.sum(0) - right)).tolist()}
