"""Weight standardization, as a function and as a kernel map."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..config import Config
from ..errors import ConfigError
from ..functional.memory_format import match_layout
from .kernel_map import Conv, KernelMap, Stack


def standardize(weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Give every kernel zero mean and unit (unbiased) deviation, ``(W - mean) / (std + eps)``.

    Source: Qiao et al., *Micro-Batch Training with Batch-Channel Normalization and Weight Standardization*, 2019.

    Shape:
        - weight: ``(co, ...)``; the statistics run over all axes but the first, in float32 at least
        - result: as ``weight``

    Examples:
        >>> standardize(torch.tensor([[1.0, 3.0]]), eps=0.0)
        tensor([[-0.7071,  0.7071]])
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    std, mean = torch.std_mean(wide, dim=tuple(range(1, weight.dim())), keepdim=True)
    return ((wide - mean) / (std + eps)).to(weight.dtype)


class Standardization(KernelMap):
    """Weight standardization: every kernel to zero mean and unit deviation (:func:`standardize`).

    It is not onto, so it has no ``right_inverse``: it cannot start from an arbitrary weight.

    Args:
        eps: added to the deviation.

    Shape:
        - weight: ``(co, ci / groups, k_1, ..., k_d)``, at least two numbers per kernel
        - result: as ``weight``

    Examples:
        >>> Standardization()(torch.randn(8, 3, 3, 3)).std(dim=(1, 2, 3)).round()
        tensor([1., 1., 1., 1., 1., 1., 1., 1.])
    """

    changes_scale = True

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    @classmethod
    def for_conv(cls, conv: Conv, config: Config) -> Standardization:
        if conv.weight[0].numel() == 1:
            raise ConfigError("a kernel of a single number (depthwise 1×1) cannot be standardized; leave this conv out")
        return cls()

    def settings(self) -> dict[str, object]:
        return {"eps": self.eps}

    @classmethod
    def from_settings(cls, conv: Conv, settings: dict[str, Any]) -> Standardization:
        return cls(**settings)

    def forward(self, weight: Tensor) -> Tensor:
        return match_layout(standardize(weight, self.eps), weight)

    def batch_key(self) -> Hashable:
        return self.eps

    @classmethod
    def batched(cls, maps: Sequence[Standardization], kernels: Tensor, stack: Stack) -> Tensor:
        return maps[0](kernels)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"eps={self.eps}"
