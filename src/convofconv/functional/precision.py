"""What torch computes with at the moment: autocast, TF32, float64, inference mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def in_float64(tensor: Tensor) -> Tensor:
    """A tensor in float64, on the CPU where its device has none, as Apple's GPUs."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for a device."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)  # meta knows no autocast


def autocast_dtype(weight: Tensor) -> torch.dtype:
    """The dtype to associate a weight in: its own, or autocast's where that would cast it."""
    casts = weight.is_floating_point() and weight.dtype != torch.float64 and autocasts(weight.device)
    return torch.get_autocast_dtype(weight.device.type) if casts else weight.dtype


def no_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Compute in the tensors' own dtype, whatever the caller's autocast says."""
    return torch.autocast(device.type, enabled=False) if autocasts(device) else contextlib.nullcontext()


def no_inference() -> contextlib.AbstractContextManager[object]:
    """Leave inference mode where it is on; elsewhere torch.export would record that gradients are switched on."""
    leave = not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()  # a graph cannot ask for it
    return torch.inference_mode(False) if leave else contextlib.nullcontext()


@contextlib.contextmanager
def no_tf32() -> Iterator[None]:
    """Compute in float32 what is float32: GPUs round convs to TF32 by default, and products where somebody asked."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    with contextlib.ExitStack() as undo:
        # Each in the way that it was last set in, for torch refuses the older one where the newer was used.
        try:
            undo.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        except RuntimeError:
            undo.callback(setattr, matmul, "fp32_precision", matmul.fp32_precision)
            matmul.fp32_precision = "ieee"
        try:
            undo.callback(setattr, cudnn, "allow_tf32", cudnn.allow_tf32)
            cudnn.allow_tf32 = False
        except RuntimeError:
            undo.callback(setattr, cudnn.conv, "fp32_precision", cudnn.conv.fp32_precision)
            cudnn.conv.fp32_precision = "ieee"
        yield
