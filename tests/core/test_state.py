"""State dicts in every direction, initialisation, assignment, and what the user is told where something cannot be."""

from __future__ import annotations

import abc
import copy
import dataclasses
import io
import pickle
import re

import pytest
import torch
from reference import randomize, relative
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.fusion import fuse_conv_bn_eval

import convofconv as coc


def small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.Sequential(nn.Conv2d(8, 6, 3, groups=2), nn.GroupNorm(2, 6)),
        nn.Conv2d(6, 4, 1),
    )


@pytest.fixture
def x():
    return torch.randn(2, 3, 9, 9)


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("method", ["coc", "coc+stnd", "orth"])
def test_a_plain_checkpoint_loads_strictly_into_a_converted_model(method, copied, x):
    pretrained = small_net()
    randomize(pretrained)
    model = coc.convert(small_net(), method)
    model = copy.deepcopy(model) if copied else model
    if method == "coc":
        model.load_state_dict(pretrained.state_dict(), strict=True)  # the identity start: no warning
        assert torch.equal(model.eval()(x), pretrained.eval()(x))
    else:
        with pytest.warns(coc.ConversionWarning, match="plain kernels were loaded as basic kernels"):
            model.load_state_dict(pretrained.state_dict(), strict=True)
    assert torch.equal(model[0].parametrizations.weight.original, pretrained[0].weight)


def test_a_plain_checkpoint_in_a_model_with_learnt_super_kernels_is_warned_about():
    model = coc.convert(small_net())
    randomize(model)
    supers = [m.super_kernel.clone() for module in model.modules() for m in coc.kernel_maps(module)]
    with pytest.warns(coc.ConversionWarning, match="Load plain checkpoints before convert"):
        model.load_state_dict(small_net().state_dict())
    after = [m.super_kernel for module in model.modules() for m in coc.kernel_maps(module)]
    assert all(torch.equal(a, b) for a, b in zip(supers, after, strict=True)), "super kernels keep what they had"


def test_a_plain_checkpoint_of_another_shape_is_torchs_error():
    other = nn.Conv2d(3, 16, 3)
    with pytest.raises(RuntimeError, match=r"size mismatch for parametrizations\.weight\.original"):
        coc.convert(nn.Conv2d(3, 8, 3)).load_state_dict(other.state_dict())


@pytest.mark.parametrize("method", ["coc", "coc+stnd", "coc+orth", "stnd", "coc+doconv", "norm"])
@pytest.mark.parametrize("config", ["poster", "released"])
def test_a_converted_checkpoint_makes_the_round_trip(method, config, x):
    trained = coc.convert(small_net(), method, config)
    randomize(trained)
    buffer = io.BytesIO()
    torch.save(trained.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)

    same = coc.convert(small_net(), method, config)
    same.load_state_dict(state, strict=True)
    assert torch.equal(same.eval()(x), trained.eval()(x))

    rebuilt = coc.convert_like(small_net(), state)
    rebuilt.load_state_dict(state, strict=True)
    assert torch.equal(rebuilt.eval()(x), trained.eval()(x))
    assert list(rebuilt.state_dict()) == list(trained.state_dict())


def test_a_folded_checkpoint_loads_strictly_into_the_plain_architecture(x):
    model = coc.convert(small_net())
    randomize(model)
    plain = small_net()
    plain.load_state_dict(coc.reparameterize(model).state_dict(), strict=True)
    assert relative(plain.eval()(x), model.eval()(x)) < 1e-6


def test_convert_like_rebuilds_other_settings_layers_and_ties(x):
    trained = coc.convert(small_net(), config={"0": coc.Config(grid_side=3, dilated=False), "*": "released"})
    randomize(trained)
    state = trained.state_dict()
    rebuilt = coc.convert_like(small_net(), state)
    rebuilt.load_state_dict(state)
    assert torch.equal(rebuilt.eval()(x), trained.eval()(x))
    assert coc.kernel_maps(rebuilt[0])[0].config.grid_side == 3
    conv = coc.convert(nn.Conv2d(3, 8, 3))
    assert coc.kernel_maps(coc.convert_like(nn.Conv2d(3, 8, 3), conv.state_dict()))
    plain = coc.convert_like(small_net(), small_net().state_dict())
    assert not coc.summary(plain).converted


def test_convert_like_leaves_coc_layers_as_they_are(x):
    def build():
        return nn.Sequential(coc.CoC2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3))

    trained = coc.convert(build(), where=["2"])
    randomize(trained)
    model = coc.convert_like(build(), trained.state_dict())
    model.load_state_dict(trained.state_dict())
    assert torch.equal(model(x), trained(x))
    other = nn.Sequential(coc.CoC2d(3, 8, 3, padding=1, config=coc.Config(skip=False)), nn.ReLU(), nn.Conv2d(8, 6, 3))
    coc.convert_like(other, trained.state_dict())
    with pytest.raises(RuntimeError, match="0 was converted with other settings: skip=True in the checkpoint"):
        other.load_state_dict(trained.state_dict())


class UNet(nn.Module):
    """Holds its encoder's layers a second time, in the stages that its forward uses, as many a U-Net does."""

    def __init__(self) -> None:
        super().__init__()
        self.base = small_net()
        self.stage = nn.Sequential(*list(self.base.children())[:3])

    def forward(self, x):
        return self.base[3](self.stage(x))


def test_convert_like_finds_convs_by_every_name(x):
    model = coc.convert(UNet()).eval()
    randomize(model)
    state = model.state_dict()
    assert {"base.0.parametrizations.weight.original", "stage.0.parametrizations.weight.original"} < set(state)
    again = coc.convert_like(UNet(), state).eval()
    again.load_state_dict(state)
    assert torch.equal(again(x), model(x))
    assert coc.verify(model, coc.reparameterize(again), x) < 1e-6


def test_other_settings_of_the_same_shape_are_refused_with_the_layer():
    """dilated and skip change the function but no shape: only the stored settings can tell."""
    state = coc.convert(small_net(), config=coc.Config(extra_width=0, dilated=True)).state_dict()
    other = coc.convert(small_net(), config=coc.Config(extra_width=0, dilated=True, skip=False))
    with pytest.raises(
        RuntimeError, match=r"2\.0 was converted with other settings: skip=True in the checkpoint, False"
    ):
        other.load_state_dict(state)
    start = coc.convert(small_net(), config=coc.Config(extra_width=0, init="kaiming"))
    start.load_state_dict(state)  # the start is history


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_checkpoint_may_be_cast_whole(dtype, x):
    """As scripts do that average checkpoints, or halve them for publication."""
    trained = coc.convert(small_net(), "coc+stnd", coc.Config(grid_side=3, init="kaiming"))
    state = {name: value.to(dtype) for name, value in trained.state_dict().items()}
    rebuilt = coc.convert_like(small_net(), state)
    rebuilt.load_state_dict(state)
    assert relative(rebuilt.eval()(x), trained.eval()(x)) < 0.1
    assert coc.kernel_maps(rebuilt[0])[0].config == coc.kernel_maps(trained[0])[0].config


def test_rebuilding_a_conversion_solves_nothing(x, monkeypatch, recwarn):
    """Of the start only the setting matters: the kernels are about to be loaded."""
    trained = coc.convert(small_net(), config=coc.Config(init="solve"))

    def refuse(*_, **__):
        raise AssertionError("solved")

    monkeypatch.setattr(torch.linalg, "cond", refuse)
    monkeypatch.setattr(torch.linalg, "solve_ex", refuse)
    rebuilt = coc.convert_like(small_net(), trained.state_dict())
    rebuilt.load_state_dict(trained.state_dict())
    assert torch.equal(rebuilt.eval()(x), trained.eval()(x))
    assert coc.kernel_maps(rebuilt[0])[0].config.init == "solve"
    assert not recwarn


def test_a_checkpoint_is_made_of_tensors_alone():
    """safetensors, EMA and weights_only loading take nothing else."""
    state = coc.convert(small_net(), "coc+stnd", "released").state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())


class Forgotten(coc.KernelMap):
    def forward(self, weight):
        return weight


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: coc.convert_like(3, {}), coc.ArgumentTypeError, "takes an nn.Module, got int"),
        (lambda: coc.convert_like(small_net(), 3), coc.ArgumentTypeError, "takes a state dict, got int"),
        (
            lambda: coc.convert_like(nn.Sequential(nn.Linear(2, 2)), coc.convert(small_net()).state_dict()),
            coc.SurgeryError,
            "kernel maps for 0, 2.0, no convs of this Sequential",
        ),
        (
            lambda: coc.convert_like(
                small_net(), {"0.parametrizations.weight.0._extra_state": torch.tensor([1], dtype=torch.uint8)}
            ),
            coc.ConfigError,
            "settings in the checkpoint cannot be read",
        ),
    ],
)
def test_mistakes_with_checkpoints_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_map_that_no_class_is_called_is_named():
    state = coc.convert(nn.Conv2d(3, 8, 3), Forgotten).state_dict()
    Forgotten.__name__ = "Renamed"
    with pytest.raises(coc.ConfigError, match=r"a kernel map Forgotten, which no class is called; .*Import the module"):
        coc.convert_like(nn.Conv2d(3, 8, 3), state)


def test_remove_goes_back_to_the_basic_kernels(x):
    model = small_net().eval()
    expected = model(x)
    coc.convert(model)
    randomize(model)
    model[1].reset_parameters()
    bare = coc.remove(model)
    assert torch.equal(bare(x), expected)
    assert list(bare.state_dict()) == list(small_net().state_dict())
    assert coc.kernel_maps(model[0]), "the original keeps its maps"
    assert coc.remove(model, inplace=True) is model
    assert torch.equal(model(x), expected)


def test_folding_can_be_partial(x):
    model = coc.convert(small_net()).eval()
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


def test_a_meta_model_is_materialised(x):
    """meta → convert → to_empty → reset_parameters, the way large models are built."""
    with torch.device("meta"):
        model = small_net()
    coc.convert(model, "coc+stnd", "released")
    model = model.to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    (association, *_) = coc.kernel_maps(model[0])
    assert not association.norm_weight.any()
    assert association.super_kernel.isfinite().all()
    assert model(x).isfinite().all()
    state = coc.convert(small_net(), "coc+stnd", "released").state_dict()
    model.load_state_dict(state)
    with torch.device("meta"):
        assert coc.reparameterize(coc.convert(small_net()))[0].weight.is_meta


@pytest.mark.parametrize(
    "config",
    [coc.Config(), coc.PRESETS["released"], coc.Config(grouping="similar")],
    ids=["poster", "released", "order"],
)
def test_a_meta_model_takes_over_a_checkpoint(config, x):
    """The other way to load a large model: load_state_dict(assign=True), of plain checkpoints too."""
    plain = small_net().eval()
    trained = coc.convert(copy.deepcopy(plain), config=config)
    randomize(trained)
    with torch.device("meta"):
        model = coc.convert(small_net(), config=config).eval()
        model.load_state_dict(trained.state_dict(), assign=True)
    assert torch.equal(model(x), trained(x))
    with torch.device("meta"):
        model = coc.convert(small_net(), config=dataclasses.replace(config, grid_norm=False)).eval()
    model.load_state_dict(plain.state_dict(), assign=True)
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    if config != coc.PRESETS["released"]:  # which has a norm, whatever its start
        assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize("method", ["coc", "doconv", "norm"])
@pytest.mark.parametrize("on_meta", [True, False])
@pytest.mark.filterwarnings("ignore:plain kernels were loaded")  # into a norm of kernels
def test_what_a_checkpoint_lacks_follows_its_dtype(method, on_meta, x):
    """A plain checkpoint in half precision, assigned, makes a network in half precision, as of a plain network."""
    state = small_net().bfloat16().state_dict()
    with torch.device("meta" if on_meta else "cpu"):
        model = coc.convert(small_net(), method).eval()
    model.load_state_dict(state, assign=True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model(x.bfloat16()).dtype == torch.bfloat16


def test_torchs_own_way_of_removing_parametrizations_gives_plain_convs(x):
    model = coc.convert(small_net().eval())
    randomize(model)
    expected = model(x)
    for conv in (model[0], model[2][0]):
        parametrize.remove_parametrizations(conv, "weight")
        assert type(conv) is nn.Conv2d
    assert relative(model(x), expected) < 1e-6
    plain = small_net()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain.eval()(x), model(x))
    model.load_state_dict(plain.state_dict())
    pickle.dumps(model)


def test_torchs_own_way_of_removing_leaves_other_convs_alone(x):
    """Convs of one class share a class after conversion; torch deletes the property of the one that it makes plain."""
    model = coc.convert(small_net().eval(), "coc+doconv")
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
    model = coc.convert(small_net()).eval()
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
    model = coc.convert(small_net().eval())
    expected = model(x)
    with pytest.raises(coc.SurgeryError, match=r"not among the conv's parameters, .* fold the model first"):
        use(model[0])
    assert torch.equal(model(x), expected)
    plain = coc.reparameterize(model)
    use(plain[0])
    plain(x)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_scripting_says_to_fold_first(x):
    model = coc.convert(small_net().eval())
    with pytest.raises(coc.SurgeryError, match="cannot be scripted: fold the model first"):
        torch.jit.script(model)
    assert torch.equal(torch.jit.script(coc.reparameterize(model))(x), model(x))


def test_saving_the_whole_model_says_what_to_save():
    model = coc.convert(small_net())
    with pytest.raises(
        coc.SurgeryError, match=r"Save model\.state_dict\(\) to train on; to ship it fold the model first"
    ):
        torch.save(model, io.BytesIO())
    with pytest.raises(coc.SurgeryError, match="cannot be pickled whole"):
        pickle.dumps(copy.deepcopy(model))
    torch.save(coc.reparameterize(model), io.BytesIO())


def test_assigning_a_parameter_says_what_to_do():
    model = coc.convert(small_net())
    for conv in (model[0], copy.deepcopy(model)[0]):
        with pytest.raises(coc.SurgeryError, match=r"no parameter can replace it .* fold the model first"):
            conv.weight = nn.Parameter(torch.zeros(8, 3, 3, 3))
        assert coc.kernel_maps(conv), "nothing is broken by the attempt"
        conv.bias = nn.Parameter(torch.zeros(8))


def test_assigning_a_tensor_solves_for_the_basic_kernels():
    model = coc.convert(small_net())
    randomize(model)
    kernels = torch.randn(8, 3, 3, 3)
    model[0].weight = kernels
    assert relative(model[0].weight, kernels) < 1e-5
    assert not torch.allclose(model[0].parametrizations.weight.original, kernels)
    model = coc.convert(small_net(), "stnd")
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
    model = coc.convert(small_net(), method)
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
    model = coc.convert(small_net()).eval()
    with pytest.raises(coc.SurgeryError, match=r"fusing batch norms .*\.reparameterize\(model\)"):
        fuse_conv_bn_eval(model[0], model[1])
    plain = coc.reparameterize(model)
    fuse_conv_bn_eval(plain[0], plain[1])


def test_initialising_a_converted_conv_is_warned_about():
    model = coc.convert(small_net())

    def init_weights(module):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)

    with pytest.warns(coc.ConversionWarning, match=r"init_weights\(\) reads .* uses kaiming_normal_: writing into"):
        model.apply(init_weights)
    with pytest.warns(coc.ConversionWarning, match="data = ..."):
        nn.utils.convert_conv2d_weight_memory_format(model[0], torch.channels_last)


def _copy(conv, other):
    with torch.no_grad():
        conv.weight.copy_(other)


def _replace(conv, other):
    conv.weight.data = other.clone()


def _scale(conv, other):
    conv.weight.data.mul_(2).add_(other)


def _clip(conv, other):
    with torch.no_grad():
        conv.weight.clamp_(-1, 1)


def _mask(conv, other):
    conv.weight.data *= other


def _item(conv, other):
    with torch.no_grad():
        conv.weight[0] = 0


def _part(conv, other):
    conv.weight.data[1:].detach().view(-1).zero_()


def _scale_item(conv, other):
    conv.weight.data[0, 0] *= 0


def _variable(conv, other):
    weight = None
    for _ in range(2):
        if weight is not None:
            weight.data.mul_(2)
        weight = conv.weight


def _variable_at_once(conv, other):
    with torch.no_grad():
        weight = conv.weight
        weight *= 2


def _average(conv, other):
    """Of two converted convs, one of which is only read."""
    conv.weight.data.mul_(0.9).add_(conv.weight, alpha=0.1)


def _by_name(conv, other):
    for name in ("weight", "bias"):
        getattr(conv, name).data.fill_(0)


def _set_by_name(conv, other):
    setattr(conv.weight, "data", other)  # noqa: B010


def _imported(conv, other):
    from torch.nn.init import orthogonal_

    orthogonal_(conv.weight, gain=2)


def _named(conv, other):
    nn.init.constant_(val=0, tensor=conv.weight)


def _of_torch(conv, other):
    with torch.no_grad():
        torch.relu_(conv.weight)


def _out(conv, other):
    with torch.no_grad():
        torch.mul(other, 2, out=conv.weight)


def _far(conv, other):
    """Behind so many names that the instruction which reads the weight takes more than one."""
    names = "; ".join(f"other.name_{i} = 0" for i in range(300))
    found = {}
    exec(f"def far(conv, other): {names}; conv.weight.data.zero_()", found)
    found["far"](conv, other)


def _either(conv, other):
    (conv.weight if conv.training else other).data.zero_()


@pytest.mark.parametrize(
    ("write", "how"),
    [
        (_copy, "copy_"),
        (_replace, "data = ..."),
        (_scale, "add_, mul_"),
        (_clip, "clamp_"),
        (_mask, "data = ..."),
        (_item, "weight[...] = ..."),
        (_part, "zero_"),
        (_scale_item, "data[...] = ..."),
        (_variable, "mul_"),
        (_variable_at_once, "an augmented assignment"),
        (_average, "add_, mul_"),
        (_by_name, "fill_"),
        (_set_by_name, "data = ..."),
        (_imported, "orthogonal_"),
        (_named, "constant_"),
        (_of_torch, "relu_"),
        (_out, "out=..."),
        (_far, "zero_"),
        (_either, "zero_"),
    ],
)
def test_writing_into_a_computed_weight_is_warned_about(write, how):
    conv, other = coc.convert(nn.Conv2d(4, 4, 3)), torch.ones(4, 4, 3, 3)
    with pytest.warns(coc.ConversionWarning, match=rf"{write.__name__[1:]}\(\) reads .* uses {re.escape(how)}: writ"):
        write(conv, other)


def _read(conv, other):
    norm = conv.weight.data.norm()
    other.mul_(0.9).add_(conv.weight.detach(), alpha=0.1)
    other.data = other + conv.weight.requires_grad_().detach().__abs__()
    return norm


def _copy_from(conv, other):
    """Reading into something of the same name."""
    fresh = nn.Conv2d(4, 4, 3)
    fresh.weight.data.copy_(conv.weight)
    fresh.weight.data[0] = conv.weight[0]
    fresh.weight.data *= conv.weight
    nn.init.normal_(fresh.weight, std=conv.weight.std().item())
    return fresh


def _fuse(conv, other):
    """As RepViT of timm does, and torch: the product is new."""
    weight = conv.weight * torch.ones(4)[:, None, None, None]
    fused = nn.Conv2d(weight.size(1) * conv.groups, weight.size(0), weight.shape[2:], device=conv.weight.device)
    fused.weight.data.copy_(weight)
    weight += 1
    return fused


def _assign(conv, other):
    """What is written is assigned, and so not lost."""
    with torch.no_grad():
        conv.weight *= 2


def _compute(conv, other):
    weight = conv.weight.mul(2)
    weight.mul_(2)
    return nn.functional.conv2d(other, weight.clamp_(max=1), stride=1)


def _variable_of_something_else(conv, other):
    weight = conv.weight.abs()
    weight = other + weight
    weight.zero_()


def _update_average(conv, other):
    """A method of ours, no function."""

    class Average:
        def update_(self, weight):
            return weight + other

    average = Average()
    average.update_(conv.weight)


def _initialise_the_rest(conv, other):
    for module in nn.Sequential(conv, nn.Linear(3, 3)).modules():
        if getattr(module, "weight", None) is not None and isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "read",
    [
        _read,
        _copy_from,
        _fuse,
        _assign,
        _compute,
        _variable_of_something_else,
        _update_average,
        _initialise_the_rest,
    ],
)
def test_reading_a_computed_weight_and_writing_into_something_else_is_not(read):
    read(coc.convert(nn.Conv2d(4, 4, 3)), torch.ones(4, 4, 3, 3))


@pytest.mark.filterwarnings("error")
def test_torchs_own_fusing_of_tensors_is_not():
    model = coc.convert(small_net()).eval()
    norm = model[1]
    weight, _ = nn.utils.fusion.fuse_conv_bn_weights(
        model[0].weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    assert relative(weight, fuse_conv_bn_eval(coc.reparameterize(model)[0], norm).weight) < 1e-6


def test_a_function_is_warned_about_once():
    model = coc.convert(small_net())

    def zero():
        for conv in (model[0], model[2][0]) * 20:  # long enough for Python to adapt its instructions
            conv.weight.data.zero_()

    with pytest.warns(coc.ConversionWarning) as record:
        zero()
    assert len(record) == 1
    assert record[0].filename == __file__


class Outer(nn.Module):
    """Two convs and a forward that does something to them first, in a way that only its run shows."""

    def __init__(self, first) -> None:
        super().__init__()
        self.first, self.conv, self.other = first, nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x):
        self.first(self)
        return self.other(self.conv(x))


def _clip_all(model):
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.clamp_(-0.01, 0.01)


def _clip_by_name(model):
    for name in ("conv", "other"):
        getattr(model, name).weight.data.clamp_(-0.01, 0.01)


@pytest.mark.parametrize("first", [_clip_all, _clip_by_name])
def test_writing_in_the_middle_of_a_forward_is_refused(first, x):
    """It would be lost, or in some forwards not, and the folded network would be another."""
    model = coc.convert(Outer(first))
    for _ in range(20):  # long enough for Python to adapt its instructions
        with pytest.raises(coc.SurgeryError, match=rf"^conv of Outer: {first.__name__}\(\) writes .* \(clamp_\)"):
            model(x)
    with pytest.warns(coc.ConversionWarning, match="uses clamp_: writing into that weight has no effect"):
        first(model)


def test_hooks_that_write_are_refused(x):
    model = coc.convert(small_net())
    model.register_forward_pre_hook(lambda net, _: net[0].weight.data.clamp_(-1, 1))
    with pytest.raises(
        coc.SurgeryError, match=r"^0 of Sequential: <lambda>\(\) writes into its weight \(clamp_\) during a forward"
    ):
        model(x)


def test_a_forward_may_initialise_other_networks(x):
    """What runs is the forward of a network that does not hold the conv."""
    other = coc.convert(small_net())

    class Net(nn.Module):
        def forward(self, x):
            nn.init.zeros_(other[0].weight)
            return x

    with pytest.warns(coc.ConversionWarning, match="zeros_"):
        Net()(x)


def test_the_papers_start_for_a_pretrained_network_keeps_its_function(x):
    model = small_net().eval()
    randomize(model)
    expected, before = model(x), model[0].weight.detach().clone()
    coc.convert(model, config=coc.Config(init="solve"))
    (association,) = coc.kernel_maps(model[0])
    assert association.super_kernel.all()
    assert not torch.allclose(model[0].parametrizations.weight.original, before)
    assert relative(model(x), expected) < 1e-4
    assert 1 < association.condition_number() < 1e3


def test_where_it_cannot_be_solved_the_layer_starts_from_the_identity(x, monkeypatch):
    monkeypatch.setattr(coc.SpatialAssociation, "condition_number", lambda self: 1e9)
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    expected = model(x)
    with pytest.warns(
        coc.ConversionWarning, match=r"^0 \(Conv2d 3→8, 3×3\): .* \(condition number 1e\+09, limit 2\.9e\+03\)"
    ):
        coc.convert(model, config=coc.Config(init="solve"))
    assert torch.equal(model(x), expected)
    assert not coc.kernel_maps(model[0])[0].super_kernel.any()
