"""Fair timing on a shared machine: contenders take turns in one run, and only their ratios are trusted."""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch


@dataclasses.dataclass(frozen=True)
class Timing:
    """Median time of one contender, and its ratio to the reference over the same turns."""

    milliseconds: float
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:.3g} ({self.low:.3g} to {self.high:.3g})"


def race(contenders: Mapping[str, Callable[[], object]], turns: int, warmup: int = 2) -> dict[str, Timing]:
    """Let contenders take turns; ratios are to the first one, turn by turn, with their quartiles."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-warmup, turns):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= 0:
                times[name].append(1000 * (time.perf_counter() - start))
    reference = next(iter(times.values()))
    out = {}
    for name, mine in times.items():
        ratios = [a / b for a, b in zip(mine, reference, strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        out[name] = Timing(statistics.median(mine), median, low, high)
    return out


def machine() -> str:
    """One line on what the figures were measured on."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"
