"""Depthwise over-parameterization (DO-Conv) as a kernel map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..config import Config
from ..errors import ShapeError
from ..grid import match_layout
from ..modes import has_values, in_float64
from .base import Conv, KernelMap, conv_shape


class DepthwiseOverparameterization(KernelMap):
    r"""DO-Conv: every input channel of a kernel mixes its ``k = k_1 ⋯ k_d`` positions by a learned matrix ``I + D``.

    :math:`W'_{oim} = W_{oim} + \sum_s W_{ois} D_{ism}`, a depth multiplier of ``k``. ``D`` starts at zero with the
    identity kept apart, so that the function is unchanged at the start and weight decay pulls towards it. Every input
    channel of the layer has a ``D`` of its own, in grouped convs too. A kernel of one position is only scaled.

    Source: Cao et al., *DO-Conv: Depthwise Over-parameterized Convolutional Layer*, TIP 2022.

    Args:
        weight_shape: shape of the weight, ``(co, ci / groups, k_1, ..., k_d)``.
        groups: groups of the convolution.

    Attributes:
        depthwise_kernel: ``D``, ``(ci, k, k)``.

    Shape:
        - weight: ``(co, ci / groups, k_1, ..., k_d)``
        - result: as ``weight``

    Raises:
        ShapeError: the weight has kernels of another shape than the map was built for, or its kernels cannot be
            divided into the groups.

    Examples:
        >>> over = DepthwiseOverparameterization((8, 3, 3, 3))
        >>> over.depthwise_kernel.shape
        torch.Size([3, 9, 9])
        >>> weight = torch.randn(8, 3, 3, 3)
        >>> torch.equal(over(weight), weight)
        True
    """

    def __init__(
        self,
        weight_shape: Sequence[int],
        groups: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.kernel_shape = conv_shape(weight_shape, "DepthwiseOverparameterization")[1:]
        self.groups = groups
        channels, *kernel = self.kernel_shape
        k = math.prod(kernel)
        self.depthwise_kernel = nn.Parameter(torch.empty(groups * channels, k, k, device=device, dtype=dtype))
        self.reset_parameters()

    @classmethod
    def for_conv(cls, conv: Conv, config: Config) -> DepthwiseOverparameterization:
        weight = conv.weight
        return cls(tuple(weight.shape), conv.groups, weight.device, weight.dtype)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """``D`` zero."""
        nn.init.zeros_(self.depthwise_kernel)

    def forward(self, weight: Tensor) -> Tensor:
        by_channel = self._to_channels(weight)
        # The identity stays outside the matrix: I + D would round a small D away in half precision.
        return self._from_channels(by_channel + by_channel @ self.depthwise_kernel, weight)

    @torch.no_grad()
    def right_inverse(self, weight: Tensor) -> Tensor:
        """Basic kernels that give ``weight``, by solving with ``I + D`` per input channel in float64.

        Raises:
            ShapeError: ``I + D`` is singular.
        """
        if not has_values(weight) or not self.depthwise_kernel.any():
            return weight
        mixing = in_float64(self.depthwise_kernel)
        mixing = mixing + torch.eye(mixing.shape[-1], dtype=mixing.dtype, device=mixing.device)
        basic, info = torch.linalg.solve_ex(mixing, in_float64(self._to_channels(weight)), left=False)
        if info.any():
            raise ShapeError(
                "the over-parameterization is singular: no basic kernels give this weight; "
                "call reset_parameters() of the map to start from the identity"
            )
        return self._from_channels(basic.to(weight), weight)

    def _to_channels(self, weight: Tensor) -> Tensor:
        """``(ci, co / groups, k)``: what every input channel of the layer meets."""
        if weight.shape[1:] != self.kernel_shape or weight.shape[0] % self.groups:
            divided = f" and numbers of them that {self.groups} divides" if self.groups > 1 else ""
            raise ShapeError(f"this map is for kernels {self.kernel_shape}{divided}, got {tuple(weight.shape)}")
        grouped: Tensor = weight.flatten(2).unflatten(0, (self.groups, -1))
        return grouped.transpose(1, 2).flatten(0, 1)

    def _from_channels(self, by_channel: Tensor, weight: Tensor) -> Tensor:
        grouped = by_channel.unflatten(0, (self.groups, -1)).transpose(1, 2)
        return match_layout(grouped.reshape(weight.shape), weight)

    def extra_repr(self) -> str:
        return f"{self.kernel_shape}" + (f", groups={self.groups}" if self.groups > 1 else "")
