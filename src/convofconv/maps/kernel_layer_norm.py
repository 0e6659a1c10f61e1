"""The released configuration's final norm as a kernel map."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from ..errors import ConfigError, ShapeError
from ..functional.memory_format import is_channels_last, match_layout
from ..functional.precision import no_autocast
from .kernel_map import Conv, KernelMap, Stack


class KernelLayerNorm(KernelMap):
    """LayerNorm over ``(ci, k_1, ..., k_d)`` of every kernel, the affine shared by all kernels (released final norm).

    It is not onto, so it has no ``right_inverse``.

    Args:
        kernel_shape: ``(ci / groups, k_1, ..., k_d)``.
        eps: added to the variance.

    Attributes:
        norm_weight, norm_bias: ``(1, ci / groups, k_1, ..., k_d)``.

    Shape:
        - weight: ``(co, ci / groups, k_1, ..., k_d)``
        - result: as ``weight``

    Raises:
        ShapeError: in the forward, of a weight of another shape.

    Examples:
        >>> KernelLayerNorm((3, 3, 3))(torch.randn(8, 3, 3, 3)).mean().abs() < 1e-6
        tensor(True)
    """

    changes_scale = True
    parameter_groups: ClassVar[Mapping[str, str]] = dict.fromkeys(("norm_weight", "norm_bias"), "norms and biases")

    def __init__(
        self,
        kernel_shape: Sequence[int],
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        # As many axes as the weight: Module.to(memory_format=...) takes four for an image's and five for a video's.
        shape = (1, *kernel_shape)
        self.norm_weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.norm_bias = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    @classmethod
    def for_conv(cls, conv: Conv, config: Config) -> KernelLayerNorm:
        if conv.weight[0].numel() == 1:
            raise ConfigError("a kernel of a single number (depthwise 1×1) cannot be normalised; leave this conv out")
        return cls(conv.weight.shape[1:], device=conv.weight.device, dtype=conv.weight.dtype)

    def settings(self) -> dict[str, object]:
        return {"eps": self.eps}

    @classmethod
    def from_settings(cls, conv: Conv, settings: dict[str, Any]) -> KernelLayerNorm:
        kernel_map = cls.for_conv(conv, Config())
        kernel_map.eps = settings["eps"]
        return kernel_map

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Weight one, bias zero."""
        nn.init.ones_(self.norm_weight)
        nn.init.zeros_(self.norm_bias)

    def forward(self, weight: Tensor) -> Tensor:
        if weight.shape[1:] != self.norm_weight.shape[1:]:
            raise ShapeError(f"this norm is for kernels {tuple(self.norm_weight.shape[1:])}, got {tuple(weight.shape)}")
        x: Tensor = weight
        gain: Tensor = self.norm_weight.squeeze(0)
        bias: Tensor = self.norm_bias.squeeze(0)
        if gain.dtype != x.dtype:  # autocast has cast the kernels into halves of another kind; torch takes float32 then
            gain, bias = gain.float(), bias.float()
        # layer_norm copies what is not contiguous; a channels-last kernel is, with its channels behind.
        last = is_channels_last(weight)
        if last:
            x, gain, bias = x.movedim(1, -1), gain.movedim(0, -1), bias.movedim(0, -1)
        out = F.layer_norm(x, x.shape[1:], gain, bias, self.eps).to(weight.dtype)
        return match_layout(out.movedim(-1, 1) if last else out, weight)

    def batch_key(self) -> Hashable:
        return self.eps

    @classmethod
    def batched(cls, maps: Sequence[KernelLayerNorm], kernels: Tensor, stack: Stack) -> Tensor:
        gain, bias = stack([m.norm_weight for m in maps]), stack([m.norm_bias for m in maps])
        # In float32 at least, as torch's does inside: gain and bias are not those of one layer.
        wide = torch.promote_types(kernels.dtype, torch.float32)
        x, gain, bias = (tensor.to(wide) for tensor in (kernels, gain, bias))
        last = is_channels_last(kernels)
        if last:
            x, gain, bias = (tensor.movedim(1, -1) for tensor in (x, gain, bias))
        with no_autocast(kernels.device):
            normal = F.layer_norm(x, x.shape[1:], eps=maps[0].eps).unflatten(0, (len(maps), -1))
            out = torch.addcmul(bias.unsqueeze(1), normal, gain.unsqueeze(1)).flatten(0, 1).to(kernels.dtype)
        return match_layout(out.movedim(-1, 1) if last else out, kernels)

    def extra_repr(self) -> str:
        return f"{tuple(self.norm_weight.shape[1:])}, eps={self.eps}"
