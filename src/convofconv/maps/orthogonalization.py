"""Orthogonal kernels as a kernel map."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..config import Config
from ..errors import ConfigError
from ..functional.memory_format import match_layout
from ..functional.precision import no_autocast
from .kernel_map import Conv, KernelMap, Stack


class Orthogonalization(KernelMap):
    """Orthogonal kernels by Newton's iteration (ONI), per group of a grouped convolution.

    Rows are centred, divided by the root of their Gram matrix's Frobenius norm (so that no singular value exceeds 1),
    and multiplied by ``B_T ≈ (V Vᵀ)^(-1/2)`` with ``B ← 1.5 B - 0.5 B³ V Vᵀ``. Where there are more kernels than
    numbers in one (``co > ci·k²``) the iteration runs on the smaller ``Vᵀ V``, with the same result: then the columns
    become orthogonal. It is not onto, so it has no ``right_inverse``.

    Source: Huang et al., *Controllable Orthogonalization in Training DNNs*, CVPR 2020, algorithm 2.

    Args:
        iterations: Newton steps ``T``; more of them give kernels closer to orthogonal.
        scale: factor on the result, √2 for networks with ReLU.
        groups: groups of the convolution.

    Shape:
        - weight: ``(co, ci / groups, k_1, ..., k_d)``
        - result: as ``weight``

    Raises:
        ConfigError: fewer than one iteration, or a scale that is not positive.

    Examples:
        >>> kernels = Orthogonalization(iterations=12, scale=1.0)(torch.randn(4, 3, 3, 3)).flatten(1)
        >>> torch.allclose(kernels @ kernels.T, torch.eye(4), atol=1e-4)
        True
    """

    changes_scale = True

    def __init__(self, iterations: int = 5, scale: float = math.sqrt(2), groups: int = 1) -> None:
        super().__init__()
        if iterations < 1 or scale <= 0:
            raise ConfigError(f"Orthogonalization needs iterations ≥ 1 and scale > 0, got {iterations} and {scale}")
        self.iterations, self.scale, self.groups = iterations, scale, groups

    @classmethod
    def for_conv(cls, conv: Conv, config: Config) -> Orthogonalization:
        if conv.weight[0].numel() == 1:
            raise ConfigError("a kernel of a single number (depthwise 1×1) cannot be centred; leave this conv out")
        return cls(groups=conv.groups)

    def settings(self) -> dict[str, object]:
        return {"iterations": self.iterations, "scale": self.scale, "groups": self.groups}

    @classmethod
    def from_settings(cls, conv: Conv, settings: dict[str, Any]) -> Orthogonalization:
        return cls(**settings)

    def forward(self, weight: Tensor) -> Tensor:
        return self._by_groups(weight, self.groups)

    def batch_key(self) -> Hashable:
        return self.iterations, self.scale, self.groups

    @classmethod
    def batched(cls, maps: Sequence[Orthogonalization], kernels: Tensor, stack: Stack) -> Tensor:
        return maps[0]._by_groups(kernels, len(maps) * maps[0].groups)

    def _by_groups(self, weight: Tensor, groups: int) -> Tensor:
        # Newton's iteration squares rounding errors: at least float32, also under autocast; TF32 where that is allowed.
        with no_autocast(weight.device):
            rows = weight.to(torch.promote_types(weight.dtype, torch.float32)).flatten(1)
            rows = rows.unflatten(0, (groups, -1))  # (groups, kernels, numbers)
            out = self._orthogonalize(rows - rows.mean(-1, keepdim=True))
        return match_layout(out.to(weight.dtype).reshape(weight.shape), weight)

    def _orthogonalize(self, rows: Tensor) -> Tensor:
        wide = rows.shape[1] <= rows.shape[2]
        v = rows if wide else rows.mT
        gram = v @ v.mT
        norm = torch.linalg.matrix_norm(gram, keepdim=True).clamp_min(1e-12)
        gram = gram / norm
        # B ← 1.5 B - 0.5 B³ S, with M = B² S carried along: the uncoupled form amplifies its rounding errors.
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        b, m = identity, gram
        for step in range(self.iterations):
            t = 1.5 * identity - 0.5 * m
            b = b @ t if step else t
            m = t @ m @ t
        out: Tensor = self.scale * (b @ (v / norm.sqrt()))
        return out if wide else out.mT

    def extra_repr(self) -> str:
        return f"iterations={self.iterations}, scale={self.scale:.4g}" + (
            f", groups={self.groups}" if self.groups > 1 else ""
        )
