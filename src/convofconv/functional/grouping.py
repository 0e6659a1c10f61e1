"""Which kernels form a group, where that is not the paper's consecutive ones: an order of the kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .grid import Grid


def random_order(grid: Grid) -> Tensor:
    """A permutation of the kernels from torch's random stream, within every block of the grid.

    Shape:
        - result: ``(co,)``, int64 on the CPU; entry ``j`` is the kernel at place ``j``

    Examples:
        >>> order = random_order(Grid.build((8, 3, 3, 3), side=2, extra_width=2, dilated=True, blocks=2))
        >>> order[:4].sort().values, order[4:].sort().values
        (tensor([0, 1, 2, 3]), tensor([4, 5, 6, 7]))
    """
    n = grid.block_channels
    return torch.cat([block * n + torch.randperm(n, device="cpu") for block in range(grid.blocks)])


def similar_order(weight: Tensor, grid: Grid) -> Tensor:
    """An order that puts similar kernels into one group, greedily within every block of the grid.

    Every group is the first kernel that has none yet and those free ones that are most similar to it by cosine, the
    most similar first; of equally similar ones the first.

    Shape:
        - weight: ``(co, ci, k_1, ..., k_d)``
        - result: ``(co,)``, int64 on the CPU; entry ``j`` is the kernel at place ``j``

    Examples:
        >>> weight = torch.tensor([1.0, -1.0, 2.0, -3.0]).view(4, 1, 1)
        >>> similar_order(weight, Grid.build(weight.shape, side=2, extra_width=2, dilated=True))
        tensor([0, 2, 1, 3])
    """
    kernels = weight.detach().to("cpu", torch.promote_types(weight.dtype, torch.float32)).flatten(1)
    order: list[int] = []
    for block in F.normalize(kernels).split(grid.block_channels):
        start, similarity = len(order), block @ block.T
        free = list(range(len(block)))
        while free:
            first, *others = free
            nearest = similarity[first, others].argsort(descending=True, stable=True)[: grid.cells - 1]
            group = [first, *(others[i] for i in nearest.tolist())]
            order += [start + kernel for kernel in group]
            free = sorted({*free} - {*group})
    return torch.tensor(order, device="cpu")
