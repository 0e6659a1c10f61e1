"""Speed of the association alone and of whole training steps, by ratio, in one run.

    python -m benchmarks.association            # writes benchmarks/RESULTS.md
    python -m benchmarks.association --ways     # how the two ways of computing it compare, for the cost rule

Run it on an otherwise idle machine: contenders take turns, but two threads that share their cores with others wait for
each other.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import nn

import convofconv as coc
from convofconv.association import Grid, associate, choose_way

from .posters_way import PostersWay
from .posters_way import associate as posters_associate
from .timing import machine, race

LAYERS = [(64, 64, 3), (256, 256, 3), (512, 512, 3), (64, 3, 7), (512, 1, 3), (128, 128, 5)]
STEPS = {"resnet50": 8, "hrnet_w18": 4}
WAYS = [
    (64, 64, 3, 2),
    (512, 512, 3, 2),
    (64, 3, 7, 2),
    (512, 1, 3, 2),
    (96, 1, 5, 2),
    (256, 256, 3, 4),
    (256, 256, 3, 8),
]


def forward_backward(function: Callable[..., torch.Tensor], weight: torch.Tensor, grid: Grid) -> Callable[[], None]:
    """One forward and backward pass of an association, on leaves of its own."""
    weight = weight.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    super_kernel = torch.randn(1, *grid.super_shape("input"), requires_grad=True)
    upstream = torch.randn_like(weight)

    def run() -> None:
        weight.grad = super_kernel.grad = None
        function(weight, super_kernel, grid).backward(upstream)

    return run


def association_alone(turns: int) -> list[str]:
    lines = [
        "| layer | poster's way, ms | ours, ms | faster | ours, channels-last, ms | faster |",
        "|---|---|---|---|---|---|",
    ]
    for co, ci, k in LAYERS:
        weight = torch.randn(co, ci, k, k)
        grid = Grid.build(weight.shape, side=2, extra_width=2, dilated=True)
        last = weight.to(memory_format=torch.channels_last)
        contenders = {
            "ours": forward_backward(associate, weight, grid),
            "ours, channels-last": forward_backward(associate, last, grid),
            "poster": forward_backward(posters_associate, weight, grid),
        }
        # Ratios to ours; the poster's against the channels-last one through the medians of the same turns.
        times = race(contenders, turns)
        ours, ours_last, poster = (times[name] for name in contenders)
        lines.append(
            f"| {co}×{ci}×{k}×{k} | {poster.milliseconds:.2f} | {ours.milliseconds:.2f} | {poster}× | "
            f"{ours_last.milliseconds:.2f} | {poster.milliseconds / ours_last.milliseconds:.3g}× |"
        )
        print(lines[-1], flush=True)
    return lines


def training_step(model: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    labels = torch.randint(1000, (len(x),))

    def run() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return run


def whole_steps(turns: int) -> list[str]:
    lines = [
        "| network | batch | memory format | plain, ms | ours / plain | poster's way / plain |",
        "|---|---|---|---|---|---|",
    ]
    layouts = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
    for (name, batch), (layout, memory_format) in itertools.product(STEPS.items(), layouts.items()):
        plain = timm.create_model(name).to(memory_format=memory_format)
        x = torch.randn(batch, 3, 224, 224).to(memory_format=memory_format)
        ours = coc.convert(copy.deepcopy(plain))
        poster = coc.convert(copy.deepcopy(plain), PostersWay)
        times = race(
            {key: training_step(m, x) for key, m in (("plain", plain), ("ours", ours), ("poster", poster))}, turns
        )
        plain_ms = f"{times['plain'].milliseconds:.0f}"
        lines.append(f"| {name} | {batch} | {layout} | {plain_ms} | {times['ours']} | {times['poster']} |")
        print(lines[-1], flush=True)
    return lines


def compare_ways(turns: int) -> None:
    print("co, ci, k, side: time of the direct way / the matrix product; what choose_way takes")
    for co, ci, k, side in WAYS:
        weight = torch.randn(co, ci, k, k)
        grid = Grid.build(weight.shape, side, extra_width=2, dilated=True)
        contenders = {
            way: forward_backward(lambda w, s, g, way=way: associate(w, s, g, way=way), weight, grid)
            for way in ("matmul", "direct")
        }
        print(
            f"{co:4} {ci:4} {k} {side}:  {race(contenders, turns)['direct']}   {choose_way(grid, 'input')}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", action="store_true", help="compare the two ways of computing it and write nothing")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--turns", type=int, default=31, help="turns of every contender (a third for whole steps)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("RESULTS.md"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.ways:
        compare_ways(arguments.turns)
        return
    sections = [
        "# Speed",
        f"Written by `python -m benchmarks.association --turns {arguments.turns}` on {machine()}. Times are medians of "
        "interleaved turns; ratios are medians over turns, with their quartiles. float32, `poster` configuration.",
        "## The association alone, forward and backward",
        "\n".join(association_alone(arguments.turns)),
        "## A whole training step (SGD with momentum, 224 pixels, every conv with k ≠ 1 converted)",
        "\n".join(whole_steps(math.ceil(arguments.turns / 3))),
    ]
    arguments.out.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
