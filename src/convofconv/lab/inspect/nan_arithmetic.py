"""NaN goes where it is used and nowhere else: what torch needs for that."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

#: What rounding makes of an interpolation's weight that is 0.
_NO_WEIGHT = 1e-9


@contextlib.contextmanager
def nan_kept_apart() -> Iterator[None]:
    """No algorithm of a conv that works on tiles (Winograd's, Fourier's), which would spread NaN over all of a tile.

    oneDNN, on CPUs, takes none unless it is asked to; a test watches over it.
    """
    with (
        torch.backends.cudnn.flags(enabled=False),
        torch.backends.nnpack.flags(enabled=False),
        _ExactInterpolation(),
    ):
        yield


class _ExactInterpolation(TorchFunctionMode):
    """Interpolation reads pixels of weight 0 too; what is NaN is computed from where those of other weights are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.interpolate:
            return func(*args, **kwargs)
        image, *rest = (kwargs.pop("input"), *args) if "input" in kwargs else args
        interpolate: Callable[[Tensor], Tensor] = lambda values: F.interpolate(values, *rest, **kwargs)  # noqa: E731
        reached = interpolate(image.isnan().double()).abs() > _NO_WEIGHT
        return interpolate(image.nan_to_num(0.0)).masked_fill(reached, torch.nan)
