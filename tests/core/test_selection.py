"""Which convs are converted, by kind and by name, and what can never be."""

from __future__ import annotations

import warnings

import pytest
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
