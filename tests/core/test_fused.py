"""The common association as a node of its own: work in chunks, and autocast that is switched between passes."""

from __future__ import annotations

import pytest
import torch
from reference import randomize, relative
from torch import nn
from watching import kernels_in_forward

import convofconv as coc


@pytest.fixture
def wide():
    """Kernels of which groups are worked on a few at a time."""
    model = coc.convert(nn.Sequential(nn.Conv2d(256, 256, 3), nn.Tanh(), nn.Conv2d(256, 256, 3)))
    randomize(model)
    return model.double()


def test_hessian_times_vector_in_chunks(wide):
    """Forward over reverse, against the difference of gradients."""
    x = torch.randn(1, 256, 5, 5, dtype=torch.float64)
    values = {name: parameter.detach() for name, parameter in wide.named_parameters()}
    directions = {name: torch.randn_like(value) for name, value in values.items()}

    def gradient(inputs):
        out = torch.func.functional_call(wide, inputs, (x,)).square().sum()
        return torch.autograd.grad(out, list(inputs.values()))

    make, unpack = torch.autograd.forward_ad.make_dual, torch.autograd.forward_ad.unpack_dual
    with torch.autograd.forward_ad.dual_level():
        duals = {name: make(value.clone().requires_grad_(), directions[name]) for name, value in values.items()}
        found = [unpack(grad).tangent for grad in gradient(duals)]
    step = 1e-6
    ahead, behind = (
        gradient({name: (value + sign * step * directions[name]).requires_grad_() for name, value in values.items()})
        for sign in (1, -1)
    )
    for name, tangent, after, before in zip(values, found, ahead, behind, strict=True):
        assert relative(tangent, (after - before) / (2 * step)) < 1e-6, name


def test_many_gradients_at_once_in_chunks(wide):
    y = wide(torch.randn(1, 256, 5, 5, dtype=torch.float64)).flatten()[:2]
    parameters, units = list(wide.parameters()), torch.eye(2, dtype=torch.float64)
    expected = [torch.autograd.grad(y, parameters, unit, retain_graph=True) for unit in units]
    found = torch.autograd.grad(y, parameters, units, is_grads_batched=True, retain_graph=True)
    for batched, *alone in zip(found, *expected, strict=True):
        assert relative(batched, torch.stack(alone)) < 1e-10


def test_backward_under_autocast_after_a_forward_outside():
    model = coc.convert(nn.Conv2d(8, 8, 3))
    randomize(model)
    upstream = torch.randn(8, 8, 3, 3)
    model.weight.backward(upstream)
    expected = model.parametrizations.weight.original.grad.clone()
    model.zero_grad()
    kernel = model.weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kernel.backward(upstream)
    assert torch.equal(model.parametrizations.weight.original.grad, expected)


@pytest.mark.parametrize("layers", [1, 3])
def test_second_derivatives_under_autocast_after_a_forward_outside(layers):
    """Of one layer alone, and of several that are computed together."""
    model = coc.convert(nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(layers))))
    randomize(model)
    x = torch.randn(2, 4, 6, 6)
    weights = [conv.parametrizations.weight.original for conv in model]
    found = []
    for enabled in (False, True):
        kernels = [model[0].weight] if layers == 1 else kernels_in_forward(model, x)
        loss = sum((kernel**3).sum() for kernel in kernels)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found.append(torch.autograd.grad(loss, weights, create_graph=True))
    for exact, cast in zip(*found, strict=True):
        assert torch.equal(exact, cast)
