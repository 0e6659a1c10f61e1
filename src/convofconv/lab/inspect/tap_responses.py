"""Claim C3: the association of a group as a matrix on tap responses.

Apply every tap of every basic kernel to the layer's input as a 1×1 conv: one map per kernel and tap, not yet shifted to
the tap's place. A linear α whose super kernels are shared over input channels is a matrix across these maps, one per
group; shifting and adding its results gives what the layer puts out.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from .kernel_function import KernelFunction, kernel_functions
from .kernel_jacobian import jacobian_rows


@dataclasses.dataclass(frozen=True)
class TapResponses:
    """How α mixes the tap responses of one group.

    Args:
        layer: name of the conv.
        group: which group.
        kernels: numbers of the group's ``m`` kernels.
        kernel_size: of every kernel, ``k`` taps in all.
        matrix: ``(m·k, m·k)``, rows are α's results and columns what they are made of, a kernel's taps row by row.
        skip: whether the skip, an identity, is in ``matrix``.
        remark: why the claim does not hold for this configuration to the letter, empty where it does.
    """

    layer: str
    group: int
    kernels: tuple[int, ...]
    kernel_size: tuple[int, ...]
    matrix: Tensor = dataclasses.field(repr=False, compare=False)
    skip: bool
    remark: str

    def numbers(self) -> dict[str, object]:
        """As plain values for JSON."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        lists = {"kernels": list(self.kernels), "kernel_size": list(self.kernel_size), "matrix": self.matrix.tolist()}
        return {**values, **lists}


def tap_responses(
    model: nn.Module, layer: str, group: int = 0, skip: bool = True, channel: int = 0, source: int | None = None
) -> TapResponses:
    """The matrix by which the association of one group mixes tap responses, in float64.

    It is the derivative of α at the layer's basic kernels: for a linear α the matrix itself. Where input channels have
    matrices of their own (``share="output"``) or are mixed (``share="none"``, a norm over the grids), it is one's.

    Args:
        model: a converted network.
        layer: name of a conv with an association.
        group: which group of its kernels.
        skip: leave the skip's identity in, where the configuration has one; without it small super kernels are seen.
        channel: input channel of the results.
        source: input channel of what they are made of; by default the same.

    Source: poster, "forward" (claim C3).

    Raises:
        ConfigError: there is no such layer, group or channel, or the layer has no association.

    Examples:
        >>> from convofconv import convert
        >>> model = convert(nn.Sequential(nn.Conv2d(3, 8, 3)))
        >>> tap_responses(model, "0").matrix.equal(torch.eye(36, dtype=torch.float64))
        True
    """
    (function,) = kernel_functions(model, [layer])
    association = function.association
    if association is None:
        raise ConfigError(f"{layer} has no association; convert it with the method coc first")
    function.check_group(group)
    source = channel if source is None else source
    channels = function.weight.shape[1]
    for name, number in (("channel", channel), ("source", source)):
        if not 0 <= number < channels:
            raise ConfigError(f"{layer}: {name} {number} is none of its input channels, 0 to {channels - 1}")
    at = function.maps.index(association)
    before = KernelFunction(layer, function.weight, function.maps[:at], function.members)
    with torch.no_grad():
        given = dataclasses.replace(function, weight=before(function.weight), maps=(association,))
    members = list(function.members[group])
    rows = [row[members, source].flatten() for _, _, _, row in jacobian_rows(given, group, (channel,))]
    matrix, config = torch.stack(rows), association.config
    if config.skip and not skip and source == channel:
        matrix = matrix - torch.eye(len(matrix), dtype=matrix.dtype)
    remarks = {"none": ['share="none" mixes input channels'], "output": ['share="output" has a matrix per channel']}
    remark = remarks.get(config.share, []) + ["linearised, for a norm over the grids"] * config.grid_norm
    return TapResponses(
        layer,
        group,
        tuple(members),
        tuple(function.weight.shape[2:]),
        matrix,
        config.skip and skip and source == channel,
        "; ".join(remark),
    )
