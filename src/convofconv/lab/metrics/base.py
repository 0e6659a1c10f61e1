"""What the metrics of a task give; they are kept and gathered over all processes by torchmetrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class Metrics(nn.Module, ABC):
    """Percentages over all batches counted since the last reset; higher is better."""

    #: The name of the one that the best epoch is chosen by, and that the progress bar shows.
    main: str

    @abstractmethod
    def update(self, outputs: Any, target: Any) -> None:
        """Count a batch: what the network puts out in evaluation, and what would be right."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Percentages by name, :attr:`main` among them.

        Raises:
            ConfigError: nothing that could be right or wrong was counted.
        """

    def by_class(self) -> dict[str, list[float]]:
        """Percentages of every class, NaN for those without; none by default."""
        return {}

    def remark(self) -> str:
        """What to know about the figures; empty if nothing."""
        return ""

    def reset(self) -> None:
        """Start counting anew."""
        for part in self.children():
            part.reset()  # type: ignore[operator]


def percent(share: Tensor) -> float:
    """A share in per cent, of as many digits as float32 has."""
    return round(100 * share.item(), 5)
