"""How a converted conv answers where it is used like a plain one."""

from __future__ import annotations

import abc
import copy
import io
import pickle

import pytest
import torch
from reference import randomize, relative
from small_nets import normed_net
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.fusion import fuse_conv_bn_eval

import convofconv as coc


@pytest.fixture
def x():
    return torch.randn(2, 3, 9, 9)


def test_reset_parameters_initialises_basic_kernels_bias_and_maps():
    model = coc.convert(nn.Sequential(nn.Conv2d(3, 8, 3)), config=coc.Config(init="kaiming"))
    conv = model[0]
    before = {name: p.detach().clone() for name, p in conv.named_parameters()}
    parameters = dict(conv.named_parameters())
    conv.reset_parameters()
    assert all(parameters[name] is p and not torch.equal(p, before[name]) for name, p in conv.named_parameters())
    torch.manual_seed(5)
    conv.reset_parameters()
    torch.manual_seed(5)
    plain = nn.Conv2d(3, 8, 3)
    plain.reset_parameters()
    torch.manual_seed(5)
    plain.reset_parameters()
    assert torch.equal(conv.parametrizations.weight.original, plain.weight)
    assert torch.equal(conv.bias, plain.bias)


def test_torchs_own_way_of_removing_parametrizations_gives_plain_convs(x):
    model = coc.convert(normed_net().eval())
    randomize(model)
    expected = model(x)
    for conv in (model[0], model[2][0]):
        parametrize.remove_parametrizations(conv, "weight")
        assert type(conv) is nn.Conv2d
    assert relative(model(x), expected) < 1e-6
    plain = normed_net()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain.eval()(x), model(x))
    model.load_state_dict(plain.state_dict())
    pickle.dumps(model)


def test_torchs_own_way_of_removing_leaves_other_convs_alone(x):
    """Convs of one class share a class after conversion; torch deletes the property of the one that it makes plain."""
    model = coc.convert(normed_net().eval(), "coc+doconv")
    randomize(model)
    expected, copied = model(x), copy.deepcopy(model)
    assert type(model[0]) is type(model[2][0]) is type(copied[0])
    parametrize.remove_parametrizations(model[0], "weight")
    assert type(model[0]) is nn.Conv2d
    assert relative(model(x), expected) < 1e-6
    assert torch.equal(copied(x), expected)
    coc.convert(model, where="0")
    assert relative(coc.reparameterize(model)(x), expected) < 1e-6


class Doubled(nn.Module):
    def forward(self, bias):
        return 2 * bias


@pytest.mark.parametrize("first", ["kernels", "bias"])
@pytest.mark.parametrize("undo", ["fold", "torch"])
def test_a_parametrized_bias_is_that_of_one_conv_alone(first, undo, x):
    """Whoever comes first, and whoever goes first; the others keep a bias of their own."""
    model = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))).eval()
    actions = [lambda: coc.convert(model), lambda: parametrize.register_parametrization(model[0], "bias", Doubled())]
    for action in actions if first == "kernels" else reversed(actions):
        action()
    randomize(model)
    copied, expected = copy.deepcopy(model), model(x)
    plain = [model[1].bias, model[2].bias]
    assert all(isinstance(bias, nn.Parameter) for bias in plain)
    assert torch.equal(model[0].bias, 2 * model[0].parametrizations.bias.original)
    if undo == "fold":
        coc.reparameterize(model, inplace=True)
    else:
        for conv in model:
            parametrize.remove_parametrizations(conv, "weight")
    assert relative(model(x), expected) < 1e-6
    assert parametrize.is_parametrized(model[0], "bias")
    assert isinstance(model[0].weight, nn.Parameter)
    assert torch.equal(copied(x), expected)
    coc.convert(model[0])
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    with pytest.raises(coc.SurgeryError, match="cannot be pickled whole"):
        pickle.dumps(model[0])
    coc.reparameterize(model, inplace=True)
    parametrize.remove_parametrizations(model[0], "bias")
    assert {type(conv) for conv in model} == {nn.Conv2d}
    assert relative(model(x), expected) < 1e-6


class Registering(abc.ABCMeta):
    """What frameworks register their layers with."""


class OwnConv(nn.Conv2d, metaclass=Registering):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("cls", [nn.Conv2d, OwnConv])
def test_the_class_of_a_converted_conv_builds_plain_ones(cls, x):
    """``type(conv)(...)``, as libraries of LoRA make their layers."""
    model = coc.convert(nn.Sequential(cls(3, 8, 3), cls(8, 3, 3)))
    randomize(model)
    expected = model(x)
    built = type(model[0])(3, 8, 3, bias=False)
    assert type(built) is cls
    assert isinstance(built.weight, nn.Parameter)
    pickle.dumps(built)
    assert torch.equal(model(x), expected)
    assert type(model[0]) is type(model[1])
    assert type(coc.reparameterize(model)[0]) is cls


def test_functional_call_is_given_basic_kernels(x):
    """Under "weight" the value would be right, the gradient None and the basic kernels changed by rounding."""
    model = coc.convert(normed_net()).eval()
    randomize(model)
    before = copy.deepcopy(model.state_dict())
    kernels = torch.randn(8, 3, 3, 3, requires_grad=True)

    def loss(w, key):
        return torch.func.functional_call(model, {key: w}, x).square().sum()

    for call in (loss, torch.func.grad(loss)):
        with pytest.raises(
            coc.SurgeryError, match=r'the key "parametrizations\.weight\.original" in place of "weight"'
        ):
            call(kernels, "0.weight")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    (expected,) = torch.autograd.grad(loss(kernels, "0.parametrizations.weight.original"), kernels)
    assert expected.any()
    found = torch.func.grad(loss)(kernels.detach(), "0.parametrizations.weight.original")
    assert relative(found, expected) < 1e-6
    model[0].weight = kernels.detach() * 2  # assigning it is another matter


@pytest.mark.parametrize(
    "use",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        lambda conv: prune.l1_unstructured(conv, "weight", 0.5),
    ],
    ids=["weight_norm", "spectral_norm", "pruning"],
)
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_what_takes_the_weight_from_the_parameters_is_told_to_fold_first(use, x):
    model = coc.convert(normed_net().eval())
    expected = model(x)
    with pytest.raises(coc.SurgeryError, match=r"not among the conv's parameters, .* fold the model first"):
        use(model[0])
    assert torch.equal(model(x), expected)
    plain = coc.reparameterize(model)
    use(plain[0])
    plain(x)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_scripting_says_to_fold_first(x):
    model = coc.convert(normed_net().eval())
    with pytest.raises(coc.SurgeryError, match="cannot be scripted: fold the model first"):
        torch.jit.script(model)
    assert torch.equal(torch.jit.script(coc.reparameterize(model))(x), model(x))


def test_saving_the_whole_model_says_what_to_save():
    model = coc.convert(normed_net())
    with pytest.raises(
        coc.SurgeryError, match=r"Save model\.state_dict\(\) to train on; to ship it fold the model first"
    ):
        torch.save(model, io.BytesIO())
    with pytest.raises(coc.SurgeryError, match="cannot be pickled whole"):
        pickle.dumps(copy.deepcopy(model))
    torch.save(coc.reparameterize(model), io.BytesIO())


def test_assigning_a_parameter_says_what_to_do():
    model = coc.convert(normed_net())
    for conv in (model[0], copy.deepcopy(model)[0]):
        with pytest.raises(coc.SurgeryError, match=r"no parameter can replace it .* fold the model first"):
            conv.weight = nn.Parameter(torch.zeros(8, 3, 3, 3))
        assert coc.kernel_maps(conv), "nothing is broken by the attempt"
        conv.bias = nn.Parameter(torch.zeros(8))


def test_assigning_a_tensor_solves_for_the_basic_kernels():
    model = coc.convert(normed_net())
    randomize(model)
    kernels = torch.randn(8, 3, 3, 3)
    model[0].weight = kernels
    assert relative(model[0].weight, kernels) < 1e-5
    assert not torch.allclose(model[0].parametrizations.weight.original, kernels)
    model = coc.convert(normed_net(), "stnd")
    with pytest.raises(coc.SurgeryError, match=r"Standardization has no inverse .* Write the basic kernels"):
        model[0].weight = kernels


@pytest.mark.parametrize("method", ["coc", "doconv", "stnd"])
@pytest.mark.parametrize(
    ("value", "error", "found"),
    [
        (torch.randn(5, 3, 3, 3), coc.ShapeError, r"got \(5, 3, 3, 3\) and torch.float32"),
        (torch.randn(8, 3, 3, 3).half(), coc.ShapeError, r"got \(8, 3, 3, 3\) and torch.float16"),
        (None, coc.ArgumentTypeError, "got NoneType"),
    ],
)
def test_what_is_no_weight_cannot_be_assigned(method, value, error, found):
    model = coc.convert(normed_net(), method)
    before = model[0].weight.clone()
    with pytest.raises(error, match=rf"takes a tensor of shape \(8, 3, 3, 3\) and torch.float32, {found}"):
        model[0].weight = value
    assert torch.equal(model[0].weight, before)


def test_an_assigned_tensor_is_copied():
    model, t = coc.convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3))), torch.randn(4, 3, 3, 3)
    model[0].weight = t
    model[1].weight = t
    assert torch.equal(model[1].weight, t)
    places = {conv.parametrizations.weight.original.data_ptr() for conv in model}
    assert len(places - {t.data_ptr()}) == 2


def test_fusing_before_folding_says_to_fold():
    model = coc.convert(normed_net()).eval()
    with pytest.raises(coc.SurgeryError, match=r"fusing batch norms .*\.reparameterize\(model\)"):
        fuse_conv_bn_eval(model[0], model[1])
    plain = coc.reparameterize(model)
    fuse_conv_bn_eval(plain[0], plain[1])
