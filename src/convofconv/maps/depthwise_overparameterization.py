"""Depthwise over-parameterization (DO-Conv) as a kernel map."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from ..config import Config
from ..errors import ShapeError
from ..functional.memory_format import match_layout
from ..functional.precision import in_float64
from ..torch_private import has_values
from .kernel_map import Conv, KernelMap, Stack, conv_shape


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

    linear = True

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
        self._check(weight)
        return _mix(weight, self.depthwise_kernel, self.groups)

    def batch_key(self) -> Hashable:
        return self.groups

    @classmethod
    def batched(cls, maps: Sequence[DepthwiseOverparameterization], kernels: Tensor, stack: Stack) -> Tensor:
        return _mix(kernels, stack([one.depthwise_kernel for one in maps]), len(maps) * maps[0].groups)

    @torch.no_grad()
    def right_inverse(self, weight: Tensor) -> Tensor:
        """Basic kernels that give ``weight``, by solving with ``I + D`` per input channel in float64.

        Raises:
            ShapeError: ``I + D`` is singular.
        """
        if not has_values(weight) or not self.depthwise_kernel.any():
            return weight
        self._check(weight)
        mixing = in_float64(self.depthwise_kernel)
        mixing = mixing + torch.eye(mixing.shape[-1], dtype=mixing.dtype, device=mixing.device)
        basic, info = torch.linalg.solve_ex(mixing, in_float64(_to_channels(weight, self.groups)), left=False)
        if info.any():
            raise ShapeError(
                "the over-parameterization is singular: no basic kernels give this weight; "
                "call reset_parameters() of the map to start from the identity"
            )
        return _from_channels(basic.to(weight), weight, self.groups)

    def _check(self, weight: Tensor) -> None:
        if weight.shape[1:] != self.kernel_shape or weight.shape[0] % self.groups:
            divided = f" and numbers of them that {self.groups} divides" if self.groups > 1 else ""
            raise ShapeError(f"this map is for kernels {self.kernel_shape}{divided}, got {tuple(weight.shape)}")

    def extra_repr(self) -> str:
        return f"{self.kernel_shape}" + (f", groups={self.groups}" if self.groups > 1 else "")


def _mix(weight: Tensor, depthwise_kernel: Tensor, groups: int) -> Tensor:
    by_channel = _to_channels(weight, groups)
    # The identity stays outside the matrix: I + D would round a small D away in half precision.
    return _from_channels(by_channel + by_channel @ depthwise_kernel, weight, groups)


def _to_channels(weight: Tensor, groups: int) -> Tensor:
    """``(ci, co / groups, k)``: what every input channel of the layer meets."""
    grouped: Tensor = weight.flatten(2).unflatten(0, (groups, -1))
    return grouped.transpose(1, 2).flatten(0, 1)


def _from_channels(by_channel: Tensor, weight: Tensor, groups: int) -> Tensor:
    grouped = by_channel.unflatten(0, (groups, -1)).transpose(1, 2)
    return match_layout(grouped.reshape(weight.shape), weight)
