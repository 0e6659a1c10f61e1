"""Notice an optimizer that was built before the conversion: it would never train the kernel maps.

It is noticed at its first step, by the hook that torch calls before every optimizer's step. The hook is there only
while a conversion waits for the first step of its optimizer.
"""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from ..errors import ConversionWarning


class _Conversion:
    """Kernels and the new parameters of the maps on them, whose optimizer has not made a step yet."""

    def __init__(self, kernels: Iterable[nn.Parameter], new: Iterable[nn.Parameter]) -> None:
        self.kernels, self.new = ([weakref.ref(p) for p in parameters] for parameters in (kernels, new))
        self.seen: weakref.WeakSet[Optimizer] = weakref.WeakSet()

    def is_gone(self) -> bool:
        return all(reference() is None for reference in self.kernels)

    def is_trained(self, optimizer: Optimizer) -> bool | None:
        """Whether an optimizer trains the maps too, ``None`` where it does not train these kernels at all."""
        held = _held(optimizer)
        if any(id(reference()) in held for reference in self.new):
            return True
        return False if any(id(reference()) in held for reference in self.kernels) else None


_waiting: list[_Conversion] = []
_handle: RemovableHandle | None = None


def expect_optimizer(kernels: Iterable[nn.Parameter], new: Iterable[nn.Parameter]) -> None:
    """Warn at the first step of an optimizer that holds some of the kernels, if it holds none of the new parameters."""
    global _handle
    new = [parameter for parameter in new if parameter.requires_grad]
    if new:
        _waiting.append(_Conversion(kernels, new))
        _handle = _handle or register_optimizer_step_pre_hook(_before_step)


def _before_step(optimizer: Optimizer, *_: Any) -> None:
    global _handle
    if torch.compiler.is_compiling():
        return
    for conversion in list(_waiting):
        if optimizer in conversion.seen:
            continue
        conversion.seen.add(optimizer)
        trained = conversion.is_trained(optimizer)
        if trained is False and not _held_by_another(conversion):
            warnings.warn(
                f"this {type(optimizer).__name__} was built before the model was converted: it does not train the "
                "kernel maps. Build it after converting, or pass it the new parameters with add_param_group",
                ConversionWarning,
                stacklevel=3,
            )
        if trained is not None or conversion.is_gone():
            _waiting.remove(conversion)
    if not _waiting and _handle is not None:
        _handle.remove()
        _handle = None


def _held(optimizer: object) -> set[int]:
    # One whose constructor failed has no groups; a notebook keeps it alive with the traceback.
    return {id(p) for group in getattr(optimizer, "param_groups", ()) for p in group.get("params", ())}


def _held_by_another(conversion: _Conversion) -> bool:
    """Whether the maps have an optimizer of their own: all objects are looked through, when there is a doubt alone."""
    # By type: isinstance would ask proxies and deprecated stand-ins for their __class__.
    others = (candidate for candidate in gc.get_objects() if issubclass(type(candidate), Optimizer))
    return any(conversion.is_trained(other) for other in others)
