"""Which convs are converted, by kind and by name, and what can never be."""

from __future__ import annotations

import copy
import re
import warnings

import pytest
import torch
from reference import randomize
from small_nets import maps_of, small_net
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

import convofconv as coc

#: Of :func:`small_net`: the stem, a depthwise one, a 1×1 and another.
CONVS = ("0", "3", "5", "6")


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, "036"),
        ({"stem": False}, "36"),
        ({"depthwise": False}, "06"),
        ({"pointwise": True}, "0356"),
        ({"stem": False, "depthwise": False, "pointwise": True}, "56"),
        ({"include": ["[0-5]"]}, "03"),
        ({"include": ["[0-5]"], "pointwise": True, "stem": False}, "35"),
        ({"exclude": "6"}, "03"),
        ({"include": ["0", "6"], "exclude": ["6"]}, "0"),
    ],
)
def test_selection_by_kind_and_name(chosen, expected):
    model = coc.convert(small_net(), where=coc.Selection(**chosen))
    assert [name for name in CONVS if maps_of(model, name)] == list(expected)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("*", "0356"),
        (["5", "6"], "56"),
        (lambda name, conv: conv.groups == 1, "056"),
    ],
)
def test_names_and_functions_choose_among_all_kinds(where, expected):
    model = coc.convert(small_net(), where=where)
    assert [name for name in CONVS if maps_of(model, name)] == list(expected)


def _quantized(conv):
    conv.weight_fake_quant = nn.Identity()
    return conv


def _normed(conv):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch recommends the other one
        return weight_norm(conv)


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (_quantized, "prepared for quantization: convert before that"),
        (_normed, "weight is computed by a hook (weight_norm, spectral_norm or pruning)"),
        (lambda conv: prune.random_unstructured(conv, "weight", 0.5), "weight is computed by a hook"),
        (parametrizations.weight_norm, "weight is parametrized already (_WeightNorm)"),
        (lambda conv: nn.ConvTranspose2d(8, 8, 3), "transposed convolution"),
        (lambda conv: nn.LazyConv2d(8, 3), "lazy and not initialised: run a forward pass first"),
    ],
)
def test_what_can_never_be_converted_is_told(prepare, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's, of lazy modules
        conv = prepare(nn.Conv2d(8, 8, 3))
    model = coc.convert(nn.Sequential(nn.Conv2d(3, 8, 3), conv))
    assert maps_of(model, "1") == []
    (skipped,) = coc.summary(model).skipped
    assert skipped.skipped_because.startswith(reason)


class Bank(nn.Conv2d):
    """Several kernels per output channel, mixed by the input: the common form of CondConv."""

    def __init__(self) -> None:
        super().__init__(3, 8, 3)
        self.weight = nn.Parameter(torch.randn(4, 8, 3, 3, 3))

    def forward(self, x):
        return self._conv_forward(x, (self.weight * x.mean()).sum(0), self.bias)


class BankOfNoConv2d(nn.modules.conv._ConvNd):
    """The same of torch's base class: what tells it from a 3-d conv are its attributes."""

    def __init__(self) -> None:
        super().__init__(3, 8, (3, 3), (1, 1), (0, 0), (1, 1), False, (0, 0), 1, True, "zeros")
        self.weight = nn.Parameter(torch.randn(4, 8, 3, 3, 3))

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight.mean(0), self.bias)


class Bare(nn.Conv2d):
    """Has none of a conv's attributes but the kernel size, and that as a number."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.kernel_size = 3
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3))


class Computed(nn.Conv2d):
    """Its weight is a property, for which there is no hook."""

    def __init__(self) -> None:
        super().__init__(3, 8, 3)
        self.raw = self._parameters.pop("weight")

    @property
    def weight(self):
        return self.raw * 2

    @weight.setter
    def weight(self, value):
        self._parameters["weight"] = value


def _flat():
    conv = nn.Conv2d(3, 8, 3)
    conv.weight = nn.Parameter(conv.weight.flatten(1))
    return conv


def _fixed():
    conv = nn.Conv2d(3, 8, 3)
    weight = conv.weight
    del conv.weight
    conv.register_buffer("weight", weight.detach())
    return conv


def _empty():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's, of what it cannot initialise
        return nn.Conv2d(3, 0, 3)


def _with(**attributes):
    conv = nn.Conv2d(4, 8, 3)
    for name, value in attributes.items():
        setattr(conv, name, value)
    return conv


NO_CONVS = {
    "bank": (Bank, "its weight has shape (4, 8, 3, 3, 3), not that of a conv: Bank 3→8, 3×3 needs (8, 3, 3, 3)"),
    "bank of no Conv2d": (BankOfNoConv2d, "its weight has shape (4, 8, 3, 3, 3), not that of a conv: "),
    "flat": (_flat, "its weight has shape (8, 27), not that of a conv: Conv2d 3→8, 3×3 needs (8, 3, 3, 3)"),
    "empty": (_empty, "its weight has shape (0, 3, 3, 3), not that of a conv: Conv2d 3→0, 3×3 is none"),
    "bare": (Bare, "its weight has shape (8, 3, 3, 3), not that of a conv: Bare ?→?, 3 is none"),
    "groups": (lambda: _with(groups=3), "its weight has shape (8, 4, 3, 3), not that of a conv: "),
    "kernel size": (lambda: _with(kernel_size=(5, 5)), "its weight has shape (8, 4, 3, 3), not that of a conv: "),
    "axes": (lambda: _with(kernel_size=(3, 3, 3)), "its weight has shape (8, 4, 3, 3), not that of a conv: "),
    "channels": (lambda: _with(out_channels=6), "its weight has shape (8, 4, 3, 3), not that of a conv: "),
    "property": (Computed, "weight is a property of its class, not a parameter"),
    "buffer": (_fixed, "weight is a buffer, not a parameter"),
}


every_weight_that_is_no_convs = pytest.mark.parametrize(("make", "reason"), NO_CONVS.values(), ids=NO_CONVS.keys())


@every_weight_that_is_no_convs
def test_a_weight_that_is_no_convs_is_skipped_and_stops_nothing(make, reason):
    model = nn.Sequential(make(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    before = coc.summary(model).skipped[0]
    assert before.skipped_because.startswith(reason)
    chosen = ["*", coc.Selection(depthwise=False), lambda name, conv: True]
    for method, where in [(method, None) for method in coc.METHODS] + [("coc", where) for where in chosen]:
        converted = coc.convert(copy.deepcopy(model), method, where=where)
        assert maps_of(converted, "0") == []
        assert len(maps_of(converted, "1")) == 1
        assert coc.summary(converted).skipped == (before,)
    with pytest.raises(coc.SurgeryError, match=re.escape(f"its convs are 0 ({reason}")):
        coc.convert(nn.Sequential(make()))


@every_weight_that_is_no_convs
def test_a_checkpoint_converts_no_weight_that_is_no_convs(make, reason):
    state = coc.convert(nn.Sequential(nn.Conv2d(3, 8, 3))).state_dict()
    with pytest.raises(coc.SurgeryError, match=rf"^0 \(.*\) cannot be converted: {re.escape(reason)}"):
        coc.convert_like(nn.Sequential(make()), state)


def test_a_first_conv_that_was_cut_to_grey_images_is_a_conv_still():
    """Its kernels are summed over the colours, its attribute is forgotten; torch's forward does not read it."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    model[0].weight = nn.Parameter(model[0].weight.sum(1, keepdim=True))
    for method in ("coc", "stnd", "orth", "norm", "doconv"):
        converted = coc.convert(copy.deepcopy(model), method)
        randomize(converted)
        assert coc.verify(converted, coc.reparameterize(converted), torch.randn(2, 1, 9, 9)) <= 1e-5


class Deformable(nn.Module):
    """As torchvision's: no nn.Conv2d."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.Parameter(torch.randn(8, 3, 3, 3))
        self.bias = nn.Parameter(torch.zeros(8))


class CondConv(nn.Module):
    """As timm's: the kernels of an expert are a row."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 216))


class Scaled(nn.Module):
    """Has four axes of what is no kernel, and a block of convs in its name has none of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, 8, 1, 1))
        self.positions = nn.Parameter(torch.ones(1, 8, 14, 14))


class ConvBlock(nn.Sequential):
    pass


def test_what_is_no_conv_layer_is_listed():
    model = nn.Sequential(Deformable(), nn.Conv2d(8, 8, 3), ConvBlock(CondConv(), Scaled()), nn.Linear(3, 3))
    parametrizations.spectral_norm(model[0], "kernels")
    plain = coc.summary(model)
    assert [(conv.name, conv.kind, conv.skipped_because) for conv in plain.skipped] == [
        ("0", "Deformable, kernels 8×3×3×3", "not an nn.Conv layer"),
        ("1", "Conv2d 8→8, 3×3", "not converted"),
        ("2.0", "CondConv, weight 4×216", "not an nn.Conv layer"),
    ]
    summary = coc.summary(coc.convert(model))
    assert [conv.name for conv in summary.converted] == ["1"], "and the maps' own parameters are not listed"
    assert len(summary.convs) == 3
    assert "1 of 3 convs converted (2 are not nn.Conv layers); 18 parameters added" in str(summary)
    assert "1 of 2 convs converted (1 is not an nn.Conv layer); " in str(coc.summary(model[:2]))


def test_where_there_is_nothing_else_it_is_told_that_this_is_no_conv_layer():
    model = nn.Sequential(Deformable(), nn.ReLU())
    with pytest.raises(
        coc.SurgeryError, match=r"its convs are 0 \(Deformable, kernels 8×3×3×3: not an nn.Conv layer\)"
    ):
        coc.convert(model)
    with pytest.raises(
        coc.ConfigError, match=r"no conv matches '0' \(a Deformable, kernels 8×3×3×3 does, not an nn.Con"
    ):
        coc.convert(nn.Sequential(Deformable(), nn.Conv2d(8, 8, 3)), where="0")
