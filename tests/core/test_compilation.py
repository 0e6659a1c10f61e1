"""Compiled and exported networks, beyond what the table of behaviours has."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from reference import randomize, relative
from small_nets import ReusingNet
from torch import nn
from torch.nn.utils import parametrize
from watching import gradients, same

import convofconv as coc

pytestmark = pytest.mark.slow


@pytest.fixture
def x():
    return torch.randn(4, 3, 8, 8)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_compiled_before_its_first_forward(x, dtype):
    """What is looked up once and kept must have been looked up before: a graph cannot do it."""
    model = coc.convert(ReusingNet(), "coc+stnd")
    randomize(model)
    torch._dynamo.reset()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        out = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
        assert relative(out, model(x)) < (1e-5 if dtype is None else 0.02)


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_compiled_part_of_a_converted_model(x, dtype, broken):
    """Also where something of the user breaks its graphs, so that Python runs between them."""

    class Breaking(nn.Module):
        def forward(self, w):
            torch._dynamo.graph_break()
            return w * 1

    model = coc.convert(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), ReusingNet()), "coc+stnd")
    randomize(model)
    if broken:
        for conv in (model[1].stem, model[1].shared):
            parametrize.register_parametrization(conv, "weight", Breaking())
    other = copy.deepcopy(model)
    torch._dynamo.reset()
    other[1].compile(backend="aot_eager")
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about the break
        for side in (8, 10, 12):
            part = F.interpolate(x, size=(side, side))
            assert relative(other(part), model(part)) < (1e-5 if dtype is None else 0.02)


def test_compiled_with_inductor(x):
    model = coc.convert(ReusingNet(), "coc+stnd")
    randomize(model)
    expected_out, expected_grads = model(x), gradients(model, x)
    torch._dynamo.reset()
    out = torch.compile(model, fullgraph=True)(x)
    model.zero_grad()
    out.square().sum().backward()
    assert relative(out, expected_out) < 1e-5
    same({name: p.grad for name, p in model.named_parameters()}, expected_grads, 1e-4)


def test_exported_and_traced(x):
    model = coc.convert(ReusingNet()).eval()
    randomize(model)
    expected = model(x)
    assert relative(torch.export.export(model, (x,)).module()(x), expected) < 1e-6


def test_a_compiled_model_is_refused():
    with pytest.raises(coc.SurgeryError, match="already wrapped in OptimizedModule"):
        coc.convert(torch.compile(ReusingNet()))
    model = ReusingNet()
    model.compile()
    with pytest.raises(coc.SurgeryError, match="already compiled; convert before that; to fold, give its weights to"):
        coc.convert(model)
