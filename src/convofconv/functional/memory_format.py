"""The memory format of kernels, contiguous or channels-last, for any number of dimensions."""

from __future__ import annotations

from torch import Tensor


def is_channels_last(weight: Tensor) -> bool:
    """Whether input channels are the fastest axis in memory (by strides, so also for one channel)."""
    if weight.shape[1] == 1 and weight[0].numel() == 1:
        return False
    return weight.stride(1) == 1 and weight.stride(-1) == weight.shape[1]


def match_layout(out: Tensor, weight: Tensor) -> Tensor:
    """Give ``out`` the memory format of ``weight``: it decides the layout of the conv's output and its algorithm."""
    # Through flat views: `contiguous` alone keeps the other format's strides where an axis has length 1.
    if is_channels_last(weight):
        by_channel = out.movedim(1, -1).contiguous()
        return by_channel.reshape(-1).view(by_channel.shape).movedim(-1, 1)
    return out.contiguous().reshape(-1).view(weight.shape)
