"""What a converted network computes before it is trained."""

from __future__ import annotations

import copy

import pytest
import torch
from reference import associate_as, randomize, relative
from small_nets import normed_net, small_net
from torch import nn

import convofconv as coc


@pytest.mark.parametrize(
    "config",
    [
        "poster",
        coc.Config(depth=2),
        coc.Config(skip=False),
        coc.Config(share="none"),
        coc.Config(grouping="random"),
        coc.Config(grouping="similar"),
    ],
)
@pytest.mark.parametrize("method", ["coc", "coc+doconv"])
def test_conversion_changes_no_bit(method, config, x):
    for channels_last in (False, True):
        model = small_net().eval()
        if channels_last:
            model = model.to(memory_format=torch.channels_last)
        expected = model(x)
        converted = coc.convert(model, method, config)(x)
        assert torch.equal(converted, expected)
        assert converted.stride() == expected.stride()


def test_the_kaiming_start_keeps_the_basic_kernels_and_draws_super_kernels():
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    before = model[0].weight.detach().clone()
    coc.convert(model, config=coc.Config(init="kaiming"))
    (association,) = coc.kernel_maps(model[0])
    assert association.super_kernel.all()
    assert torch.equal(model[0].parametrizations.weight.original, before)
    assert relative(model[0].weight, associate_as(association, before)) < 1e-6


def test_a_trained_network_is_warned_about_maps_that_change_it(x):
    model = small_net()
    model(x)
    with pytest.warns(
        coc.ConversionWarning, match="Standardization changes the kernels of this network, which looks tra"
    ):
        coc.convert(copy.deepcopy(model), "stnd")
    with pytest.warns(coc.ConversionWarning, match="its function is not kept"):
        coc.convert(copy.deepcopy(model), config="released")
    coc.convert(model)  # keeps the function: no warning (pytest makes warnings errors)


class Halve(coc.KernelMap):
    def forward(self, weight):
        return weight / 2

    def right_inverse(self, weight):
        return 2 * weight


@pytest.mark.parametrize("init", ["identity", "kaiming", "solve"])
@pytest.mark.parametrize("first", ["doconv", Halve])
def test_an_association_behind_another_map_starts_as_it_does_alone(first, init, recwarn):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    expected = [conv.weight.detach().clone() for conv in net]
    coc.convert(net, [first, "coc"], coc.Config(init=init))
    for conv, weight in zip(net, expected, strict=True):
        in_front, association = coc.kernel_maps(conv)
        original = conv.parametrizations.weight.original
        if init == "kaiming":
            assert torch.allclose(in_front(original), weight)
            assert relative(association(weight), weight) > 0.1
        else:
            assert relative(conv.weight, weight) < 1e-5
            assert bool(association.super_kernel.any()) == (init == "solve")
    assert not [str(warning.message) for warning in recwarn]


@pytest.mark.parametrize("method", ["coc", ["doconv", "coc"]])
@pytest.mark.parametrize("init", ["solve", "kaiming", "identity"])
def test_tied_convs_start_as_one_does(method, init):
    net = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    net[1].weight = net[0].weight
    expected = net[0].weight.detach().clone()
    coc.convert(net, method, coc.Config(init=init))
    originals = [conv.parametrizations.weight.original for conv in net]
    assert originals[0] is originals[1]
    for conv in net:
        assert relative(originals[0] if init == "kaiming" else conv.weight, expected) < 1e-5


def test_an_association_behind_a_map_without_inverse_starts_from_the_identity():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    with pytest.warns(coc.ConversionWarning, match="a map in front of the association has no inverse"):
        coc.convert(net, ["stnd", "coc"], coc.Config(init="solve"))
    standardize, _ = coc.kernel_maps(net[0])
    assert torch.equal(net[0].weight, standardize(net[0].parametrizations.weight.original))


def test_the_kaiming_start_keeps_the_basic_kernels_whatever_the_norms():
    for config in (coc.Config(skip=False, standardize_super_kernel=True, init="kaiming"), coc.Config(init="kaiming")):
        conv = nn.Conv2d(8, 8, 3)
        before = conv.weight.detach().clone()
        coc.convert(conv, config=config)
        assert torch.equal(conv.parametrizations.weight.original, before)


def test_the_papers_start_for_a_pretrained_network_keeps_its_function(x):
    model = normed_net().eval()
    randomize(model)
    expected, before = model(x), model[0].weight.detach().clone()
    coc.convert(model, config=coc.Config(init="solve"))
    (association,) = coc.kernel_maps(model[0])
    assert association.super_kernel.all()
    assert not torch.allclose(model[0].parametrizations.weight.original, before)
    assert relative(model(x), expected) < 1e-4
    assert 1 < association.condition_number() < 1e3


def test_where_it_cannot_be_solved_the_layer_starts_from_the_identity(x, monkeypatch):
    monkeypatch.setattr(coc.SpatialAssociation, "condition_number", lambda self: 1e9)
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    expected = model(x)
    with pytest.warns(
        coc.ConversionWarning, match=r"^0 \(Conv2d 3→8, 3×3\): .* \(condition number 1e\+09, limit 2\.9e\+03\)"
    ):
        coc.convert(model, config=coc.Config(init="solve"))
    assert torch.equal(model(x), expected)
    assert not coc.kernel_maps(model[0])[0].super_kernel.any()
