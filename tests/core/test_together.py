"""Layers that are alike are computed as one, and nothing but the number of operations tells."""

from __future__ import annotations

import copy

import pytest
import torch
from reference import randomize, relative
from torch import nn
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode

import convofconv as coc
from convofconv.runtime import kernel_cache as caching
from convofconv.runtime.batched import compute_batched

RELEASED = coc.PRESETS["released"]
WAYS = {
    "coc": ("coc", coc.Config()),
    "two layers of super kernels": ("coc", coc.Config(depth=2)),
    "without skip": ("coc", coc.Config(skip=False)),
    "by convolution": ("coc", coc.Config(grid_side=3, extra_width=6)),
    "within groups": ("coc", coc.Config(within_conv_groups=True)),
    "standardized super kernels": ("coc", coc.Config(standardize_super_kernel=True, depth=2)),
    "released": ("coc", RELEASED),
    "released and norm": ("coc+norm", RELEASED),
    "stnd": ("stnd", coc.Config()),
    "norm": ("norm", coc.Config()),
    "coc+stnd": ("coc+stnd", coc.Config()),
    "coc+orth": ("coc+orth", coc.Config()),
    "orth": ("orth", coc.Config()),
    "doconv": ("doconv", coc.Config()),
    "coc+doconv": ("coc+doconv", coc.Config()),
    "orth of grouped convs": ("orth", coc.Config(within_conv_groups=True)),
    "doconv of grouped convs": ("doconv", coc.Config(within_conv_groups=True)),
}
#: Maps of these are computed one by one.
ALONE = {
    "shared over output channels": ("coc", coc.Config(share="output")),
    "shared over both": ("coc", coc.Config(share="both")),
    "grouped at random": ("coc", coc.Config(grouping="random")),
}


class Alike(nn.Module):
    """Four layers of one geometry, of which one is never used, and one of another."""

    def __init__(self, channels: int = 6, groups: int = 1) -> None:
        super().__init__()
        self.body = nn.ModuleList(self.layer(channels, groups) for _ in range(4))
        self.head = nn.Conv2d(channels, 4, 3)

    @staticmethod
    def layer(channels, groups):
        conv = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
        return nn.Sequential(conv, nn.GroupNorm(2, channels), nn.Tanh())

    def forward(self, x):
        for layer in self.body[:3]:
            x = layer(x)
        return self.head(x)


def alone(model):
    """The same network, every kernel computed at each use."""
    model = copy.deepcopy(model)
    model._forward_pre_hooks.clear()
    model._forward_hooks.clear()
    return model


@pytest.fixture
def batches(monkeypatch):
    """How many layers were computed together each time."""
    honest, found = caching.compute_batched, []

    def compute_batched(several, maps):
        found.append(len(several))
        return honest(several, maps)

    monkeypatch.setattr(caching, "compute_batched", compute_batched)
    return found


def convert(model, method, config):
    coc.convert(model, method, config)
    randomize(model)
    return model


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("way", [*WAYS, *ALONE])
def test_kernels_and_gradients_are_those_of_layers_alone(way, layout, batches):
    method, config = (WAYS | ALONE)[way]
    groups = 2 if config.within_conv_groups else 1
    model = convert(Alike(groups=groups).double(), method, config).to(memory_format=layout)
    single, x = alone(model), torch.randn(2, 6, 8, 8, dtype=torch.float64)
    out, expected = model(x), single(x)
    assert batches == ([4] if way in WAYS else [])
    assert relative(out, expected) < 1e-12
    out.square().sum().backward()
    expected.square().sum().backward()
    for (name, mine), theirs in zip(model.named_parameters(), single.parameters(), strict=True):
        if theirs.grad is None:
            assert mine.grad is None, name
        else:
            assert mine.grad.stride() == theirs.grad.stride(), name
            assert relative(mine.grad, theirs.grad) < 1e-10, name
    unused = [p.grad for p in model.body[3].parameters()]
    assert unused
    assert all(grad is None for grad in unused)


@pytest.mark.parametrize("way", WAYS)
def test_second_and_batched_derivatives(way):
    method, config = WAYS[way]
    model = convert(Alike(groups=2 if config.within_conv_groups else 1).double(), method, config)
    single, x = alone(model), torch.randn(2, 6, 8, 8, dtype=torch.float64)
    found = []
    for network in (model, single):
        used = [p for name, p in network.named_parameters() if not name.startswith("body.3")]
        first = torch.autograd.grad(network(x).square().sum(), used, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), used, allow_unused=True)
        several = network(x).flatten()[:3]
        batched = torch.autograd.grad(several, used, torch.eye(3).double(), is_grads_batched=True)
        found.append([*first, *(torch.zeros(()) if g is None else g for g in second), *batched])
    for mine, theirs in zip(*found, strict=True):
        assert relative(mine, theirs) < 1e-8 or theirs.abs().max() < 1e-8


@pytest.mark.parametrize(
    ("way", "halves"),
    [
        *((way, False) for way in ("coc", "two layers of super kernels", "released", "coc+stnd")),
        *((way, True) for way in ("coc", "two layers of super kernels", "coc+stnd")),
    ],
)
def test_forward_mode_derivatives(way, halves):
    """Also of halves under autocast of the other kind; with respect to what one map learns."""
    method, config = WAYS[way]
    model = convert(Alike(), method, config).to(torch.float16 if halves else torch.float64)
    layers = [layer[0].parametrizations.weight for layer in model.body]
    learnt = layers[1][0]
    value, tangent = learnt.super_kernel.detach(), torch.randn_like(learnt.super_kernel)
    with torch.autograd.forward_ad.dual_level(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=halves):
        dual = torch.autograd.forward_ad.make_dual(value, tangent)
        del learnt.super_kernel
        learnt.__dict__["super_kernel"] = dual
        found, expected = (
            torch.stack([torch.autograd.forward_ad.unpack_dual(kernel).tangent for kernel in kernels])
            for kernels in (compute_batched(layers, len(layers[0])), several_alone(layers))
        )
    assert expected[1].any()
    assert not expected[0].any()
    assert relative(found, expected) < (0.05 if halves else 1e-12)


@pytest.mark.parametrize("channels", [8, 256], ids=["narrow", "in chunks"])
def test_forward_mode_derivatives_of_gradients(channels):
    """Hessian times vector, forward over reverse: against the difference of gradients."""
    torch.manual_seed(0)
    model = coc.convert(nn.Sequential(nn.Conv2d(channels, channels, 3), nn.Tanh(), nn.Conv2d(channels, channels, 3)))
    model = model.double()
    randomize(model)
    x = torch.randn(1, channels, 5, 5, dtype=torch.float64)
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    directions = {name: torch.randn_like(value) for name, value in values.items()}

    def gradient(inputs):
        out = torch.func.functional_call(model, inputs, (x,)).square().sum()
        return torch.autograd.grad(out, list(inputs.values()))

    with torch.autograd.forward_ad.dual_level():
        duals = {
            name: torch.autograd.forward_ad.make_dual(value.clone().requires_grad_(), directions[name])
            for name, value in values.items()
        }
        found = [torch.autograd.forward_ad.unpack_dual(grad).tangent for grad in gradient(duals)]
    step = 1e-6
    ahead, behind = (
        gradient({name: (value + sign * step * directions[name]).requires_grad_() for name, value in values.items()})
        for sign in (1, -1)
    )
    for name, tangent, after, before in zip(values, found, ahead, behind, strict=True):
        assert relative(tangent, (after - before) / (2 * step)) < 1e-6, name


def several_alone(layers):
    """With zeros for those that have no tangent."""
    kernels = [one() for one in layers]
    unpack = torch.autograd.forward_ad.unpack_dual
    return [
        kernel
        if unpack(kernel).tangent is not None
        else torch.autograd.forward_ad.make_dual(kernel, torch.zeros_like(kernel))
        for kernel in kernels
    ]


@pytest.mark.parametrize("second", ["a loss", "a gradient"])
def test_what_one_loss_does_not_use_gets_no_gradient_of_it(second):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 3), nn.GroupNorm(1, 4)) for _ in range(2))

        def forward(self, x):
            return [layer(x).square().sum() for layer in self.body]

    model = convert(Two(), "coc", coc.Config())
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


@pytest.mark.parametrize("when", ["before the first forward", "behind it"])
@pytest.mark.parametrize("change", [_prune, _hook, _hook_of_map, _own_forward, _own_super_kernel, _freeze])
@pytest.mark.parametrize("which", [0, 1])
def test_a_layer_that_has_become_another_is_computed_alone_and_the_others_together(which, change, when, batches):
    model = convert(Alike().double(), "coc+stnd", coc.Config())
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    if when == "behind it":
        model(x)
        batches.clear()
    before = model(x)
    change(model.body[which][0])
    batches.clear()
    out = model(x)
    assert batches == [3]
    assert change is _freeze or relative(out, before) > 1e-3
    with coc.no_kernel_cache():
        assert relative(out, model(x)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_keep_their_digits_in_halves(dtype):
    model = convert(Alike(), "norm", coc.Config()).to(dtype)
    kernels = [layer[0].parametrizations.weight for layer in model.body]
    exact = [copy.deepcopy(one).double()() for one in kernels]
    together = compute_batched(kernels, 1)
    for mine, theirs, truth in zip(together, [one() for one in kernels], exact, strict=True):
        assert relative(mine.double(), truth) <= 1.01 * relative(theirs.double(), truth)


class Halved(coc.Standardization):
    """Computes something else than the class whose way to be computed together it inherits."""

    def forward(self, weight):
        return super().forward(weight) / 2


def test_a_class_inherits_no_way_to_be_computed_together(batches):
    model = convert(Alike().double(), Halved, coc.Config())
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    assert relative(model(x), alone(model)(x)) < 1e-12
    assert not batches


class Shifted(coc.KernelMap):
    """A map of one's own, with a way to be computed together."""

    def __init__(self, shape):
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


def test_a_map_of_ones_own_can_be_computed_together(batches):
    model = convert(Alike().double(), ["coc", Shifted], coc.Config()).double()
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    assert relative(model(x), alone(model)(x)) < 1e-12
    assert batches == [4]
    plain = coc.reparameterize(model)
    assert coc.verify(model, plain, x, tolerance=1e-12) < 1e-12


def test_wide_layers_are_computed_together_elsewhere_than_on_the_cpu():
    model = coc.convert(Alike(128))
    counts = [len(caching._plan(model.to(device))[model.body[0][0]]) for device in ("cpu", "meta")]
    assert counts == [1, 4]


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
    plain = nn.Sequential(*(Alike.layer(8, 1) for _ in range(layers)))
    converted = coc.convert(copy.deepcopy(plain), method, config)
    assert operations(converted) - operations(plain) < limit * layers
