"""Kernels in their groups: where each one stands, what is basic and what effective, and what is refused."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from einops import rearrange
from reference import associate
from torch import nn

import convofconv as coc
from convofconv.config import resolve_config
from convofconv.errors import ConfigError, ShapeError
from convofconv.lab.inspect.kernel_grids import (
    EMPTY,
    associated_layers,
    effective_kernels,
    find_conv,
    grids_side_by_side,
    kernel_grids,
    layers_with_kernels,
)

LAYOUT = {
    1: "(g a) i p -> g i (a p)",
    2: "(g a b) i p q -> g i (a p) (b q)",
    3: "(g a b c) i p q r -> g i (a p) (b q) (c r)",
}
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def converted(conv, method="coc", **settings):
    settings = {"init": "kaiming", **settings}
    return coc.convert(nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels)), method, config=coc.Config(**settings))


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("size", [2, 3])
def test_kernels_are_laid_out_as_the_paper_says(d, size):
    grids = kernel_grids(converted(CONVS[d](3, 16, size)), "0")
    sides = dict(zip("abc", [2] * d, strict=False))
    assert torch.equal(grids.laid_out(grids.basic), rearrange(grids.basic, LAYOUT[d], **sides))
    assert grids.members.tolist() == torch.arange(16).view(-1, 2**d).tolist()


def test_empty_cells_are_marked_and_zero():
    grids = kernel_grids(converted(nn.Conv2d(3, 6, 3)), "0")
    assert grids.members.tolist() == [[0, 1, 2, 3], [4, 5, EMPTY, EMPTY]]
    laid_out = grids.laid_out(grids.effective)
    assert not laid_out[1, :, 3:].any()
    assert torch.equal(laid_out[1, :, :3, 3:], grids.effective[5])
    assert grids.numbers()["empty_cells"] == 2


def test_grids_within_conv_groups_end_with_them():
    grids = kernel_grids(converted(nn.Conv2d(4, 12, 3, groups=2), within_conv_groups=True), "0")
    assert grids.members.tolist() == [[0, 1, 2, 3], [4, 5, -1, -1], [6, 7, 8, 9], [10, 11, -1, -1]]
    assert grids.conv_groups == 2


@pytest.mark.parametrize("grouping", ["random", "similar"])
def test_groups_that_are_not_consecutive(grouping):
    """Super kernels of one group at a time change the kernels that are said to be its members, and no others."""
    model = converted(nn.Conv2d(3, 12, 3), grouping=grouping)
    association = model[0].parametrizations.weight[0]
    for group in range(3):
        with torch.no_grad():
            association.super_kernel.zero_()
            association.super_kernel[0, group] = 1
        grids = kernel_grids(model, "0")
        changed = grids.difference.flatten(1).any(1).nonzero().flatten().tolist()
        assert sorted(grids.members[group].tolist()) == changed


@pytest.mark.parametrize("method", ["coc", "coc+stnd", "coc+orth", "stnd"])
@pytest.mark.parametrize("preset", ["poster", "released"])
def test_basic_is_what_is_trained_and_effective_what_is_used(method, preset):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    before = model[0].weight.detach().clone()
    coc.convert(model, method, config=resolve_config(preset).replace(init="kaiming"))
    grids = kernel_grids(model, "0")
    assert torch.equal(grids.basic, before)
    torch.testing.assert_close(grids.effective, model[0].weight.detach())
    torch.testing.assert_close(effective_kernels(model[0], grids.basic), grids.effective)
    torch.testing.assert_close(grids.difference, model[0].weight.detach() - before)
    assert grids.associated == ("coc" in method)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(("share", "planes"), [("input", 1), ("output", 4), ("both", 1), ("none", 16)])
def test_super_kernels_are_those_that_are_applied(share, planes, depth):
    model = converted(nn.Conv2d(4, 10, 3), share=share, depth=depth).double()
    grids = kernel_grids(model, "0")
    assert grids.super_kernels.shape == (3, depth, planes, 3, 3)
    applied = grids.super_kernels
    if share == "input":
        applied = applied.squeeze(2).transpose(0, 1)
    else:
        applied = applied[0].view(depth, 4, 4, 3, 3) if share == "none" else applied[0]
    expected = associate(grids.basic, applied, side=2, dilation=(2, 2), share=share)
    torch.testing.assert_close(grids.effective, expected)


def test_standardized_super_kernels_are_shown_standardized():
    grids = kernel_grids(converted(nn.Conv2d(3, 8, 3), standardize_super_kernel=True, grid_norm=True), "0")
    assert grids.super_kernels.mean((-1, -2)).abs().max() < 1e-6
    torch.testing.assert_close(grids.super_kernels.std((-1, -2)), torch.ones(2, 1, 1), atol=1e-3, rtol=0)


def test_plain_and_folded_networks_are_laid_out_like_the_converted_one():
    plain = nn.Sequential(nn.Conv2d(3, 20, 3), nn.BatchNorm2d(20))
    model = coc.convert(copy.deepcopy(plain), config=coc.Config(grid_side=3, grouping="random", init="kaiming"))
    models = {"plain": plain, "coc": model, "folded": coc.reparameterize(model)}
    grids = grids_side_by_side(models, "0")
    assert [g.associated for g in grids.values()] == [False, True, False]
    assert all(torch.equal(g.members, grids["coc"].members) for g in grids.values())
    assert torch.equal(grids["plain"].effective, grids["coc"].basic)
    laid_out = grids["coc"].laid_out(grids["coc"].basic)
    assert torch.equal(grids["plain"].laid_out(grids["plain"].effective), laid_out)
    torch.testing.assert_close(grids["folded"].effective, grids["coc"].effective)
    assert not grids["folded"].difference.any()


def test_a_plain_conv_alone():
    grids = kernel_grids(nn.Conv2d(3, 18, 5), grid_side=3)
    assert grids.members.shape == (2, 9)
    assert grids.super_kernels is None
    assert grids.numbers()["super_kernel_size"] is None


def test_half_precision_is_widened_and_double_kept():
    assert kernel_grids(nn.Conv2d(3, 4, 3).bfloat16()).effective.dtype == torch.float32
    assert kernel_grids(converted(nn.Conv2d(3, 4, 3)).half(), "0").effective.dtype == torch.float32
    assert kernel_grids(nn.Conv2d(3, 4, 3).double()).effective.dtype == torch.float64


def test_what_is_looked_at_is_a_copy_and_draws_no_random_numbers():
    conv = nn.Conv2d(3, 4, 3)
    torch.manual_seed(0)
    grids = kernel_grids(conv)
    assert torch.initial_seed() == 0
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(0)))
    before = grids.effective.clone()
    with torch.no_grad():
        conv.weight.zero_()
    assert torch.equal(grids.effective, before)


def test_numbers_are_plain_values():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3))
    with torch.no_grad():
        model[1].weight.zero_()
    coc.convert(model)
    for layer in ("0", "1"):
        numbers = json.loads(json.dumps(kernel_grids(model, layer).numbers(), allow_nan=False))
        assert numbers["layer"] == layer
    assert numbers["relative_change"] is None  # of kernels that are all zero
    assert numbers["members"] == [[0, 1, 2, 3]]


def test_layers_with_kernels():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 4, 3), nn.Conv2d(4, 4, (1, 3)))
    assert layers_with_kernels(model) == ("0", "3")
    assert associated_layers(model) == ()
    coc.convert(model, where="3")
    assert associated_layers(model) == layers_with_kernels(model) == ("3",)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("layer1.conv", "there is no layer 'layer1.conv'; did you mean layer1.conv1"),
        ("", "no layer is named; the convs are layer1.conv1"),
        ("fc", "'fc' is a Linear, no conv"),
        ("up", "transposed"),
        ("meta", "'meta' has no values yet"),
        ("broken", "broken: its kernels are not all finite"),
    ],
)
def test_layers_that_are_refused(layer, message):
    model = nn.Module()
    model.layer1 = nn.ModuleDict({"conv1": nn.Conv2d(3, 4, 3)})
    model.fc, model.up = nn.Linear(3, 4), nn.ConvTranspose2d(3, 4, 3)
    model.meta, model.broken = nn.Conv2d(3, 4, 3, device="meta"), nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        model.broken.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(ConfigError, match=message):
        kernel_grids(model, layer)


def test_models_that_are_refused():
    with pytest.raises(ConfigError, match="the Linear has no conv"):
        find_conv(nn.Linear(2, 2), "0")
    with pytest.raises(ConfigError, match="no network"):
        grids_side_by_side({}, "0")
    with pytest.raises(ConfigError, match="grid_side must be at least 1"):
        kernel_grids(nn.Conv2d(3, 4, 3), grid_side=0)
    models = {"plain": nn.Sequential(nn.Conv2d(3, 8, 5)), "coc": converted(nn.Conv2d(3, 8, 3))}
    with pytest.raises(ShapeError, match=r"0: kernels of shape \(8, 3, 5, 5\) cannot be laid out like"):
        grids_side_by_side(models, "0")
    with pytest.raises(ShapeError, match="8 kernels of size"):
        kernel_grids(models["coc"], "0").laid_out(torch.zeros(8, 3, 5, 5))
