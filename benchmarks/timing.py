"""Fair timing on a shared machine: contenders take turns in one run, and only their ratios are trusted."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping

import torch


@dataclasses.dataclass(frozen=True)
class Timing:
    """Median time of one contender, and its ratio to the reference over the same turns, with quartiles."""

    milliseconds: float
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:.3g} ({self.low:.3g} to {self.high:.3g})"


def race(
    contenders: Mapping[str, Callable[[], object]], turns: int, warmup: int = 2, repeats: int = 1
) -> dict[str, Timing]:
    """Let contenders take turns; ratios are to the first one, turn by turn.

    A turn is ``repeats`` calls, between which a GPU is not waited for: times are of one of them.

    The order is drawn anew for every turn, always the same ones: what a contender finds in the caches is left there by
    whoever was before it, now and then by itself.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    orders = random.Random(0)
    with _no_garbage_collection():
        for turn in range(-warmup, turns):
            for name, contender in orders.sample(list(contenders.items()), len(contenders)):
                synchronize()
                start = time.perf_counter()
                for _ in range(repeats):
                    contender()
                synchronize()
                if turn >= 0:
                    times[name].append(1000 * (time.perf_counter() - start) / repeats)
    reference = next(iter(times.values()))
    out = {}
    for name, mine in times.items():
        ratios = [a / b for a, b in zip(mine, reference, strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        out[name] = Timing(statistics.median(mine), median, low, high)
    return out


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def machine(device: torch.device) -> str:
    """One line on what the figures were measured on."""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {versions}"
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {torch.get_num_threads()} threads, {versions}"


def bytes_per_second(device: torch.device, size: int = 1 << 28) -> float:
    """Memory bandwidth: bytes read plus bytes written by a copy far larger than any cache."""
    source, target = (torch.ones(size // 4, device=device) for _ in range(2))
    return 2 * size / _best(lambda: target.copy_(source))


def products_per_second(device: torch.device, side: int = 2048) -> float:
    """Floating-point operations per second of a large float32 matrix product."""
    a, b, out = (torch.ones(side, side, device=device) for _ in range(3))
    return 2 * side**3 / _best(lambda: torch.mm(a, b, out=out))


def _best(function: Callable[[], object], turns: int = 9) -> float:
    seconds = []
    for _ in range(turns):
        synchronize()
        start = time.perf_counter()
        function()
        synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
