"""The time of a training step of several networks, measured side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Steps of each network that are timed.
_ROUNDS = 40


def step_seconds(networks: Mapping[str, nn.Module], images: Tensor, labels: Tensor) -> dict[str, float]:
    """The median time of one training step of each network, which learn from a batch in this.

    The networks take turns step by step, so that whatever else the machine does slows all of them alike.
    """
    optimizers = {name: torch.optim.SGD(one.parameters(), lr=0.01, momentum=0.9) for name, one in networks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(_ROUNDS):
        for name, network in networks.items():
            start = time.perf_counter()
            optimizers[name].zero_grad()
            F.cross_entropy(network.train()(images), labels).backward()
            optimizers[name].step()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}
