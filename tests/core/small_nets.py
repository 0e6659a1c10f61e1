"""Networks that several tests convert."""

from __future__ import annotations

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
