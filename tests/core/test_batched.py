"""Layers that are alike are computed as one, and nothing but the number of operations tells."""

from __future__ import annotations

import copy

import pytest
import torch
from map_cases import Net, Shifted
from reference import randomize, relative
from torch import nn
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode
from watching import kernels_in_forward

import convofconv as coc


@pytest.mark.parametrize("second", ["a loss", "a gradient"])
def test_what_one_loss_does_not_use_gets_no_gradient_of_it(second):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 3), nn.GroupNorm(1, 4)) for _ in range(2))

        def forward(self, x):
            return [layer(x).square().sum() for layer in self.body]

    model = coc.convert(Two())
    randomize(model)
    first, last = model(torch.randn(2, 4, 6, 6))
    first.backward(retain_graph=True)
    model.zero_grad()
    if second == "a loss":
        last.backward()
    else:
        of_last = list(model.body[1].parameters())
        sum(g.square().sum() for g in torch.autograd.grad(last, of_last, create_graph=True)).backward()
    assert all(p.grad is None for p in model.body[0].parameters())
    assert model.body[1][0].parametrizations.weight.original.grad.any()


def _prune(layer):
    prune.l1_unstructured(layer.parametrizations.weight, "original", 0.5)


def _hook(layer):
    layer.parametrizations.weight.register_forward_hook(lambda module, inputs, output: 2 * output)


def _hook_of_map(layer):
    coc.kernel_maps(layer)[0].register_forward_pre_hook(lambda module, inputs: (inputs[0].sign(),))


def _own_forward(layer):
    kernel_map = coc.kernel_maps(layer)[1]
    kernel_map.forward = lambda weight: weight.sign()


def _own_super_kernel(layer):
    kernel_map = coc.kernel_maps(layer)[0]
    kernel_map.effective_super_kernel = lambda: 2 * kernel_map.super_kernel


def _freeze(layer):
    layer.requires_grad_(False)


def chain(method="coc", layers=4, channels=6):
    """Layers that are alike."""
    model = nn.Sequential(*(Net.layer(channels, channels, 1) for _ in range(layers)))
    coc.convert(model, method)
    randomize(model)
    return model.double()


@pytest.fixture
def x():
    return torch.randn(2, 6, 8, 8, dtype=torch.float64)


@pytest.mark.parametrize("when", ["before the first forward", "behind it"])
@pytest.mark.parametrize("change", [_prune, _hook, _hook_of_map, _own_forward, _own_super_kernel, _freeze])
@pytest.mark.parametrize("which", [0, 1])
def test_a_layer_that_has_become_another_is_computed_alone_and_the_others_together(which, change, when, x, batches):
    model = chain("coc+stnd")
    before = copy.deepcopy(model)(x)
    if when == "behind it":
        model(x)
    change(model[which][0])
    batches.clear()
    out = model(x)
    assert set(batches) == {3}
    assert change is _freeze or relative(out, before) > 1e-3
    with coc.no_kernel_cache():
        assert relative(out, model(x)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_keep_their_digits_in_halves(dtype, batches):
    model = chain("norm").to(dtype)
    alone = [layer[0].weight for layer in model]
    exact = [layer[0].weight for layer in copy.deepcopy(model).double()]
    batched = kernels_in_forward(model, torch.randn(2, 6, 8, 8, dtype=dtype))
    assert set(batches) == {4}
    for mine, theirs, truth in zip(batched, alone, exact, strict=True):
        assert relative(mine.double(), truth) <= 1.01 * relative(theirs.double(), truth)


class Halved(coc.Standardization):
    """Computes something else than the class whose way to be computed together it inherits."""

    def forward(self, weight):
        return super().forward(weight) / 2


def test_a_class_inherits_no_way_to_be_computed_together(x, batches):
    model = chain(Halved)
    out = model(x)
    assert not batches
    with coc.no_kernel_cache():
        assert relative(out, model(x)) < 1e-12


def test_the_rest_of_a_layers_maps_follows_one_by_one(x, batches):
    """Behind a map that takes part comes one that does not."""
    model = chain(["coc", Halved, Shifted])
    out = model(x)
    assert batches == [4]
    with coc.no_kernel_cache():
        assert relative(out, model(x)) < 1e-12


def test_wide_layers_are_computed_together_elsewhere_than_on_the_cpu(batches):
    model = chain(channels=128).float()
    for device, expected in (("cpu", set()), ("meta", {4})):
        model.to(device)(torch.randn(1, 128, 6, 6, device=device))
        assert set(batches) == expected


class Operations(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += 1
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize(
    ("method", "config", "limit"),
    [
        ("stnd", "poster", 3),
        ("coc", "poster", 6),
        ("coc+stnd", "poster", 7),
        ("coc+norm", "released", 14),
        ("orth", "poster", 8),
        ("doconv", "poster", 5),
    ],
)
def test_a_step_launches_few_operations_per_layer(method, config, limit):
    """What a GPU waits for on networks of many narrow layers."""

    def operations(model):
        x, counter = torch.randn(1, 8, 6, 6), Operations()
        for _ in range(2):  # the first builds what is kept
            counter.count = 0
            with counter:
                model(x).sum().backward()
        return counter.count

    layers = 40
    plain = nn.Sequential(
        *(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Tanh()) for _ in range(layers))
    )
    converted = coc.convert(copy.deepcopy(plain), method, config)
    assert operations(converted) - operations(plain) < limit * layers
