"""Several layers that are alike computed as one, their kernels one layer's behind another's.

On narrow layers, and on GPUs on nearly all, the time goes into launching operations, not into arithmetic: a few for all
layers take the place of some for each. Kernel maps say with :meth:`~convofconv.maps.KernelMap.alike` which of them can
be computed so, and with :meth:`~convofconv.maps.KernelMap.together` how.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from .association import no_autocast
from .maps import KernelMap


def can_be_together(kernel_map: object) -> bool:
    """Whether a map's class itself says how several are computed: one derived from it may compute something else."""
    return "together" in vars(type(kernel_map))


def compute_together(several: Sequence[parametrize.ParametrizationList], maps: int) -> tuple[Tensor, ...]:
    """The kernels of several layers behind their first maps.

    Args:
        several: what computes each layer's weight; all of one shape, and their first maps alike.
        maps: how many of the maps to apply.
    """
    used = [False] * len(several)

    def stack(tensors: Sequence[Tensor]) -> Tensor:
        out: Tensor = _Stack.apply(used, *tensors)
        return out

    kernels = stack([cast(Tensor, one._parameters["original"]) for one in several])
    for index in range(maps):
        same = [cast(KernelMap, one._modules[str(index)]) for one in several]
        kernels = type(same[0]).together(same, kernels, stack)
    out: tuple[Tensor, ...] = _Part.apply(used, kernels)
    return out


class _Stack(torch.autograd.Function):
    """``torch.cat``, but that a layer which was never used gets no gradient, as if it had been computed alone."""

    @staticmethod
    def forward(ctx: Any, used: list[bool], *tensors: Tensor) -> Tensor:
        ctx.used = used
        with no_autocast(tensors[0].device):  # whose cat takes no halves of the other kind
            return torch.cat(tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        parts = grad.unflatten(0, (len(ctx.used), -1)).unbind()
        return None, *(part if used else None for part, used in zip(parts, ctx.used, strict=True))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor:
        return torch.cat(_filled(tangents))


class _Part(torch.autograd.Function):
    """Undo :class:`_Stack`, and tell it whose gradients came back."""

    @staticmethod
    def forward(ctx: Any, used: list[bool], kernels: Tensor) -> tuple[Tensor, ...]:
        ctx.used = used
        ctx.set_materialize_grads(False)
        return tuple(kernels.unflatten(0, (len(used), -1)).unbind())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[None, Tensor | None]:
        if all(grad is None for grad in grads):
            return None, None
        # Once used, always: a later backward may come to a layer through the gradients of an earlier one.
        ctx.used[:] = [used or grad is not None for used, grad in zip(ctx.used, grads, strict=True)]
        filled = _filled(grads)
        with no_autocast(filled[0].device):
            return None, torch.cat(filled)

    @staticmethod
    def jvp(ctx: Any, _: None, tangent: Tensor) -> tuple[Tensor, ...]:
        return tuple(tangent.unflatten(0, (len(ctx.used), -1)).unbind())


def _filled(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    """With zeros for those that are missing, of which at least one is not."""
    like = next(tensor for tensor in tensors if tensor is not None)
    return [torch.zeros_like(like) if tensor is None else tensor for tensor in tensors]
