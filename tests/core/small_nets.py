"""Networks that several tests convert."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

import convofconv as coc


def small_net(norm: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.Conv2d(8, 6, 1),
        nn.Conv2d(6, 10, (3, 1), stride=2, padding_mode="reflect", padding=(1, 0)),
    )


def maps_of(model, name):
    return [type(m).__name__ for m in coc.kernel_maps(model.get_submodule(name))]


class Tied(nn.Module):
    def __init__(self, one_module: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = self.first if one_module else nn.Conv2d(4, 4, 3, padding=1)
        self.second.weight = self.first.weight

    def forward(self, y):
        return self.second(self.first(y).relu())


class ReusingNet(nn.Module):
    """A stem, a depthwise conv, a conv that is called twice and one like it, a norm that batches do not couple."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.twin = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = F.silu(self.norm(self.stem(x)))
        x = F.silu(self.shared(x + self.depthwise(x)))
        x = self.twin(self.shared(F.avg_pool2d(x, 2)))
        return self.head(x.mean((2, 3)))


def normed_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.Sequential(nn.Conv2d(8, 6, 3, groups=2), nn.GroupNorm(2, 6)),
        nn.Conv2d(6, 4, 1),
    )
