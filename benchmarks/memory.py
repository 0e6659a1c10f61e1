"""Peak memory of a training step, converted against plain.

python -m benchmarks.memory
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torch
from torch import nn

import convofconv as coc

from .contenders import CONTENDERS
from .networks import NETWORKS
from .records import add_common_arguments, has_record, write_record
from .train_step import LAYOUTS, training_step


def peak_memory(step: Callable[[], None], device: torch.device) -> int:
    """Most bytes allocated during one step beyond those allocated before it, which are weights and momentum."""
    for _ in range(2):  # the optimizer's state, and what libraries keep from their first call
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def converted_bytes(model: nn.Module) -> int:
    """Bytes of the kernels that are computed."""
    return sum(module.parametrizations.weight.original.nbytes for module in model.modules() if coc.kernel_maps(module))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser, turns=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    for network in NETWORKS:
        for layout in LAYOUTS:
            settings = {"network": network.name, "layout": layout}
            if has_record("memory", settings, arguments) or (network.task == "detection" and layout != "contiguous"):
                continue
            torch.manual_seed(0)
            plain = network.build().to(device=device, memory_format=LAYOUTS[layout])
            ours = copy.deepcopy(plain)
            CONTENDERS["ours"](ours)
            loss = network.loss(device, LAYOUTS[layout], network.batch)
            record = {
                "kernel_bytes": converted_bytes(ours),
                "plain_peak_bytes": peak_memory(training_step(plain, loss), device),
                "ours_peak_bytes": peak_memory(training_step(ours, loss), device),
            }
            write_record("memory", settings, record, arguments)
            print(f"{network} ({layout}): {record}", flush=True)


if __name__ == "__main__":
    main()
