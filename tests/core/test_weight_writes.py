"""Writing into the weight of a converted conv, which is computed: warned about, and refused in a forward."""

from __future__ import annotations

import re

import pytest
import torch
from reference import relative
from small_nets import normed_net
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import convofconv as coc


@pytest.fixture
def x():
    return torch.randn(2, 3, 9, 9)


def test_initialising_a_converted_conv_is_warned_about():
    model = coc.convert(normed_net())

    def init_weights(module):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)

    with pytest.warns(coc.ConversionWarning, match=r"init_weights\(\) reads .* uses kaiming_normal_: writing into"):
        model.apply(init_weights)
    with pytest.warns(coc.ConversionWarning, match="data = ..."):
        nn.utils.convert_conv2d_weight_memory_format(model[0], torch.channels_last)


def _copy(conv, other):
    with torch.no_grad():
        conv.weight.copy_(other)


def _replace(conv, other):
    conv.weight.data = other.clone()


def _scale(conv, other):
    conv.weight.data.mul_(2).add_(other)


def _clip(conv, other):
    with torch.no_grad():
        conv.weight.clamp_(-1, 1)


def _mask(conv, other):
    conv.weight.data *= other


def _item(conv, other):
    with torch.no_grad():
        conv.weight[0] = 0


def _part(conv, other):
    conv.weight.data[1:].detach().view(-1).zero_()


def _scale_item(conv, other):
    conv.weight.data[0, 0] *= 0


def _variable(conv, other):
    weight = None
    for _ in range(2):
        if weight is not None:
            weight.data.mul_(2)
        weight = conv.weight


def _variable_at_once(conv, other):
    with torch.no_grad():
        weight = conv.weight
        weight *= 2


def _average(conv, other):
    """Of two converted convs, one of which is only read."""
    conv.weight.data.mul_(0.9).add_(conv.weight, alpha=0.1)


def _by_name(conv, other):
    for name in ("weight", "bias"):
        getattr(conv, name).data.fill_(0)


def _set_by_name(conv, other):
    setattr(conv.weight, "data", other)  # noqa: B010


def _imported(conv, other):
    from torch.nn.init import orthogonal_

    orthogonal_(conv.weight, gain=2)


def _named(conv, other):
    nn.init.constant_(val=0, tensor=conv.weight)


def _of_torch(conv, other):
    with torch.no_grad():
        torch.relu_(conv.weight)


def _out(conv, other):
    with torch.no_grad():
        torch.mul(other, 2, out=conv.weight)


def _far(conv, other):
    """Behind so many names that the instruction which reads the weight takes more than one."""
    names = "; ".join(f"other.name_{i} = 0" for i in range(300))
    found = {}
    exec(f"def far(conv, other): {names}; conv.weight.data.zero_()", found)
    found["far"](conv, other)


def _either(conv, other):
    (conv.weight if conv.training else other).data.zero_()


@pytest.mark.parametrize(
    ("write", "how"),
    [
        (_copy, "copy_"),
        (_replace, "data = ..."),
        (_scale, "add_, mul_"),
        (_clip, "clamp_"),
        (_mask, "data = ..."),
        (_item, "weight[...] = ..."),
        (_part, "zero_"),
        (_scale_item, "data[...] = ..."),
        (_variable, "mul_"),
        (_variable_at_once, "an augmented assignment"),
        (_average, "add_, mul_"),
        (_by_name, "fill_"),
        (_set_by_name, "data = ..."),
        (_imported, "orthogonal_"),
        (_named, "constant_"),
        (_of_torch, "relu_"),
        (_out, "out=..."),
        (_far, "zero_"),
        (_either, "zero_"),
    ],
)
def test_writing_into_a_computed_weight_is_warned_about(write, how):
    conv, other = coc.convert(nn.Conv2d(4, 4, 3)), torch.ones(4, 4, 3, 3)
    with pytest.warns(coc.ConversionWarning, match=rf"{write.__name__[1:]}\(\) reads .* uses {re.escape(how)}: writ"):
        write(conv, other)


def _read(conv, other):
    norm = conv.weight.data.norm()
    other.mul_(0.9).add_(conv.weight.detach(), alpha=0.1)
    other.data = other + conv.weight.requires_grad_().detach().__abs__()
    return norm


def _copy_from(conv, other):
    """Reading into something of the same name."""
    fresh = nn.Conv2d(4, 4, 3)
    fresh.weight.data.copy_(conv.weight)
    fresh.weight.data[0] = conv.weight[0]
    fresh.weight.data *= conv.weight
    nn.init.normal_(fresh.weight, std=conv.weight.std().item())
    return fresh


def _fuse(conv, other):
    """As RepViT of timm does, and torch: the product is new."""
    weight = conv.weight * torch.ones(4)[:, None, None, None]
    fused = nn.Conv2d(weight.size(1) * conv.groups, weight.size(0), weight.shape[2:], device=conv.weight.device)
    fused.weight.data.copy_(weight)
    weight += 1
    return fused


def _assign(conv, other):
    """What is written is assigned, and so not lost."""
    with torch.no_grad():
        conv.weight *= 2


def _compute(conv, other):
    weight = conv.weight.mul(2)
    weight.mul_(2)
    return nn.functional.conv2d(other, weight.clamp_(max=1), stride=1)


def _variable_of_something_else(conv, other):
    weight = conv.weight.abs()
    weight = other + weight
    weight.zero_()


def _update_average(conv, other):
    """A method of ours, no function."""

    class Average:
        def update_(self, weight):
            return weight + other

    average = Average()
    average.update_(conv.weight)


def _initialise_the_rest(conv, other):
    for module in nn.Sequential(conv, nn.Linear(3, 3)).modules():
        if getattr(module, "weight", None) is not None and isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "read",
    [
        _read,
        _copy_from,
        _fuse,
        _assign,
        _compute,
        _variable_of_something_else,
        _update_average,
        _initialise_the_rest,
    ],
)
def test_reading_a_computed_weight_and_writing_into_something_else_is_not(read):
    read(coc.convert(nn.Conv2d(4, 4, 3)), torch.ones(4, 4, 3, 3))


@pytest.mark.filterwarnings("error")
def test_torchs_own_fusing_of_tensors_is_not():
    model = coc.convert(normed_net()).eval()
    norm = model[1]
    weight, _ = nn.utils.fusion.fuse_conv_bn_weights(
        model[0].weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    assert relative(weight, fuse_conv_bn_eval(coc.reparameterize(model)[0], norm).weight) < 1e-6


def test_a_function_is_warned_about_once():
    model = coc.convert(normed_net())

    def zero():
        for conv in (model[0], model[2][0]) * 20:  # long enough for Python to adapt its instructions
            conv.weight.data.zero_()

    with pytest.warns(coc.ConversionWarning) as record:
        zero()
    assert len(record) == 1
    assert record[0].filename == __file__


class Outer(nn.Module):
    """Two convs and a forward that does something to them first, in a way that only its run shows."""

    def __init__(self, first) -> None:
        super().__init__()
        self.first, self.conv, self.other = first, nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x):
        self.first(self)
        return self.other(self.conv(x))


def _clip_all(model):
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.clamp_(-0.01, 0.01)


def _clip_by_name(model):
    for name in ("conv", "other"):
        getattr(model, name).weight.data.clamp_(-0.01, 0.01)


@pytest.mark.parametrize("first", [_clip_all, _clip_by_name])
def test_writing_in_the_middle_of_a_forward_is_refused(first, x):
    """It would be lost, or in some forwards not, and the folded network would be another."""
    model = coc.convert(Outer(first))
    for _ in range(20):  # long enough for Python to adapt its instructions
        with pytest.raises(coc.SurgeryError, match=rf"^conv of Outer: {first.__name__}\(\) writes .* \(clamp_\)"):
            model(x)
    with pytest.warns(coc.ConversionWarning, match="uses clamp_: writing into that weight has no effect"):
        first(model)


def test_hooks_that_write_are_refused(x):
    model = coc.convert(normed_net())
    model.register_forward_pre_hook(lambda net, _: net[0].weight.data.clamp_(-1, 1))
    with pytest.raises(
        coc.SurgeryError, match=r"^0 of Sequential: <lambda>\(\) writes into its weight \(clamp_\) during a forward"
    ):
        model(x)


def test_a_forward_may_initialise_other_networks(x):
    """What runs is the forward of a network that does not hold the conv."""
    other = coc.convert(normed_net())

    class Net(nn.Module):
        def forward(self, x):
            nn.init.zeros_(other[0].weight)
            return x

    with pytest.warns(coc.ConversionWarning, match="zeros_"):
        Net()(x)
