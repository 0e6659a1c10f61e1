"""What the two surgeries cost, and what a folded network costs afterwards: nothing, because its graph is the plain one.

python -m benchmarks.folding
"""

from __future__ import annotations

import argparse
import copy
import functools
import statistics
import time

import torch
from torch import nn

import convofconv as coc

from .contenders import EVERYTHING
from .networks import NETWORKS
from .records import add_common_arguments, has_record, write_record
from .timing import race, synchronize


def graph(model: nn.Module, x: torch.Tensor) -> str:
    """The operations of a network and what they read, as text."""
    return str(torch.export.export(model, (x,)).graph)


def _now() -> float:
    synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser, turns=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    for network in NETWORKS:
        settings = {"network": network.name}
        if network.task != "classification" or has_record("folding", settings, arguments):
            continue
        plain = network.build().to(device)
        seconds: dict[str, list[float]] = {"convert": [], "reparameterize": []}
        for _ in range(5):
            model = copy.deepcopy(plain)
            start = _now()
            coc.convert(model, where=EVERYTHING)
            seconds["convert"].append(_now() - start)
            start = _now()
            folded = coc.reparameterize(model, inplace=True)
            seconds["reparameterize"].append(_now() - start)
        plain.eval()
        folded.eval()
        x = torch.randn(1, 3, network.pixels, network.pixels, device=device)
        with torch.inference_mode():
            times = race(
                {"plain": functools.partial(plain, x), "folded": functools.partial(folded, x)}, arguments.turns
            )
        record = {
            **{f"{name}_s": statistics.median(values) for name, values in seconds.items()},
            "graphs_equal": graph(plain, x) == graph(folded, x),
            "times": {name: vars(timing) for name, timing in times.items()},
        }
        write_record("folding", settings, record, arguments)
        print(network.name, record, flush=True)


if __name__ == "__main__":
    main()
