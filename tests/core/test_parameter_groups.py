from __future__ import annotations

import gc

import pytest
import torch
from torch import nn
from watching import our_functions

import convofconv as coc


def small_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 2))


def by_name(model, **options):
    names = {id(p): name for name, p in model.named_parameters()}
    return {g["name"]: (sorted(names[id(p)] for p in g["params"]), g) for g in coc.param_groups(model, 0.1, **options)}


def test_every_trainable_parameter_is_in_exactly_one_group():
    model = coc.convert(small_net(), config="released")
    model[4].weight.requires_grad_(False)
    groups = coc.param_groups(model, 0.1, super_kernel_lr=1.0)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    torch.optim.AdamW(groups, lr=0.1)


def test_norms_biases_and_the_norms_of_maps_are_not_decayed_super_kernels_are():
    groups = by_name(coc.convert(small_net(), config="released"))
    assert groups["weights"][0] == [
        "0.parametrizations.weight.original",
        "2.parametrizations.weight.original",
        "4.weight",
    ]
    assert groups["super kernels"][0] == [f"{i}.parametrizations.weight.0.super_kernel" for i in (0, 2)]
    assert "0.parametrizations.weight.1.norm_weight" in groups["norms and biases"][0]
    assert "0.parametrizations.weight.0.norm_weight" in groups["norms and biases"][0]
    decays = {name: group["weight_decay"] for name, (_, group) in groups.items()}
    assert decays == {"weights": 0.1, "norms and biases": 0.0, "super kernels": 0.1}
    assert "lr" not in groups["weights"][1]


def test_rates_and_multipliers():
    model = coc.convert(small_net())
    groups = by_name(model, lr=1.0, super_kernel_lr=0.5, super_kernel_weight_decay=0.0)
    assert {name: group["lr"] for name, (_, group) in groups.items()} == {
        "weights": 1.0,
        "norms and biases": 1.0,
        "super kernels": 0.5,
    }
    assert groups["super kernels"][1]["weight_decay"] == 0.0
    groups = coc.param_groups(model, 0.1, lr=1.0, multipliers={"4.*": 10.0, "*": 0.1})
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates[id(model[4].weight)] == rates[id(model[4].bias)] == 10.0
    assert rates[id(model[0].bias)] == 0.1
    names = [group["name"] for group in groups]
    assert names == [
        *("weights, lr=0.1", "weights, lr=10.0", "norms and biases, lr=0.1", "norms and biases, lr=10.0"),
        "super kernels",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_decay": -1}, "weight_decay must be at least 0, got -1"),
        ({"super_kernel_lr": float("nan")}, "super_kernel_lr must be at least 0, got nan"),
        ({"multipliers": {"*": 0.1}}, "multipliers need lr"),
        ({"multipliers": {"head.*": 0.1}, "lr": 1.0}, "no parameter matches 'head.*'; there are 0.weight"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(coc.ConfigError, match=message):
        coc.param_groups(small_net(), **({"weight_decay": 0.1} | options))
    with pytest.raises(coc.ArgumentTypeError, match="got str"):
        coc.param_groups("model", 0.1)


def step(model, *optimizers):
    """One training step; what the optimizers say of it is for the caller to expect."""
    model(torch.randn(2, 3, 5, 5)).sum().backward()
    for optimizer in optimizers:
        optimizer.step()


TOO_EARLY = "this SGD was built before the model was converted: .*add_param_group"


def test_an_optimizer_that_was_built_too_early_is_noticed_at_its_first_step(recwarn):
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    coc.convert(model)
    assert not recwarn
    step(small_net(), torch.optim.SGD(small_net().parameters(), lr=0.1))  # another network's
    assert not recwarn
    with pytest.warns(coc.ConversionWarning, match=TOO_EARLY):
        step(model, optimizer)
    recwarn.clear()
    step(model, optimizer)
    assert not recwarn, "once is enough"


@pytest.mark.parametrize("split", [False, True], ids=["one", "two"])
def test_optimizers_built_in_time_are_left_alone(split, recwarn):
    """Also where the super kernels have one of their own, which makes its step second."""
    model = coc.convert(small_net())
    supers = [p for module in model.modules() for m in coc.kernel_maps(module) for p in m.parameters()]
    others = [p for p in model.parameters() if all(p is not one for one in supers)]
    groups = [others, supers] if split else [others + supers]
    step(model, *[torch.optim.SGD(group, lr=0.1) for group in groups])
    assert not recwarn


def test_nothing_is_left_behind_once_optimizers_have_made_a_step(recwarn):
    other = small_net()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    before = our_functions(lambda: step(other, optimizer))  # of what other tests have left
    model = coc.convert(small_net())
    coc.convert(small_net())  # never trained, and gone
    gc.collect()
    step(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert our_functions(lambda: step(other, optimizer)) <= before
    frozen = small_net().requires_grad_(False)
    coc.convert(frozen)
    assert our_functions(lambda: step(other, optimizer)) <= before, "there is nothing to train"
    assert not recwarn


def test_convert_like_notices_it_too():
    """The order of things in many a script that resumes."""
    checkpoint = coc.convert(small_net()).state_dict()
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    coc.convert_like(model, checkpoint)
    with pytest.warns(coc.ConversionWarning, match=TOO_EARLY):
        step(model, optimizer)


def test_an_optimizer_whose_construction_failed_is_no_obstacle():
    """A notebook keeps it alive with the traceback."""
    model = small_net()
    with pytest.raises(ValueError, match="learning rate") as kept:
        torch.optim.SGD(model.parameters(), lr=-1)
    early = torch.optim.SGD(model.parameters(), lr=0.1)
    coc.convert(model)
    with pytest.warns(coc.ConversionWarning, match=TOO_EARLY):
        step(model, early)
    assert kept.value.__traceback__.tb_next, "the optimizer is still on the traceback's stack"


class NormedConv2d(nn.Conv2d):
    """A conv that normalises its kernels, by its name."""


def test_a_conv_is_no_norm_whatever_its_name():
    model = nn.Sequential(NormedConv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, affine=False))
    assert [group["name"] for group in coc.param_groups(model, weight_decay=0.1)] == ["weights"]
    coc.convert(model, "stnd")  # and a fresh one does not look like a norm that was trained
    assert [group["name"] for group in coc.param_groups(model, weight_decay=0.1)] == ["weights"]
