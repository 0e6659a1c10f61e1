"""Whole training steps of converted networks against plain ones.

    python -m benchmarks.train_step                                  # every network, on the CPU
    python -m benchmarks.train_step --networks ResNet-50 --turns 31
    python -m benchmarks.train_step --device cuda --batch 128 --autocast bfloat16 --compile

One record per network, memory format and run settings goes into ``benchmarks/results/train_step.jsonl``;
``python -m benchmarks.report`` makes the tables of them.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .contenders import CONTENDERS
from .networks import NETWORKS, Network
from .records import add_common_arguments, has_record, write_record
from .timing import race

LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
#: Networks on which other contenders run too (torch's orthogonal parametrization would take minutes for a step).
BROAD = {
    "ResNet-50": ("ours, released", "poster's way", "standardization", "ONI", "DO-Conv"),
    "ResNet-18": ("ours, released", "poster's way", "standardization", "ONI", "DO-Conv"),
    "HRNet-w18": ("ours, released", "poster's way", "standardization"),
}


def training_step(
    model: nn.Module, loss: Callable[[nn.Module], Tensor], autocast: torch.dtype | None = None
) -> Callable[[], None]:
    """One step of SGD with momentum."""
    model.train()
    device = next(model.parameters()).device
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def run() -> None:
        casting = torch.autocast(device.type, dtype=autocast) if autocast else contextlib.nullcontext()
        with casting:
            value = loss(model)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()  # last, so that no step begins with another's gradients in memory

    return run


def measure(network: Network, layout: str, arguments: argparse.Namespace) -> dict[str, object]:
    device, autocast = torch.device(arguments.device), getattr(torch, arguments.autocast or "", None)
    batch = arguments.batch or network.batch
    torch.manual_seed(0)
    plain = network.build().to(device=device, memory_format=LAYOUTS[layout])
    loss = network.loss(device, LAYOUTS[layout], batch)
    names = ["plain", "ours"]
    names += BROAD.get(network.name, ()) if layout == "contiguous" and not arguments.only_ours else ()
    steps = {}
    for name in names:
        model = copy.deepcopy(plain)
        CONTENDERS[name](model)
        if arguments.compile:
            model.compile(mode=arguments.compile_mode)
        steps[name] = training_step(model, loss, autocast)
    # Training seldom waits for the GPU, so the CPU launches a step while the GPU is still at the one before.
    times = race(steps, arguments.turns, repeats=5 if device.type == "cuda" else 1)
    return {
        "target": network.target,
        "pixels": network.pixels,
        "times": {name: vars(timing) for name, timing in times.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser, turns=15)
    known = [network.name for network in NETWORKS]
    parser.add_argument("--networks", nargs="+", choices=known, default=known, metavar="NAME", help=", ".join(known))
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--batch", type=int, help="another batch size than the network's own")
    parser.add_argument("--autocast", choices=["bfloat16", "float16"])
    parser.add_argument("--compile", action="store_true", help="compile every contender")
    parser.add_argument("--compile-mode", choices=["default", "reduce-overhead", "max-autotune"], default="default")
    parser.add_argument("--only-ours", action="store_true", help="leave the other contenders out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for network in NETWORKS:
        for layout in arguments.layouts:
            settings = {
                "network": network.name,
                "layout": layout,
                "batch": arguments.batch or network.batch,
                "autocast": arguments.autocast or "float32",
                "compiled": arguments.compile_mode if arguments.compile else "eager",
            }
            if network.name not in arguments.networks or has_record("train_step", settings, arguments):
                continue
            if network.task == "detection" and layout == "channels-last":
                continue  # torchvision's detectors stack their images contiguously
            record = {**settings, **measure(network, layout, arguments)}
            write_record("train_step", settings, record, arguments)
            ratios = ", ".join(f"{name} {timing['ratio']:.3f}" for name, timing in record["times"].items())
            print(f"{network} ({layout}, {settings['autocast']}, {settings['compiled']}): {ratios}", flush=True)


if __name__ == "__main__":
    main()
