"""Convs that stay plain because something of the user's writes into their weights."""

from __future__ import annotations

import pytest
import torch
from reference import randomize
from torch import nn

import convofconv as coc


class Masked(nn.Conv2d):
    """PixelCNN's: the kernel's future is set to zero before every use."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.register_buffer("mask", torch.ones_like(self.weight))
        self.mask[:, :, 1, 1:] = self.mask[:, :, 2:] = 0

    def forward(self, x):
        self.weight.data *= self.mask
        return super().forward(x)


class MaskedByIndex(Masked):
    def forward(self, x):
        self.weight.data[self.mask == 0] = 0
        return nn.Conv2d.forward(self, x)


class MaskedByAssignment(Masked):
    def forward(self, x):
        with torch.no_grad():
            self.weight *= self.mask
        return nn.Conv2d.forward(self, x)


class Renormed(nn.Conv2d):
    """EEGNet's, in a method of its own."""

    def forward(self, x):
        self.renorm()
        return super().forward(x)

    def renorm(self):
        self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=1)


class Bounded(nn.Conv2d):
    def forward(self, x):
        with torch.no_grad():
            self.weight.clamp_(-1, 1)
        return super().forward(x)


class Inherited(Masked):
    def forward(self, x):
        return super().forward(x).relu()


class Detached(nn.Conv2d):
    """Goes past autograd in a way that is not followed."""

    def forward(self, x):
        for row in self.weight.data.numpy():
            row[:] = row.clip(-1, 1)
        return super().forward(x)


@pytest.mark.parametrize(
    ("cls", "how"),
    [
        (Masked, "data = ..."),
        (MaskedByIndex, "data[...] = ..."),
        (Inherited, "data = ..."),
        (Detached, "weight.data"),
        (MaskedByAssignment, "weight = ..."),
        (Renormed, "data = ..."),
        (Bounded, "clamp_"),
    ],
)
def test_a_conv_whose_forward_writes_into_its_weight_stays_plain(cls, how):
    """The write would be lost wherever no kernel is kept: under compile, checkpointing, in other methods."""
    model = coc.convert(nn.Sequential(cls(3, 8, 3), nn.Conv2d(8, 8, 3)))
    summary = coc.summary(model)
    assert [c.name for c in summary.converted] == ["1"]
    assert summary.skipped[0].skipped_because == f"its forward writes into its own weight ({how})"


class Own(nn.Conv2d):
    """Computes with its weight, as weight standardization, mask and scale do; nothing is written."""

    def forward(self, x):
        weight = self.weight * self.weight.detach().abs().mean()
        return self.scaled(self._conv_forward(x, weight, self.bias))

    def scaled(self, out):
        return out.mul_(2)


def test_a_conv_whose_forward_computes_with_its_weight_is_converted(x):
    model = nn.Sequential(Own(3, 8, 3)).eval()
    expected = model(x)
    assert torch.equal(coc.convert(model)(x), expected)
    assert coc.kernel_maps(model[0])


class Block(nn.Module):
    """Its forward writes into the weight of a conv that it holds, first of all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.body = nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())
        self.mask = (torch.arange(72).view(8, 3, 1, 3)[..., :3] % 2).float()

    def forward(self, x):
        with torch.no_grad():
            self.write()
        return self.body(self.conv(x))

    def write(self):
        self.conv.weight.mul_(self.mask)


class ByData(Block):
    def write(self):
        self.conv.weight.data *= self.mask


class Nested(Block):
    def write(self):
        self.body[0].weight.data.clamp_(-0.1, 0.1)


class Copied(Block):
    def write(self):
        self.conv.weight.copy_(self.conv.weight * self.mask)


class ByItem(Block):
    def write(self):
        weight = self.conv.weight
        weight[0] = 0


class AssignedParameter(Block):
    def write(self):
        self.conv.weight = nn.Parameter(self.conv.weight * self.mask)


class AssignedData(Block):
    def write(self):
        conv = self.conv
        conv.weight.data = conv.weight * self.mask


def _limit(conv, largest):
    conv.weight.renorm_(2, 0, maxnorm=largest)


class ByFunction(Block):
    def write(self):
        _limit(self.conv, largest=0.1)


class OfAWeight(Block):
    def write(self):
        self._limit(self.body[0].weight)

    @staticmethod
    def _limit(kernels):
        kernels.clamp_(-0.1, 0.1)


class Checkpointed(Block):
    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=False)


class InItsForward(Block):
    def forward(self, x):
        self.conv.weight.data.mul_(self.mask)
        return self.body(self.conv(x))


class ByInheritance(InItsForward):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize(
    ("cls", "how"),
    [
        (Block, "mul_"),
        (ByData, "data = ..."),
        (Nested, "clamp_"),
        (Copied, "copy_"),
        (ByItem, "weight[...] = ..."),
        (AssignedParameter, "weight = ..."),
        (AssignedData, "data = ..."),
        (ByFunction, "renorm_"),
        (OfAWeight, "clamp_"),
        (Checkpointed, "mul_"),
        (InItsForward, "mul_"),
        (ByInheritance, "mul_"),
    ],
)
def test_a_conv_whose_outer_module_writes_into_its_weight_stays_plain(cls, how, x):
    model = nn.Sequential(cls(), nn.Conv2d(8, 8, 3)).eval()
    written, free = ("body.0", "conv") if cls in (Nested, OfAWeight) else ("conv", "body.0")
    expected = model(x)
    before = {conv.name: conv.skipped_because for conv in coc.summary(model).skipped}
    assert before[f"0.{written}"] == f"{cls.__name__}.forward writes into its weight ({how})"
    coc.convert(model)
    assert [conv.name for conv in coc.summary(model).converted] == [f"0.{free}", "1"]
    assert torch.equal(model(x), expected)
    randomize(model)
    assert coc.verify(model, coc.reparameterize(model), x) <= 1e-5
    with pytest.raises(coc.SurgeryError, match=rf"{written} \({cls.__name__}\.forward writes into its weight"):
        coc.convert(cls(), where=written)


class Halve:
    def __call__(self, module, inputs):
        module.weight.data *= 0.5


def _clamp(module, inputs):
    with torch.no_grad():
        module.weight.clamp_(-0.1, 0.1)


@pytest.mark.parametrize(("hook", "name"), [(Halve(), "Halve"), (_clamp, "_clamp")])
def test_a_conv_whose_hook_writes_into_its_weight_stays_plain(hook, name):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    model[0].register_forward_pre_hook(hook)
    summary = coc.summary(coc.convert(model))
    assert [conv.name for conv in summary.converted] == ["1"]
    assert summary.skipped[0].skipped_because.startswith(f"the hook {name} writes into its weight (")


def test_convs_that_are_tied_to_one_that_is_written_into_stay_plain():
    model = nn.Sequential(Masked(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    model[1].weight = model[0].weight
    assert [conv.name for conv in coc.summary(coc.convert(model)).converted] == ["2"]


class Reads(Block):
    """Computes with weights, and writes into what is none of a conv's."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.average = torch.zeros(8, 3, 3, 3)

    def write(self):
        self.norm.weight.clamp_(min=0)
        self.average.mul_(0.9).add_(self.conv.weight, alpha=0.1)
        self.loss = self.conv.weight.data.norm() + self.body[0].weight.square().mul_(2).sum()
        self.body[0].bias.zero_()


class Overrides(InItsForward):
    """Inherits a forward that writes, and does not use it."""

    def forward(self, x):
        return self.body(self.conv(x))


@pytest.mark.parametrize("cls", [Reads, Overrides])
def test_convs_whose_outer_module_only_reads_their_weights_are_converted(cls, x):
    model = coc.convert(cls())
    assert [conv.name for conv in coc.summary(model).converted] == ["conv", "body.0"]
    model(x)
