"""torch's optimizers on converted networks."""

from __future__ import annotations

import copy

import pytest
import torch
from reference import relative
from small_nets import ReusingNet

import convofconv as coc


@pytest.fixture
def x():
    return torch.randn(4, 3, 8, 8)


@pytest.mark.parametrize("fused", [False, True])
def test_optimizers_go_on_after_folding_in_place(fused, x):
    """Momentum of the kernels is kept: the plain network takes the step that its optimizer would have taken."""
    model = coc.convert(ReusingNet())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    momentum = optimizer.state[model.stem.parametrizations.weight.original]["momentum_buffer"].clone()
    coc.reparameterize(model, inplace=True)
    before = model.stem.weight.detach().clone()
    optimizer.zero_grad()
    model(x).square().sum().backward()
    expected = before - 0.1 * (0.9 * momentum + model.stem.weight.grad)
    optimizer.step()
    assert torch.allclose(model.stem.weight, expected, atol=1e-6)


@pytest.mark.parametrize("how", ["fused", "foreach"])
@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD", "Adagrad"])
def test_fused_and_foreach_optimizers_move_every_parameter_as_the_loop_does(optimizer, how, x):
    model = coc.convert(ReusingNet(), config="released")
    twin, start = copy.deepcopy(model), copy.deepcopy(model)
    for net, way in ((model, {how: True}), (twin, {how: False})):
        steps = getattr(torch.optim, optimizer)(net.parameters(), lr=1e-2, **way)
        for _ in range(3):
            steps.zero_grad()
            net(x).square().sum().backward()
            steps.step()
    for mine, theirs, before in zip(model.parameters(), twin.parameters(), start.parameters(), strict=True):
        assert relative(mine, theirs) < 1e-4
        assert not torch.equal(mine, before)
