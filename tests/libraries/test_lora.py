"""LoRA by the library peft, on converted networks and on folded ones."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from reference import randomize, relative
from torch import nn

import convofconv as coc

peft = pytest.importorskip("peft", reason="peft is not installed (extra [dev])")


@pytest.fixture
def x():
    return torch.randn(2, 3, 9, 9)


@pytest.fixture
def model():
    net = nn.Sequential(
        OrderedDict(stem=nn.Conv2d(3, 8, 3, padding=1), norm=nn.BatchNorm2d(8), last=nn.Conv2d(8, 8, 3, padding=1))
    )
    randomize(coc.convert(net.eval()))
    return net


def with_lora(model, x):
    """A network with adapters that were trained for two steps: after one, half of their factors are still zero."""
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["stem", "last"])).eval()
    optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        tuned(x).square().mean().backward()
        optimizer.step()
    return tuned


def test_adapters_are_put_on_a_converted_network(model, x):
    expected = model(x)
    tuned = with_lora(copy.deepcopy(model), x)
    trained = {name for name, p in tuned.named_parameters() if p.requires_grad}
    assert len(trained) == 4
    assert all("lora_" in name for name in trained)
    assert relative(tuned(x), expected) > 1e-4
    with tuned.disable_adapter():
        assert torch.equal(tuned(x), expected)


def test_folding_first_and_merging_then_gives_the_same_network(model, x):
    tuned = with_lora(model, x)
    expected = tuned(x)
    folded = coc.reparameterize(tuned)
    assert relative(folded(x), expected) < 1e-6
    merged = folded.merge_and_unload()
    assert {type(module) for module in merged} == {nn.Conv2d, nn.BatchNorm2d}
    assert relative(merged(x), expected) < 1e-5


def test_merging_into_a_converted_conv_is_warned_about(model, x):
    tuned = with_lora(model, x)
    with pytest.warns(coc.ConversionWarning, match=r"merge\(\) reads the weight of a converted conv"):
        tuned.merge_and_unload()
