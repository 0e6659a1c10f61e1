"""Where a run's time goes: how fast images come, and how fast the network learns from them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device

from .module import Training
from .run_data import RunData

_LOWER_PRECISION = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def profile(training: Training, data: RunData, batches: int = 20) -> str:
    """Images per second of the loader alone and of training steps on one batch, in a few lines.

    Those of one process with its share of the batch, on the machine's first GPU, if it has one.
    """
    recipe = training.recipe
    processes = recipe.machine.devices * recipe.machine.nodes
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = found if found and recipe.machine.accelerator != "cpu" else torch.device("cpu")
    batch_size = recipe.training.batch // (recipe.training.accumulate * processes)
    lower = _LOWER_PRECISION.get(recipe.training.precision)
    loader = data.training_loader(batch_size)
    first, *_ = itertools.islice(loader, 1)
    batches = min(batches, len(loader))
    loading = _seconds(lambda: _exhaust(itertools.islice(loader, batches))) / batches
    training.to(device).train()
    images, target = move_data_to_device(first, device)
    optimizer = torch.optim.SGD(training.network.parameters(), lr=1e-6)

    def step(_: int) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, lower, enabled=lower is not None):
            loss = training.loss(images, target)
        loss.backward()
        optimizer.step()
        if device.type != "cpu":
            torch.accelerator.synchronize()

    step(0)
    learning = _seconds(lambda: _exhaust(map(step, range(batches)))) / batches
    slower = "the loader: raise data.workers" if loading > learning else "the network"
    of_one = f", one of {processes} processes" if processes > 1 else ""
    return (
        f"loader:  {batch_size / loading:10.1f} images/s with {recipe.data.workers} workers\n"
        f"network: {batch_size / learning:10.1f} images/s on {device}, forward, backward and update{of_one}\n"
        f"limited by {slower}"
    )


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _exhaust(items: Iterable[Any]) -> None:
    for _ in items:
        pass
