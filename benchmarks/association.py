"""The association alone, forward and backward: against its floor and its contenders, and as layers get wider.

    python -m benchmarks.association             # records for benchmarks/report.py
    python -m benchmarks.association --ways      # how the ways of computing it compare, for the cost rule

The floor is the larger of moving five times the weight's bytes (read W, write W'; read its gradient, read W, write W's
gradient) at the machine's measured bandwidth, nothing of it in a cache, and the floating-point operations of the three
matrix products at the measured rate of a large one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

import convofconv as coc
from convofconv.functional.association import associate
from convofconv.functional.grid import Grid
from convofconv.functional.super_matrix import choose_way

from .contenders import PostersWay
from .records import add_common_arguments, has_record, write_record
from .timing import bytes_per_second, products_per_second, race

LAYERS = [(64, 64, 3), (256, 256, 3), (512, 512, 3), (64, 3, 7), (512, 1, 3), (128, 128, 5)]
WIDTHS = (64, 128, 256, 512, 1024, 2048)
SIDES = (1, 2, 3, 4, 6, 8)
WAYS = [
    ((64, 64, 3, 3), 2),
    ((512, 512, 3, 3), 2),
    ((64, 3, 7, 7), 2),
    ((512, 1, 3, 3), 2),
    ((96, 1, 5, 5), 2),
    ((256, 256, 3, 3), 4),
    ((256, 256, 3, 3), 8),
    ((32, 16, 5, 5, 5), 2),
    ((64, 64, 5, 5, 5), 2),
    ((256, 256, 5, 5, 5), 2),
    ((16, 1, 5, 5, 5), 2),
    ((32, 32, 7, 7, 7), 2),
]
#: Layers on which everything else that changes a kernel is measured too.
PEERS = ((128, 128, 3), (512, 512, 3))
#: torch's orthogonal parametrization takes 1 s on 128×128×3×3 and 10 s on 256×256×3×3: not measured beyond this.
_ORTHOGONAL_NUMBERS = 128 * 128 * 9


def forward_backward(kernel_map: nn.Module, weight: Tensor) -> Callable[[], None]:
    """One forward and backward pass of a kernel map, on leaves of its own."""
    weight = weight.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    upstream = torch.randn_like(weight)

    def run() -> None:
        weight.grad = None
        kernel_map.zero_grad()
        kernel_map(weight).backward(upstream)

    return run


def contenders(weight: Tensor, config: coc.Config, peers: bool) -> dict[str, Callable[[], None]]:
    """Ours in both memory formats, the poster's way, and on request everything else that changes a kernel."""
    ours = coc.SpatialAssociation(weight.shape, config, device=weight.device)
    maps: dict[str, tuple[nn.Module, Tensor]] = {
        "ours": (ours, weight),
        "ours, channels-last": (ours, weight.to(memory_format=torch.channels_last)),
        "poster's way": (PostersWay(ours), weight),
    }
    if peers:
        released = coc.SpatialAssociation(weight.shape, "released", device=weight.device)
        maps["ours, released"] = (released, weight)
        maps["standardization"] = (coc.Standardization(), weight)
        maps["ONI"] = (coc.Orthogonalization(), weight)
        maps["DO-Conv"] = (coc.DepthwiseOverparameterization(weight.shape), weight)
        if weight.numel() <= _ORTHOGONAL_NUMBERS:
            rows = nn.Linear(weight[0].numel(), len(weight), bias=False, device=weight.device)
            nn.utils.parametrizations.orthogonal(rows)
            (registered,) = rows.parametrizations.weight
            maps["torch's orthogonal"] = (registered, weight.flatten(1))
    return {name: forward_backward(kernel_map.to(weight.device), w) for name, (kernel_map, w) in maps.items()}


def compare_ways(turns: int) -> None:
    print("weight, side: time of the direct way / that by matrices; what choose_way takes")
    for shape, side in WAYS:
        weight = torch.randn(shape)
        grid = Grid.build(weight.shape, side, extra_width=2, dilated=True)
        super_kernel = torch.randn(1, *grid.super_shape("input"), requires_grad=True)
        leaf, upstream = weight.requires_grad_(), torch.randn_like(weight)

        def run(way, leaf=leaf, super_kernel=super_kernel, grid=grid, upstream=upstream):
            torch.autograd.grad(associate(leaf, super_kernel, grid, way=way), (leaf, super_kernel), upstream)

        by_matrices = "index" if len(shape) == 5 else "matmul"
        times = race({way: lambda way=way, run=run: run(way) for way in (by_matrices, "direct")}, turns)
        print(f"{'×'.join(map(str, shape))}, {side}:  {times['direct']}   {choose_way(grid, 'input')}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser, turns=31)
    parser.add_argument("--ways", action="store_true", help="compare the two ways of computing it and record nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.ways:
        compare_ways(arguments.turns)
        return
    device = torch.device(arguments.device)
    rows = [(*layer, 2) for layer in LAYERS]
    rows += [(width, width, 3, 2) for width in WIDTHS if (width, width, 3) not in LAYERS]
    rows += [(256, 256, 3, side) for side in SIDES if side != 2]
    bandwidth, rate = bytes_per_second(device), products_per_second(device)
    for co, ci, k, side in rows:
        settings = {"co": co, "ci": ci, "k": k, "side": side}
        if has_record("association", settings, arguments):
            continue
        weight = torch.randn(co, ci, k, k, device=device)
        config = coc.Config(grid_side=side)
        grid = Grid.build(weight.shape, side, config.extra_width, config.dilated)
        times = race(contenders(weight, config, peers=(co, ci, k) in PEERS and side == 2), arguments.turns)
        record = {
            "times": {name: vars(timing) for name, timing in times.items()},
            "floor_bytes_ms": 1e3 * 5 * weight.nbytes / bandwidth,
            "floor_products_ms": 1e3 * 3 * 2 * grid.positions * weight.numel() / rate,
            "bytes_per_second": bandwidth,
            "products_per_second": rate,
            "way": choose_way(grid, "input"),
        }
        write_record("association", settings, record, arguments)
        print(settings, *(f"{name} {timing.milliseconds:.2f} ms" for name, timing in times.items()), flush=True)


if __name__ == "__main__":
    main()
