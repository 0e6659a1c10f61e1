"""Metrics of classification, over all processes of a run (torchmetrics)."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassStatScores

from .base import Metrics, percent


class ClassificationMetrics(Metrics):
    """Share of images whose class is the first guess, or among the first five.

    Shape:
        - logits: ``(N, classes)``
        - target: ``(N,)``
    """

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
        return {"top1": percent(self.top1.compute()), "top5": percent(self.top5.compute())}

    def by_class(self) -> dict[str, list[float]]:
        """Share of every class's images that are recognized, in per cent, NaN for those without."""
        counts = self.counts.compute().cpu().double()  # Apple's GPUs have no float64; per class: right, wrong, ..., all
        return {"top1": (100 * counts[:, 0] / counts[:, -1]).tolist()}
