"""Soft orthogonality: penalties on conv weights to add to a loss, the alternatives to :class:`Orthogonalization`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, ShapeError


def _kernels(weight: Tensor, groups: int) -> Tensor:
    """Kernels as rows, per conv group: ``(groups, co / groups, ci·k_1⋯k_d)``."""
    if weight.dim() < 3:
        raise ShapeError(f"expected a conv weight (co, ci, k_1, ..., k_d), got shape {tuple(weight.shape)}")
    if groups < 1 or weight.shape[0] % groups:
        raise ConfigError(f"groups must divide the {weight.shape[0]} output channels, got {groups}")
    return weight.flatten(1).view(groups, weight.shape[0] // groups, -1)


def _gram_residual(weight: Tensor, groups: int) -> Tensor:
    rows = _kernels(weight, groups)
    return rows @ rows.mT - torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)


def so_penalty(weight: Tensor, groups: int = 1) -> Tensor:
    r"""Soft orthogonality :math:`\lVert W^\top W - I \rVert_F^2` with one kernel per column of ``W``.

    Source: Bansal et al., *Can We Gain More from Orthogonality Regularizations in Training Deep CNNs?*, NeurIPS 2018.

    Shape:
        - weight: ``(co, ci / groups, k_1, ..., k_d)``
        - result: ``()``

    Raises:
        ShapeError: not a conv weight.
        ConfigError: ``groups`` does not divide ``co``.

    Examples:
        >>> so_penalty(torch.eye(4).view(4, 4, 1, 1))
        tensor(0.)
    """
    return _gram_residual(weight, groups).square().sum()


def srip_penalty(weight: Tensor, groups: int = 1, iterations: int = 2) -> Tensor:
    r"""Spectral restricted isometry :math:`\sigma(W^\top W - I)`, its largest singular value by power iteration.

    Every call starts the iteration from a new random vector, as the paper does; the gradient is taken at the vector
    that the iteration found.

    Source: Bansal et al., NeurIPS 2018 (SRIP, two iterations there).

    Shape:
        - weight: ``(co, ci / groups, k_1, ..., k_d)``
        - result: ``()``, the sum over conv groups

    Raises:
        ShapeError: not a conv weight.
        ConfigError: ``groups`` does not divide ``co``, or fewer than one iteration.

    Examples:
        >>> srip_penalty(2 * torch.eye(4).view(4, 4, 1, 1)).round()
        tensor(3.)
    """
    if iterations < 1:
        raise ConfigError(f"srip_penalty needs at least one iteration, got {iterations}")
    residual = _gram_residual(weight, groups)
    with torch.no_grad():
        v = torch.randn(*residual.shape[:2], 1, dtype=residual.dtype, device=residual.device)
        for _ in range(iterations):
            v = F.normalize(residual @ v, dim=1)
    # |vᵀ R v| is the same at an eigenvector; before, eigenvalues of both signs would cancel in it.
    found: Tensor = torch.linalg.vector_norm(residual @ v, dim=1).sum()
    return found


def ocnn_penalty(weight: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    r"""Convolutional orthogonality :math:`\lVert \mathrm{conv}(K, K) - I_0 \rVert_F^2`.

    The kernels are convolved with one another at every overlap that the stride allows; only a kernel with itself at
    zero shift may give one, everything else must vanish. A typical factor in the loss is 0.1.

    Source: Wang et al., *Orthogonal Convolutional Neural Networks*, CVPR 2020, equation for row orthogonality.

    Shape:
        - weight: ``(co, ci / groups, k_1, ..., k_d)``, ``d`` of 1, 2 or 3
        - result: ``()``

    Raises:
        ShapeError: not the weight of a 1-d, 2-d or 3-d conv.
        ConfigError: the stride is below 1, or ``groups`` does not divide ``co``.

    Examples:
        >>> ocnn_penalty(torch.eye(4).view(4, 4, 1, 1))
        tensor(0.)
    """
    d = weight.dim() - 2
    if d not in (1, 2, 3):
        raise ShapeError(
            f"expected a conv weight (co, ci, k_1, ..., k_d) with d of 1, 2 or 3, got {tuple(weight.shape)}"
        )
    if stride < 1:
        raise ConfigError(f"stride must be at least 1, got {stride}")
    _kernels(weight, groups)
    # The largest multiple of the stride that still overlaps, so that zero shift falls on the output grid.
    padding = [(k - 1) // stride * stride for k in weight.shape[2:]]
    convolve = (F.conv1d, F.conv2d, F.conv3d)[d - 1]
    total = weight.new_zeros(())
    for kernels in weight.chunk(groups):
        overlaps = convolve(kernels, kernels, stride=stride, padding=padding)
        target = torch.zeros_like(overlaps)
        zero_shift: tuple[Any, ...] = (..., *[p // stride for p in padding])
        target[zero_shift] = torch.eye(kernels.shape[0], dtype=weight.dtype, device=weight.device)
        total = total + (overlaps - target).square().sum()
    return total
