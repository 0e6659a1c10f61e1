"""Claim C4: the blocks of ``∂W'/∂W``, which basic kernels and taps an effective kernel depends on, and how strongly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from .kernel_function import KernelFunction, evenly, kernel_functions


@dataclasses.dataclass(frozen=True)
class KernelJacobian:
    """``∂W'/∂W`` of one group of kernels, summed up by kernels and by taps; the identity in a plain layer.

    Every entry is a root mean square gain: the Frobenius norm of a block, divided by the root of its number of rows. So
    1 on the diagonal is what a plain layer has, and 0.1 beside it says that a tenth of a change of size 1 arrives.

    Args:
        layer: name of the conv.
        group: which group.
        kernels: numbers of the group's ``m`` kernels.
        kernel_size: of every kernel, ``k`` taps in all.
        strengths: ``(m, m)``, how effective kernel ``i`` depends on basic kernel ``j``.
        own_taps: ``(k, k)``, how a tap of an effective kernel depends on the taps of its basic kernel.
        neighbour_taps: ``(k, k)``, and on those of the group's other kernels.
        outside: how effective kernels depend on all basic kernels of other groups together.
        channels: input channels whose rows were computed, evenly spread.
        of_channels: how many the layer has.
    """

    layer: str
    group: int
    kernels: tuple[int, ...]
    kernel_size: tuple[int, ...]
    strengths: Tensor = dataclasses.field(repr=False, compare=False)
    own_taps: Tensor = dataclasses.field(repr=False, compare=False)
    neighbour_taps: Tensor = dataclasses.field(repr=False, compare=False)
    outside: float
    channels: tuple[int, ...]
    of_channels: int

    @property
    def own(self) -> float:
        """How effective kernels depend on their own basic kernels, as root mean square gain; 1 in a plain layer."""
        return float(self.strengths.diag().square().mean().sqrt())

    @property
    def neighbours(self) -> float:
        """How effective kernels depend on all other basic kernels of their group together, as root mean square gain."""
        off = self.strengths - self.strengths.diag().diag()
        return float(off.square().sum(1).mean().sqrt())

    def numbers(self) -> dict[str, object]:
        """As plain values for JSON."""
        tensors = {name: getattr(self, name).tolist() for name in ("strengths", "own_taps", "neighbour_taps")}
        return {
            "layer": self.layer,
            "group": self.group,
            "kernels": list(self.kernels),
            "kernel_size": list(self.kernel_size),
            **tensors,
            "own": self.own,
            "neighbours": self.neighbours,
            "outside": self.outside,
            "channels": list(self.channels),
            "of_channels": self.of_channels,
        }


def kernel_jacobian(model: nn.Module, layer: str, group: int = 0, most_channels: int | None = 2) -> KernelJacobian:
    """The block structure of ``∂W'/∂W`` for one group of a layer, by autograd in float64: exact for any kernel maps.

    Args:
        model: plain or converted.
        layer: name of a conv.
        group: which group of its kernels.
        most_channels: rows are computed for so many input channels, ``None`` for all. For a linear α whose super
            kernels are shared over input channels one is enough: all are alike.

    Source: poster, "backward" (claim C4).

    Raises:
        ConfigError: there is no such layer or group, or ``most_channels`` is less than 1.

    Examples:
        >>> kernel_jacobian(nn.Conv2d(3, 8, 3), "(root)").strengths
        tensor([[1., 0., 0., 0.],
                [0., 1., 0., 0.],
                [0., 0., 1., 0.],
                [0., 0., 0., 1.]], dtype=torch.float64)
    """
    if most_channels is not None and most_channels < 1:
        raise ConfigError(f"most_channels must be at least 1, got {most_channels}")
    (function,) = kernel_functions(model, [layer])
    function.check_group(group)
    members = list(function.members[group])
    channels = evenly(function.weight.shape[1], most_channels)
    k, m = math.prod(function.weight.shape[2:]), len(members)
    within = torch.zeros(m, k, m, k, dtype=torch.float64)  # squares, of (kernel, tap) and (kernel, tap)
    beyond = 0.0
    for kernel, tap, _, row in jacobian_rows(function, group, channels):
        squares = row.square().flatten(2).sum(1)
        within[kernel, tap] += squares[members]
        beyond += float(squares.sum() - squares[members].sum())
    blocks = within / len(channels)
    of_kernels = blocks.sum((1, 3))
    own = torch.einsum("itiu->tu", blocks)
    return KernelJacobian(
        function.layer,
        group,
        tuple(members),
        tuple(function.weight.shape[2:]),
        (of_kernels / k).sqrt(),
        (own / m).sqrt(),
        ((blocks.sum((0, 2)) - own).clamp_min(0) / m).sqrt(),
        math.sqrt(max(0.0, beyond) / (len(channels) * m * k)),
        channels,
        function.weight.shape[1],
    )


def jacobian_rows(
    function: KernelFunction, group: int, channels: tuple[int, ...]
) -> Iterator[tuple[int, int, int, Tensor]]:
    """Rows of ``∂W'/∂W``, those of a group's effective kernels in some input channels.

    Gives:
        place of the effective kernel in its group, tap, number of the channel among ``channels``, and the derivative of
        that number with respect to all basic kernels, in their shape.
    """
    with torch.enable_grad():
        weight = function.weight.clone().requires_grad_()
        out = function(weight)
    flat = out.flatten(2)
    for place, kernel in enumerate(function.members[group]):
        for index, channel in enumerate(channels):
            for tap in range(flat.shape[2]):
                unit = torch.zeros_like(flat)
                unit[kernel, channel, tap] = 1
                if out is weight:  # a plain layer
                    row = unit.view_as(weight)
                else:
                    (row,) = torch.autograd.grad(flat, weight, unit, retain_graph=True)
                yield place, tap, index, row
