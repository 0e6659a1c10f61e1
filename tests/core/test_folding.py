"""reparameterize and remove on small networks."""

from __future__ import annotations

import copy
import itertools
import threading

import pytest
import torch
from reference import randomize, relative
from small_nets import normed_net, small_net
from torch import nn
from torch.nn.utils import parametrizations, prune

import convofconv as coc


def test_folding_restores_classes_keys_order_and_values(x):
    class MyConv(nn.Conv2d):
        def forward(self, y):
            return super().forward(y) * 2

    model = nn.Sequential(MyConv(3, 8, 3), nn.BatchNorm2d(8), nn.Conv1d(8, 4, 1))
    model = model[:2]
    keys, names = list(model.state_dict()), [n for n, _ in model.named_parameters()]
    coc.convert(model, "coc+stnd")
    assert isinstance(model[0], MyConv)
    randomize(model)
    expected = model[0].weight.detach().clone()
    plain = coc.reparameterize(model)
    assert type(plain[0]) is MyConv
    assert list(plain.state_dict()) == keys
    assert [n for n, _ in plain.named_parameters()] == names
    assert torch.equal(plain[0].weight, expected)
    assert "parametrizations" not in repr(plain)


def test_copies_and_foldings_in_any_order_leave_each_other_alone(x):
    """torch's remove_parametrizations on a copy breaks the original: their class is shared."""
    for order in itertools.permutations(("copy", "fold copy", "fold in place")):
        model = coc.convert(small_net()).eval()
        randomize(model)
        expected, spare = model(x), copy.deepcopy(model)
        for step in order:
            if step == "copy":
                assert torch.equal(copy.deepcopy(model)(x), expected)
            elif step == "fold copy":
                assert relative(coc.reparameterize(model)(x), expected) < 1e-6
            else:
                coc.reparameterize(model, inplace=True)
            assert relative(model(x), expected) < 1e-6, order
            assert relative(spare(x), expected) < 1e-6, order
        spare.train()(x).sum().backward()
        assert all(p.grad is not None for p in spare.parameters())


def test_folding_in_place_keeps_the_parameters_identity(x):
    model = coc.convert(small_net())
    originals = [m.parametrizations.weight.original for m in model if coc.kernel_maps(m)]
    randomize(model)
    coc.reparameterize(model, inplace=True)
    assert [id(p) for p in originals] == [id(model[i].weight) for i in (0, 3, 6)]


def test_folding_a_model_without_maps_gives_an_equal_copy(x):
    model = small_net()
    plain = coc.reparameterize(model)
    assert plain is not model
    assert coc.verify(model, plain, x, tolerance=0) == 0
    assert coc.reparameterize(model, inplace=True) is model


def test_folding_refuses_parametrizations_of_others():
    model = coc.convert(nn.Sequential(nn.Conv2d(3, 8, 3)))
    parametrizations.spectral_norm(model[0])
    with pytest.raises(coc.SurgeryError, match="0: its weight also carries _SpectralNorm, which convofconv did not"):
        coc.reparameterize(model)


@pytest.mark.parametrize("how", ["pruned", "parametrized"])
def test_folding_refuses_basic_kernels_that_something_else_computes(how):
    model = coc.convert(nn.Sequential(nn.Conv2d(3, 8, 3)))
    maps = model[0].parametrizations.weight
    if how == "pruned":
        prune.l1_unstructured(maps, "original", 0.5)
    else:
        nn.utils.parametrize.register_parametrization(maps, "original", nn.Identity())
    with pytest.raises(coc.SurgeryError, match=r"0: its basic kernels are computed by something else .*prune\.remove"):
        coc.reparameterize(model, inplace=True)
    if how == "pruned":
        prune.remove(maps, "original")
    else:
        nn.utils.parametrize.remove_parametrizations(maps, "original")
    coc.reparameterize(model, inplace=True)


def test_a_model_folded_in_inference_mode_can_be_trained_on(x):
    model = coc.convert(small_net())
    with torch.inference_mode():
        coc.reparameterize(model, inplace=True)
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_converting_leaves_copies_with_a_parametrized_bias_alone(x):
    class Half(nn.Module):
        def forward(self, bias):
            return bias / 2

    student = nn.Sequential(nn.Conv2d(3, 8, 3)).eval()
    nn.utils.parametrize.register_parametrization(student[0], "bias", Half())
    teacher, expected = copy.deepcopy(student), student(x)
    coc.convert(student, "coc+doconv")
    assert torch.equal(teacher(x), expected)
    assert torch.equal(student(x), expected)
    assert coc.verify(copy.deepcopy(student), coc.reparameterize(student), x) < 1e-6


def test_folding_keeps_a_parametrization_of_the_bias():
    class Half(nn.Module):
        def forward(self, bias):
            return bias / 2

    model, y = nn.Sequential(nn.Conv2d(3, 8, 3)), torch.randn(1, 3, 5, 5)
    nn.utils.parametrize.register_parametrization(model[0], "bias", Half())
    coc.convert(model)
    randomize(model)
    plain = coc.reparameterize(model)
    assert coc.verify(model, plain, y) < 1e-6
    assert sorted(plain.state_dict()) == ["0.parametrizations.bias.original", "0.weight"]
    assert relative(model(y), plain(y)) < 1e-6


def test_a_conv_with_a_parametrized_bias_is_plain_again_after_folding():
    class Half(nn.Module):
        def forward(self, bias):
            return bias / 2

    conv = nn.Conv2d(3, 8, 3)
    nn.utils.parametrize.register_parametrization(conv, "bias", Half())
    coc.convert(conv)
    coc.reparameterize(conv, inplace=True)
    conv.reset_parameters()
    conv.weight = nn.Parameter(torch.ones(8, 3, 3, 3))
    coc.convert(conv)
    with pytest.raises(coc.SurgeryError, match="no parameter can replace it"):
        conv.weight = nn.Parameter(torch.ones(8, 3, 3, 3))


def test_a_subclass_of_a_layer_is_folded_into_itself(x):
    class Doubled(coc.CoC2d):
        def forward(self, y):
            return 2 * super().forward(y)

    layer = Doubled(3, 8, 3)
    randomize(layer)
    plain = coc.reparameterize(layer)
    assert type(plain) is Doubled
    assert coc.verify(layer, plain, x) < 1e-6


class Bare(nn.Sequential):
    """Copies of it lack an attribute that cannot be copied."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.lock = threading.Lock()

    def __deepcopy__(self, memo):
        copied = nn.Sequential.__new__(Bare)
        copied.__dict__ = {key: copy.deepcopy(value, memo) for key, value in vars(self).items() if key != "lock"}
        return copied


def test_nothing_is_put_back_into_copies_that_lack_it_on_purpose():
    plain = coc.reparameterize(coc.convert(Bare(nn.Conv2d(3, 8, 3))))
    assert not hasattr(plain, "lock")


def test_remove_goes_back_to_the_basic_kernels(x):
    model = normed_net().eval()
    expected = model(x)
    coc.convert(model)
    randomize(model)
    model[1].reset_parameters()
    bare = coc.remove(model)
    assert torch.equal(bare(x), expected)
    assert list(bare.state_dict()) == list(normed_net().state_dict())
    assert coc.kernel_maps(model[0]), "the original keeps its maps"
    assert coc.remove(model, inplace=True) is model
    assert torch.equal(model(x), expected)


def test_folding_can_be_partial(x):
    model = coc.convert(normed_net()).eval()
    randomize(model)
    expected = model(x)
    part = coc.reparameterize(model, where="2.*")
    assert [c.name for c in coc.summary(part).converted] == ["0"]
    assert relative(part(x), expected) < 1e-6
    assert relative(coc.reparameterize(part)(x), expected) < 1e-6
    tied = nn.ModuleDict({"a": nn.Conv2d(4, 4, 3), "b": nn.Conv2d(4, 4, 3)})
    tied["b"].weight = tied["a"].weight
    coc.convert(tied)
    with pytest.raises(coc.SurgeryError, match="b is tied to a conv that `where` takes; take both or neither"):
        coc.reparameterize(tied, where="a")
