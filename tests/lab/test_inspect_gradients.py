"""Claims C3 and C4 in numbers: tap responses, the blocks of ∂W'/∂W, and the share of gradients through neighbours."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from figure_texts import check_texts
from reference import randomize, relative
from torch import nn

import convofconv as coc
from convofconv.errors import ConfigError, ShapeError
from convofconv.lab.inspect.gradient_figures import draw_kernel_jacobian, draw_neighbour_shares
from convofconv.lab.inspect.gradient_flow import neighbour_shares, shares_over_training, split_gradient
from convofconv.lab.inspect.kernel_function import kernel_functions
from convofconv.lab.inspect.kernel_jacobian import kernel_jacobian
from convofconv.lab.inspect.tap_figure import draw_tap_responses
from convofconv.lab.inspect.tap_responses import tap_responses
from convofconv.maps import method_names

METHODS = {
    **{name: (name, coc.Config()) for name in method_names().split(", ")},
    "coc+stnd": ("coc+stnd", coc.Config()),
    "coc+orth": ("coc+orth", coc.Config()),
    "coc+doconv": ("coc+doconv", coc.Config()),
    "released": ("coc", coc.PRESETS["released"]),
    "grouping": ("coc", coc.Config(grouping="random")),
    "depth": ("coc", coc.Config(depth=2, skip=False, init="kaiming")),
    "dense": ("coc", coc.Config(share="none")),
    "output": ("coc", coc.Config(share="output")),
    "both": ("coc", coc.Config(share="both", dilated=False)),
}
every_method = pytest.mark.parametrize("name", METHODS)
LINEAR = ("coc", "grouping", "depth", "dense", "output", "both")


def network(name: str | None = None) -> nn.Sequential:
    """Of 7 kernels in the second layer: its last group is incomplete."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 7, 3), nn.BatchNorm2d(7))
    if name is not None:
        coc.convert(model, *METHODS[name])
        randomize(model)
    return model.double()


@pytest.fixture
def loss():
    images = torch.randn(3, 2, 7, 7, dtype=torch.float64)
    return lambda model: (model(images) ** 3).sum()


def layer_of(model, name="3"):
    (function,) = kernel_functions(model, [name])
    return function


# ---- C4: shares


@every_method
def test_own_and_neighbours_are_the_gradient(name, loss):
    """Of the converted network itself, by one backward through it."""
    model = network(name)
    plain = coc.reparameterize(model)
    loss(plain).backward()
    loss(model).backward()
    for layer in ("0", "3"):
        upstream = plain.get_submodule(layer).weight.grad
        own, neighbours = split_gradient(layer_of(model, layer), upstream)
        gradient = model.get_submodule(layer).parametrizations.weight.original.grad
        assert relative(own + neighbours, gradient) < 1e-9


@every_method
def test_the_own_part_is_what_the_full_jacobian_says(name):
    function = layer_of(network(name))
    upstream = torch.randn_like(function.weight)
    jacobian = torch.autograd.functional.jacobian(function, function.weight, vectorize=True)
    kernels = range(len(upstream))
    expected = torch.stack([(jacobian[i, ..., i, :, :, :] * upstream[i, :, :, :, None, None, None]).sum((0, 1, 2))
                            for i in kernels])  # fmt: skip
    own, _ = split_gradient(function, upstream)
    assert relative(own, expected) < 1e-9
    some, _ = split_gradient(function, upstream, [5, 2])
    assert relative(some, expected[[5, 2]]) < 1e-9


def test_kernels_of_plain_layers_and_of_maps_per_kernel_have_no_neighbours(loss):
    for name in (None, "stnd", "norm", "doconv"):
        for found in neighbour_shares(network(name), loss):
            assert found.shares.max() < 1e-12, name
            assert found.numbers()["mean"] < 1e-12


def test_shares_of_known_size():
    """A super kernel that adds 3/4 of the kernel on the right: half of kernel 1's gradient comes through kernel 0."""
    model = coc.convert(nn.Sequential(nn.Conv2d(1, 4, 1, bias=False)), where=lambda *_: True,
                        config=coc.Config(dilated=False)).double()  # fmt: skip
    (association,) = coc.kernel_maps(model[0])
    association.super_kernel.data[0, 0, 1, 2] = 0.75
    function = layer_of(model, "0")
    upstream = torch.tensor([4.0, 3.0, -8.0, 1.0]).view(4, 1, 1, 1)
    own, neighbours = split_gradient(function, upstream)
    assert own.flatten().tolist() == [4, 3, -8, 1]
    assert neighbours.flatten().tolist() == [0, 3, 0, -6]
    weights = torch.tensor([4.0, 3.0, -8.0, 1.0], dtype=torch.float64).view(1, 4, 1, 1)
    (found,) = neighbour_shares(model, lambda net: (net(torch.ones(1, 1, 1, 1, dtype=torch.float64)) * weights).sum())
    assert found.shares.tolist() == [0, 0.5, 0, 6 / 7]
    assert found.cosines[[1, 3]].tolist() == [1, -1]
    numbers = found.numbers()
    assert numbers["mean"] == pytest.approx((0.5 + 6 / 7) / 4)
    assert numbers["mean_cosine"] == 0
    assert numbers["kernels"] == numbers["of_kernels"] == 4


def test_few_kernels_stand_for_all_where_all_depend_on_all(loss):
    model = network("orth")
    full, some = neighbour_shares(model, loss, ["3"], most=None)[0], neighbour_shares(model, loss, ["3"], most=3)[0]
    assert some.kernels == (0, 3, 6)
    assert some.of_kernels == 7
    assert torch.allclose(some.shares, full.shares[[0, 3, 6]])
    assert neighbour_shares(network("coc"), loss, ["3"], most=3)[0].kernels == tuple(range(7))


def test_the_network_is_left_as_it_is(loss):
    model = network("coc").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    neighbour_shares(model, loss)
    kernel_jacobian(model, "3")
    tap_responses(model, "3")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
    assert model.training


def test_a_layer_without_gradient_has_no_share():
    model = network("coc")
    (first, second) = neighbour_shares(model, lambda net: net[0](torch.ones(1, 2, 5, 5, dtype=torch.float64)).sum())
    assert first.mean > 0
    assert second.numbers() == {
        "layer": "3", "kernels": 7, "of_kernels": 7, "mean": None, "quantiles": None, "mean_cosine": None,
    }  # fmt: skip


def test_over_training_the_layers_are_those_of_the_first_converted_network(loss):
    found = shares_over_training({"plain": network(), "coc": network("coc"), "released": network("released")}, loss)
    assert [[one.layer for one in of_network] for of_network in found.values()] == [["0", "3"]] * 3
    assert found["plain"][1].mean == 0 < found["coc"][1].mean
    json.dumps([one.numbers() for one in found["released"]], allow_nan=False)
    figure = draw_neighbour_shares(found)
    check_texts(figure)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "3"]
    assert draw_neighbour_shares({str(epoch): found["coc"] for epoch in range(9)})
    with pytest.raises(ConfigError, match="plain: no conv layer is called '9'"):
        shares_over_training({"plain": network()}, loss, ["9"])


# ---- C4: blocks


@every_method
def test_blocks_are_those_of_the_full_jacobian(name):
    function = layer_of(network(name))
    full = torch.autograd.functional.jacobian(function, function.weight, vectorize=True).flatten(6).flatten(2, 3)
    full = full.view(7, 4, 9, 7, 4, 9)  # kernel, channel, tap twice
    for group, members in enumerate(function.members):
        found = kernel_jacobian(network_of(function), "0", group, most_channels=None)
        members = list(members)
        inside = full[members][:, :, :, members].square()
        m = len(members)
        assert found.kernels == tuple(members)
        assert torch.allclose(found.strengths, (inside.sum((1, 2, 4, 5)) / 36).sqrt())
        own = torch.einsum("ictidu->tu", inside)
        assert torch.allclose(found.own_taps, (own / (4 * m)).sqrt())
        assert torch.allclose(found.neighbour_taps**2, (inside.sum((0, 1, 3, 4)) - own) / (4 * m), atol=1e-12)
        outside = full[members].square().sum() - inside.sum()
        assert found.outside == pytest.approx(float(outside / (36 * m)) ** 0.5, abs=1e-6)
        json.dumps(found.numbers(), allow_nan=False)


def network_of(function):
    """A network of one layer that has this function."""
    conv = nn.Conv2d(4, 7, 3, bias=False).double()
    conv.weight.data = function.weight.clone()
    model = nn.Sequential(conv)
    for kernel_map in function.maps:
        nn.utils.parametrize.register_parametrization(conv, "weight", kernel_map, unsafe=True)
    if function.maps:
        conv.parametrizations.weight.original.data = function.weight.clone()
    return model


def test_a_plain_layer_is_the_identity_and_groups_are_the_posters():
    found = kernel_jacobian(network(), "3", group=1)
    assert found.kernels == (4, 5, 6)
    assert found.strengths.equal(torch.eye(3, dtype=torch.float64))
    assert found.own_taps.equal(torch.eye(9, dtype=torch.float64))
    assert (found.own, found.neighbours, found.outside, int(found.neighbour_taps.count_nonzero())) == (1, 0, 0, 0)
    assert (found.channels, found.of_channels) == ((0, 3), 4)


def test_what_stays_in_the_group_and_what_does_not():
    assert kernel_jacobian(network("coc"), "3").outside == 0 < kernel_jacobian(network("coc"), "3").neighbours
    assert kernel_jacobian(network("orth"), "3").outside > 1e-3
    assert kernel_jacobian(network("released"), "3").outside > 1e-3


def test_one_channel_is_enough_for_a_linear_association():
    model = network("coc")
    one, every = kernel_jacobian(model, "3", most_channels=1), kernel_jacobian(model, "3", most_channels=None)
    assert torch.allclose(one.strengths, every.strengths)


# ---- C3


@pytest.mark.parametrize("name", ["coc", "grouping", "depth", "both"])
@pytest.mark.parametrize("group", [0, 1])
def test_the_matrix_turns_tap_responses_into_outputs(name, group):
    """The claim in its right reading: taps applied as a 1×1 conv, α across the maps, then shift and add."""
    model, x = network(name), torch.randn(2, 4, 6, 6, dtype=torch.float64)
    conv, function = model[3], layer_of(model)
    members = list(function.members[group])
    found = tap_responses(model, "3", group)
    taps = function.weight[members].movedim(1, -1).reshape(-1, 4)  # a 1×1 kernel for every kernel and tap
    responses = torch.einsum("tc,bcyx->btyx", taps, x)
    mixed = torch.einsum("st,btyx->bsyx", found.matrix, responses).unflatten(1, (len(members), 3, 3))
    out = sum(mixed[:, :, i, j, i : i + 4, j : j + 4] for i in range(3) for j in range(3))
    assert relative(out, F.conv2d(x, conv.weight[members])) < 1e-9
    assert found.remark == ""
    assert found.kernels == tuple(members)


@pytest.mark.parametrize("name", LINEAR)
def test_of_a_linear_association_the_matrix_does_not_depend_on_the_kernels(name):
    """Column by column it is what α makes of a kernel with a single one in it."""
    model = network(name)
    function = layer_of(model)
    channel, source = (1, 2) if name == "dense" else (1, 1)
    found = tap_responses(model, "3", 0, channel=channel, source=source)
    members = list(function.members[0])
    for column in (0, 17, 35):
        unit = torch.zeros_like(function.weight)
        unit[members[column // 9], source].view(-1)[column % 9] = 1
        assert torch.allclose(function(unit)[members, channel].flatten(), found.matrix[:, column])
    has_skip = function.association.config.skip and channel == source
    assert found.skip == has_skip
    without = tap_responses(model, "3", 0, skip=False, channel=channel, source=source)
    assert not without.skip
    assert torch.allclose(without.matrix + torch.eye(36) * has_skip, found.matrix)


def test_remarks_say_where_the_claim_does_not_hold():
    assert "mixes input channels" in tap_responses(network("dense"), "3").remark
    assert "per channel" in tap_responses(network("output"), "3").remark
    assert "linearised" in tap_responses(network("released"), "3").remark


# ---- figures, refusals


@pytest.mark.parametrize("name", ["coc", "released", "stnd"])
def test_figures_can_be_read(name):
    model = network(name)
    for group in (0, 1):
        assert check_texts(draw_kernel_jacobian(kernel_jacobian(model, "3", group))) > 30
        if name != "stnd":
            for skip in (True, False):
                assert check_texts(draw_tap_responses(tap_responses(model, "3", group, skip))) > 5


def test_what_cannot_be_done_is_refused_by_name(loss):
    model = coc.convert(nn.ModuleDict({"conv1": nn.Conv2d(3, 8, 3), "conv2": nn.Conv2d(8, 8, 1)}))
    with pytest.raises(ConfigError, match="no conv layer is called 'cnv1'; did you mean conv1"):
        kernel_jacobian(model, "cnv1")
    with pytest.raises(ConfigError, match="conv1 has no group 2; its groups are 0 to 1"):
        kernel_jacobian(model, "conv1", 2)
    with pytest.raises(ConfigError, match="conv2 has no association"):
        tap_responses(model, "conv2")
    with pytest.raises(ConfigError, match="channel 3 is none of its input channels, 0 to 2"):
        tap_responses(model, "conv1", channel=3)
    with pytest.raises(ConfigError, match="at least 1"):
        kernel_jacobian(model, "conv1", most_channels=0)
    with pytest.raises(ConfigError, match="no conv layers"):
        neighbour_shares(nn.Linear(3, 3), loss)
    with pytest.raises(ConfigError, match="one number"):
        neighbour_shares(network("coc"), lambda net: net[0].weight)
    with pytest.raises(ShapeError, match="3: its kernels have shape"):
        split_gradient(layer_of(network("coc")), torch.ones(2))
    other = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)))
    with pytest.raises(ConfigError, match="0: its weight is computed by _WeightNorm too"):
        kernel_jacobian(other, "0")
