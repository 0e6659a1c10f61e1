"""Kernels are computed once per forward, and never used where they would be wrong."""

from __future__ import annotations

import contextlib
import copy
import gc
import threading
import weakref

import pytest
import torch
from reference import randomize, relative
from torch import nn
from torch.nn.utils import prune
from watching import gradients, our_functions, same

import convofconv as coc
from convofconv.torch_private import CAN_SAY_WHERE_IT_SAVES

counts = pytest.mark.skipif(not CAN_SAY_WHERE_IT_SAVES, reason="this torch is too old to keep kernels")


class Counting(coc.KernelMap):
    """Counts how often a kernel is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, weight):
        self.calls += 1
        return weight


class Siamese(nn.Module):
    """One conv called three times, others of one geometry called once, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(4, 4, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.unused = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        for conv in self.body:
            x = conv(x).tanh()
        return self.head(x) + self.head(2 * x) + self.head(x[..., :2, :2]).mean()


@pytest.fixture
def x():
    return torch.randn(2, 4, 6, 6)


@pytest.fixture
def counted():
    model = coc.convert(Siamese(), ["coc", Counting])
    randomize(model)
    return model


def calls(model):
    return coc.kernel_maps(model.head)[1].calls


@counts
def test_a_kernel_is_computed_once_per_forward(counted, x):
    before = calls(counted)
    counted(x)
    assert calls(counted) == before + 1
    counted(x)
    assert calls(counted) == before + 2
    with coc.no_kernel_cache():
        counted(x)
    assert calls(counted) == before + 2 + 3


@counts
def test_nothing_stays_after_the_forward_also_after_an_exception(counted, x):
    for fails in (False, True):
        with pytest.raises(RuntimeError) if fails else contextlib.nullcontext():
            counted(torch.randn(1, 3 if fails else 4, 6, 6))
        before = calls(counted)
        assert counted.head.weight is not counted.head.weight
        assert calls(counted) == before + 2
    alive = weakref.ref(counted.head)
    del counted.head
    gc.collect()
    assert alive() is None, "a forward that failed still holds the model"


def test_a_changed_parameter_is_never_stale(counted, x):
    class Changing(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, y):
            first = self.inner.head(y)
            with torch.no_grad():
                self.inner.head.parametrizations.weight.original.mul_(2)
            second = self.inner.head(y)
            coc.kernel_maps(self.inner.head)[0].super_kernel.data = torch.zeros(1, 1, 3, 3)
            return first, second, self.inner.head(y)

    counted.unused = nn.Identity()
    model = coc.convert(Changing(Siamese()))
    randomize(model)
    with torch.no_grad():
        model.inner.head.bias.zero_()
    first, second, third = model(x)
    assert relative(second, 2 * first) < 1e-5
    plain = nn.functional.conv2d(x, model.inner.head.parametrizations.weight.original, padding=1)
    assert relative(third, plain) < 1e-5


def test_gradient_and_inference_modes_do_not_mix(counted, x):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Siamese()

        def forward(self, y):
            with torch.no_grad():
                target = self.inner(y)
            return (self.inner(y) - target).square().sum() + self.inner(y).sum()

    model = coc.convert(Mixed())
    randomize(model)
    model(x).backward()
    assert model.inner.head.parametrizations.weight.original.grad.any()
    with torch.inference_mode():
        inferred = model(x)
    assert relative(inferred, model(x)) < 1e-6


def test_autocast_inside_a_forward_gets_its_own_kernel(x):
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3)

        def forward(self, y):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                half = self.conv(y)
            return half, self.conv(y)

    model = coc.convert(Partly())
    randomize(model)
    half, full = model(x)
    assert half.dtype == torch.bfloat16
    with coc.no_kernel_cache():
        assert torch.equal(full, model(x)[1])


@counts
def test_nested_converted_models_share_the_outermost_forward(counted, x):
    outer = nn.Sequential(counted, nn.Conv2d(4, 4, 3))
    coc.convert(outer, where="1")
    before = calls(counted)
    outer(x)
    assert calls(counted) == before + 1


def test_threads_do_not_see_each_other(counted, x):
    results = {}

    def run(factor):
        results[factor] = [counted(factor * x) for _ in range(20)][-1]

    threads = [threading.Thread(target=run, args=(factor,)) for factor in (1.0, 2.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for factor, out in results.items():
        assert relative(out, counted(factor * x)) < 1e-6


def test_tied_convs_frozen_convs_and_other_dtypes_are_computed_right(x):
    model = Siamese()
    model.body[1].weight = model.body[0].weight
    model.body[2].requires_grad_(False)
    coc.convert(model)
    randomize(model)
    out, found = model(x), gradients(model, x)
    with coc.no_kernel_cache():
        assert relative(out, model(x)) < 1e-6
        same(found, gradients(model, x), 1e-5)


@counts
def test_folding_takes_the_hooks_away_and_copies_keep_theirs(counted, x):
    twin = copy.deepcopy(counted)
    plain = coc.reparameterize(counted)
    assert our_functions(lambda: counted(x))
    assert not our_functions(lambda: plain(x))
    before = calls(twin)
    twin(x)
    assert calls(twin) == before + 1
    part = coc.reparameterize(counted, where="body.*")
    assert relative(part(x), plain(x)) < 1e-5


def test_inference_mode_first_and_training_after(x):
    model = coc.convert(Siamese())
    with torch.inference_mode():
        model(x)
    model(x).sum().backward()


def test_a_part_that_was_converted_anew_is_not_computed_by_an_old_plan(x):
    """The plan of the whole model does not hear of surgery on its parts: layers are compared when they are used."""
    for config in (coc.Config(extra_width=0, skip=False), coc.Config(grid_norm=True), coc.Config(depth=2)):
        model = coc.convert(nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)), nn.Conv2d(4, 4, 3)))
        model(x)
        coc.remove(model[0], inplace=True)
        coc.convert(model[0], config=config)
        randomize(model)
        assert relative(model(x), model[1](model[0](x))) < 1e-6
    coc.reparameterize(model[0], inplace=True)
    coc.reparameterize(model[1], inplace=True)
    model(x)
    assert not our_functions(lambda: model(x)), "a model without converted convs sheds its hooks"


def test_an_interrupted_forward_leaves_nothing_behind(x):
    """torch runs no hooks after a KeyboardInterrupt: think of a notebook cell that is stopped."""

    class Interrupted(Siamese):
        stop = True

        def forward(self, y):
            out = super().forward(y)
            if self.stop:
                raise KeyboardInterrupt
            return out

    model = coc.convert(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        model(x)
    model.stop = False
    assert model.head.weight is not model.head.weight
    for _ in range(2):
        model(x).sum().backward()
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_a_frozen_layer_among_trainable_ones_stays_frozen(x):
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)).requires_grad_(False)
    model[1].requires_grad_(True)
    coc.convert(model)
    outputs = []
    model[0].register_forward_hook(lambda module, args, out: outputs.append(out))
    model(x).sum().backward()
    assert not outputs[0].requires_grad


def test_maps_with_buffers_or_parts_are_never_stale_nor_late_to_learn(x):
    class Scaled(coc.KernelMap):
        def __init__(self):
            super().__init__()
            self.register_buffer("factor", torch.ones(()))

        def forward(self, weight):
            return self.factor * weight

    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, bias=False).requires_grad_(False)

        def forward(self, y):
            first = self.conv(y)
            coc.kernel_maps(self.conv)[0].factor.mul_(2)
            second = self.conv(y)
            self.conv.requires_grad_(True)
            return first, second, self.conv(y)

    first, second, third = coc.convert(Changing(), Scaled)(x)
    assert torch.equal(second, 2 * first)
    assert third.requires_grad
    assert not second.requires_grad


def test_hooks_on_parameters_never_see_missing_gradients(x):
    model = coc.convert(Siamese())
    model.unused.parametrizations.weight.original.register_hook(lambda grad: grad.clone())
    model(x).sum().backward()
    model = coc.convert(Siamese())
    for parameter in model.unused.parametrizations.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: p.grad.clone())
    model(x).sum().backward()
    assert all(parameter.grad is None for parameter in model.unused.parametrizations.parameters())


def test_a_model_whose_parts_refer_back_to_it_is_freed(x):
    model = coc.convert(Siamese())
    model.head.register_forward_hook(lambda module, args, out, whole=model: None)
    model(x)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


class Ramp(coc.SpatialAssociation):
    """Computes something else than its parent."""

    def forward(self, weight):
        return super().forward(weight) * torch.arange(1.0, 1 + len(weight)).view(-1, 1, 1, 1)


def _parametrized(model):
    nn.utils.parametrize.register_parametrization(coc.kernel_maps(model.body[0])[0], "super_kernel", nn.Softsign())


def _pruned(model):
    prune.random_unstructured(coc.kernel_maps(model.body[0])[0], "super_kernel", amount=0.5)


@pytest.mark.parametrize(
    ("method", "change"),
    [(Ramp, lambda model: None), ("coc", _parametrized), ("coc", _pruned)],
    ids=["subclass", "parametrized", "pruned"],
)
def test_an_association_that_computes_something_else_is_asked(method, change, x):
    model = coc.convert(Siamese(), method)
    randomize(model)
    change(model)
    found = model(x)
    with coc.no_kernel_cache():
        assert relative(found, model(x)) < 1e-6


def test_hooks_on_associations_are_called(x):
    model, called = coc.convert(Siamese()), []
    association = coc.kernel_maps(model.body[1])[0]
    association.register_forward_hook(lambda *_: called.append("forward"))
    association.register_full_backward_hook(lambda *_: called.append("backward"))
    model(x).sum().backward()
    assert called == ["forward", "backward"]


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        return self.actor(x), self.critic(x), self.critic(2 * x)


@counts
def test_losses_of_one_forward_one_after_the_other(x):
    model = coc.convert(ActorCritic())
    randomize(model)
    sum(out.square().sum() for out in model(x)).backward()
    together = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    losses = [out.square().sum() for out in model(x)]
    losses[0].backward()
    with pytest.raises(RuntimeError, match="second time"):
        losses[1].backward()
    model.zero_grad()
    with coc.no_kernel_cache():
        losses = [out.square().sum() for out in model(x)]
    for loss in losses:
        loss.backward()
    for p, expected in zip(model.parameters(), together, strict=True):
        assert relative(p.grad, expected) < 1e-6


class Steps(nn.Module):
    """Whole steps in one forward, as Lightning's manual optimization under DDP makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Siamese()

    def forward(self, parts):
        for part in parts:
            self.net(part).square().sum().backward()


@pytest.mark.parametrize("method", ["coc", "coc+orth", ["coc", Counting]])
def test_several_steps_in_one_forward(method, x):
    model = coc.convert(Steps(), method)
    randomize(model)
    parts = [x, 2 * x]
    expected = [gradients(model.net, part) for part in parts]
    model.zero_grad()
    model(parts)
    for name, parameter in model.net.named_parameters():
        found = [grads[name] for grads in expected if grads[name] is not None]
        assert (parameter.grad is None) == (not found), name
        assert not found or relative(parameter.grad, sum(found)) < 1e-6


@counts
@pytest.mark.parametrize("how", ["backward", "dropped"])
def test_kernels_are_freed_with_their_results(how, counted, x):
    """Without the garbage collector: what is hung on a graph must not hold it."""
    kernels = []
    for conv in (counted.head, *counted.body):
        conv.register_forward_hook(lambda conv, *_: kernels.append(weakref.ref(conv.weight)))
    gc.disable()
    try:
        out = counted(x)
        assert all(kernel() is not None for kernel in kernels)
        if how == "backward":
            out.square().sum().backward()
        del out
        assert len(kernels) == 7
        assert all(kernel() is None for kernel in kernels)
    finally:
        gc.enable()


@counts
def test_in_replicas_without_registered_parameters_nothing_is_kept(counted, x):
    """As DataParallel makes them for several GPUs: the parameters are attributes of copies of the modules."""
    replicas = {id(module): module._replicate_for_data_parallel() for module in counted.modules()}
    for module in counted.modules():
        replica = replicas[id(module)]
        for name, child in module._modules.items():
            replica._modules[name] = replicas[id(child)]
            setattr(replica, name, replicas[id(child)])
        for name, parameter in module._parameters.items():
            setattr(replica, name, None if parameter is None else parameter * 1)
    before = calls(counted)
    out = replicas[id(counted)](x)
    assert calls(counted) == before
    assert relative(out, counted(x)) < 1e-6
    out.sum().backward()
    assert counted.head.parametrizations.weight.original.grad.any()
