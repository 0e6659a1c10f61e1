"""Several layers that are alike computed as one, their kernels one layer's behind another's.

On narrow layers, and on GPUs on nearly all, the time goes into launching operations, not into arithmetic: a few for all
layers take the place of some for each. Kernel maps say with :meth:`~convofconv.KernelMap.batch_key` which of them can
be computed so, and with :meth:`~convofconv.KernelMap.batched` how.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from ..functional.precision import no_autocast
from ..maps.kernel_map import KernelMap
from ..torch_private import modules_of, parameters_of


def compute_batched(several: Sequence[parametrize.ParametrizationList], count: int) -> tuple[Tensor, ...]:
    """The kernels of several layers behind their first maps.

    Args:
        several: what computes each layer's weight; all of one shape, and their first maps alike.
        count: of the maps to apply.
    """
    used = [False] * len(several)

    def stack(tensors: Sequence[Tensor]) -> Tensor:
        # A copy: parts of a gradient that others get too would be added to twice where gradients are accumulated.
        out: Tensor = _Stack.apply(used, True, *tensors)
        return out

    kernels: Tensor = _Stack.apply(used, False, *(cast(Tensor, parameters_of(one)["original"]) for one in several))
    for index in range(count):
        same = [cast(KernelMap, modules_of(one)[str(index)]) for one in several]
        kernels = type(same[0]).batched(same, kernels, stack)
    out: tuple[Tensor, ...] = _Part.apply(used, kernels)
    return out


class _Stack(torch.autograd.Function):
    """``torch.cat``, except that a layer which was not used gets no gradient, as if it had been computed alone."""

    @staticmethod
    def forward(ctx: Any, used: list[bool], copies: bool, *tensors: Tensor) -> Tensor:
        ctx.used, ctx.copies = used, copies
        return _cat(tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # reshape, not unflatten, for which torch has no batching rule in a batched backward
        parts = (grad.clone() if ctx.copies else grad).reshape(len(ctx.used), -1, *grad.shape[1:]).unbind()
        return None, None, *(part if used else None for part, used in zip(parts, ctx.used, strict=True))

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, *tangents: Tensor) -> Tensor:
        return _cat(tangents)


class _Part(torch.autograd.Function):
    """Undo :class:`_Stack`, and report to it whose gradients came back."""

    @staticmethod
    def forward(ctx: Any, used: list[bool], kernels: Tensor) -> tuple[Tensor, ...]:
        ctx.used, ctx.linked = used, [False] * len(used)
        ctx.set_materialize_grads(False)
        return tuple(kernels.reshape(len(used), -1, *kernels.shape[1:]).unbind())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[None, Tensor | None]:
        if all(grad is None for grad in grads):
            return None, None
        now = [grad is not None for grad in grads]
        if torch.is_grad_enabled():  # a later backward may come to these layers through the gradients of this one
            ctx.linked = [before or this for before, this in zip(ctx.linked, now, strict=True)]
        ctx.used[:] = [before or this for before, this in zip(ctx.linked, now, strict=True)]
        like = next(grad for grad in grads if grad is not None)
        return None, _cat([torch.zeros_like(like) if grad is None else grad for grad in grads])

    @staticmethod
    def jvp(ctx: Any, _: None, tangent: Tensor) -> tuple[Tensor, ...]:
        out: tuple[Tensor, ...] = _Part.apply(ctx.used, tangent)
        return out


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    with no_autocast(tensors[0].device):  # whose cat takes no halves of the other kind
        return torch.cat(list(tensors))
