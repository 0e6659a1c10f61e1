"""The kernel maps that every behaviour is tested with, and a network that uses its convs in every way there is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from reference import randomize
from torch import Tensor, nn

import convofconv as coc


class PerKernelGain(coc.KernelMap):
    """A map of a user's own, as short as CONTRIBUTING.md promises."""

    def __init__(self, kernels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(kernels))

    @classmethod
    def for_conv(cls, conv, config):
        return cls(conv.out_channels)

    def forward(self, weight):
        return self.gain.view(-1, *[1] * (weight.dim() - 1)) * weight


class Shifted(coc.KernelMap):
    """Another one, with a way to be computed for several layers at once."""

    def __init__(self, shape) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(shape))

    @classmethod
    def for_conv(cls, conv, config):
        return cls(conv.weight.shape)

    def forward(self, weight):
        return weight + self.shift

    def batch_key(self):
        return ()

    @classmethod
    def batched(cls, maps, kernels, stack):
        return kernels + stack([m.shift for m in maps])


Case = tuple[object, coc.Config]
#: What every map must do is tested with each of these. A new method of the package is among them by itself.
MAPS: dict[str, Case] = {
    **{name: (name, coc.Config()) for name in coc.METHODS},
    "coc+stnd": ("coc+stnd", coc.Config()),
    "released": ("coc", coc.PRESETS["released"]),
    "coc, kernels in an order": ("coc", coc.Config(grouping="random")),
    "own": (PerKernelGain, coc.Config()),
    "own, in batches": (Shifted, coc.Config()),
}
#: Further configurations, for what depends on how kernels are computed.
CONFIGURATIONS: dict[str, Case] = {
    "two layers of super kernels": ("coc", coc.Config(depth=2)),
    "without skip": ("coc", coc.Config(skip=False)),
    "by convolution": ("coc", coc.Config(grid_side=3, extra_width=6)),
    "within groups": ("coc", coc.Config(within_conv_groups=True)),
    "standardized super kernels": ("coc", coc.Config(standardize_super_kernel=True, depth=2)),
    "coc+orth": ("coc+orth", coc.Config()),
    "coc+doconv": ("coc+doconv", coc.Config()),
    "coc+own": (["coc", Shifted], coc.Config()),
    "orth of grouped convs": ("orth", coc.Config(within_conv_groups=True)),
    "doconv of grouped convs": ("doconv", coc.Config(within_conv_groups=True)),
    "shared over output channels": ("coc", coc.Config(share="output")),
    "shared over both": ("coc", coc.Config(share="both")),
}
#: Whose kernels are computed layer by layer, also where layers are alike.
ONE_BY_ONE = {"coc, kernels in an order", "own", "shared over output channels", "shared over both"}

every_map = pytest.mark.parametrize("name", MAPS)
every_configuration = pytest.mark.parametrize("name", [*MAPS, *CONFIGURATIONS])


class Norm(nn.GroupNorm):
    """Of elementary operations: torch's own has no forward mode of its backward, and takes no halves of two kinds."""

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.unflatten(1, (self.num_groups, -1))
        std, mean = torch.std_mean(grouped, (2, 3, 4), keepdim=True)
        normal = ((grouped - mean) / (std + self.eps)).flatten(1, 2)
        return normal * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


class Net(nn.Module):
    """A stem, a depthwise conv, four convs that are alike: one called twice and one never. Batches are not coupled."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.stem = self.layer(3, 6, 1)
        self.depthwise = self.layer(6, 6, 6)
        self.body = nn.ModuleList(self.layer(6, 6, groups) for _ in range(4))
        self.head = nn.Linear(6, 4)

    @staticmethod
    def layer(channels: int, out: int, groups: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, groups=groups), Norm(2, out), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.depthwise(x)
        x = self.body[1](self.body[0](x))
        x = self.body[2](self.body[2](F.avg_pool2d(x, 2)))
        return self.head(x.mean((2, 3)))


def plain_net(name: str) -> Net:
    """The network before conversion; grouped convs where the configuration is about them."""
    return Net(groups=2 if (MAPS | CONFIGURATIONS)[name][1].within_conv_groups else 1)


def converted_net(name: str) -> Net:
    """As it is before training."""
    method, config = (MAPS | CONFIGURATIONS)[name]
    return coc.convert(plain_net(name), method, config)


def trained_net(name: str) -> Net:
    """With kernel maps that have learnt something, in float64 to compare exactly."""
    model = converted_net(name)
    randomize(model)
    return model.double()


def converted_convs(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if coc.kernel_maps(module)]


def keeps_the_function(model: nn.Module) -> bool:
    """Whether the maps of a network say that they start as the identity."""
    return not any(m.changes_scale for conv in converted_convs(model) for m in coc.kernel_maps(conv))
