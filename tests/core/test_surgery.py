"""convert, summary, reparameterize and verify on small networks."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from reference import associate_as, randomize, relative
from torch import nn
from torch.nn.utils import parametrizations, prune

import convofconv as coc


def small_net(norm: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.Conv2d(8, 6, 1),
        nn.Conv2d(6, 10, (3, 1), stride=2, padding_mode="reflect", padding=(1, 0)),
    )


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 8)


def maps_of(model, name):
    return [type(m).__name__ for m in coc.kernel_maps(model.get_submodule(name))]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("coc", ["SpatialAssociation"]),
        ("stnd", ["Standardization"]),
        ("orth", ["Orthogonalization"]),
        ("coc+stnd", ["SpatialAssociation", "Standardization"]),
        ("orth+coc", ["SpatialAssociation", "Orthogonalization"]),
        ("coc+stnd+orth", ["SpatialAssociation", "Standardization", "Orthogonalization"]),
        ("norm", ["KernelLayerNorm"]),
        ("doconv", ["DepthwiseOverparameterization"]),
        (
            "norm+orth+stnd+doconv+coc",
            [
                "SpatialAssociation",
                "DepthwiseOverparameterization",
                "Standardization",
                "Orthogonalization",
                "KernelLayerNorm",
            ],
        ),
        (["orth", "stnd"], ["Orthogonalization", "Standardization"]),
        (coc.Standardization, ["Standardization"]),
    ],
)
def test_methods_register_their_maps_in_order(method, expected, x):
    model = small_net()
    assert coc.convert(model, method) is model
    assert maps_of(model, "0") == maps_of(model, "3") == expected
    assert maps_of(model, "5") == [], "1×1 convs are left alone"
    unnormed = [name for name in expected if name in ("SpatialAssociation", "DepthwiseOverparameterization")]
    assert maps_of(model, "6") == unnormed, "no norm follows: no map that fixes the scale"
    randomize(model)
    plain = coc.reparameterize(model)
    assert coc.verify(model, plain, x) <= 1e-5
    assert not any(coc.kernel_maps(m) for m in plain.modules())


def test_released_adds_the_kernel_norm_where_a_norm_follows():
    model = coc.convert(small_net(), config="released")
    assert maps_of(model, "0") == ["SpatialAssociation", "KernelLayerNorm"]
    assert maps_of(model, "6") == ["SpatialAssociation"]
    assert "no kernel norm: no normalisation layer follows" in coc.summary(model).convs[-1].notes


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("coc+stnd", ["SpatialAssociation", "KernelLayerNorm", "Standardization"]),
        ("coc+norm", ["SpatialAssociation", "KernelLayerNorm"]),
        ("coc+stnd+norm", ["SpatialAssociation", "Standardization", "KernelLayerNorm"]),
        ([coc.SpatialAssociation, coc.KernelLayerNorm], ["SpatialAssociation", "KernelLayerNorm"]),
    ],
)
def test_a_norm_that_is_asked_for_twice_is_registered_once(method, expected):
    assert maps_of(coc.convert(small_net(), method, "released"), "0") == expected
    layer = coc.CoC2d(4, 8, 3, method=method, config="released")
    assert [type(m).__name__ for m in coc.kernel_maps(layer)] == expected


@pytest.mark.parametrize(
    "config",
    [
        "poster",
        coc.Config(depth=2),
        coc.Config(skip=False),
        coc.Config(share="none"),
        coc.Config(grouping="random"),
        coc.Config(grouping="similar"),
    ],
)
@pytest.mark.parametrize("method", ["coc", "coc+doconv"])
def test_conversion_changes_no_bit(method, config, x):
    for channels_last in (False, True):
        model = small_net().eval()
        if channels_last:
            model = model.to(memory_format=torch.channels_last)
        expected = model(x)
        converted = coc.convert(model, method, config)(x)
        assert torch.equal(converted, expected)
        assert converted.stride() == expected.stride()


def test_the_kaiming_start_keeps_the_basic_kernels_and_draws_super_kernels():
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    before = model[0].weight.detach().clone()
    coc.convert(model, config=coc.Config(init="kaiming"))
    (association,) = coc.kernel_maps(model[0])
    assert association.super_kernel.all()
    assert torch.equal(model[0].parametrizations.weight.original, before)
    assert relative(model[0].weight, associate_as(association, before)) < 1e-6


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_kernels_are_folded_in_float32_at_least_and_cast_back(dtype):
    model = nn.Sequential(nn.Conv2d(8, 16, 3)).to(dtype)
    coc.convert(model)
    (association,) = coc.kernel_maps(model[0])
    assert association.super_kernel.dtype == dtype
    randomize(model)
    exact = associate_as(
        copy.deepcopy(association).double(), model[0].parametrizations.weight.original.detach().double()
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = coc.reparameterize(model)
    assert plain[0].weight.dtype == dtype
    # One rounding of the exact kernels (the model's own forward rounds several times) and float32's on the way.
    half_a_unit = torch.finfo(dtype).eps / 2 * exact.abs().clamp_min(torch.finfo(dtype).tiny)
    on_the_way = (1e-15 if dtype == torch.float64 else 1e-6) * exact.abs().max()
    assert ((plain[0].weight.double() - exact).abs() <= half_a_unit + on_the_way).all()


def test_a_frozen_conv_stays_frozen():
    model = small_net()
    model[0].requires_grad_(False)
    coc.convert(model)
    assert not any(p.requires_grad for p in model[0].parameters())
    assert not model[0].weight.requires_grad
    assert model[3].weight.requires_grad
    assert not coc.reparameterize(model)[0].weight.requires_grad


def test_the_root_itself_may_be_the_conv(x):
    conv = nn.Conv2d(3, 8, 3)
    assert coc.convert(conv) is conv
    randomize(conv)
    plain = coc.reparameterize(conv)
    assert type(plain) is nn.Conv2d
    assert coc.verify(conv, plain, x) == 0
    assert coc.summary(conv).convs[0].name == "(root)"


class Tied(nn.Module):
    def __init__(self, one_module: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = self.first if one_module else nn.Conv2d(4, 4, 3, padding=1)
        self.second.weight = self.first.weight

    def forward(self, y):
        return self.second(self.first(y).relu())


@pytest.mark.parametrize("one_module", [True, False])
def test_ties_stay_and_are_folded_once(one_module):
    model, y = Tied(one_module), torch.randn(1, 4, 6, 6)
    coc.convert(model)
    randomize(model)
    assert coc.kernel_maps(model.first) == coc.kernel_maps(model.second)
    assert coc.summary(model).added_parameters == 9, "one super kernel, counted once"
    plain = coc.reparameterize(model)
    assert plain.first.weight is plain.second.weight
    assert coc.verify(model, plain, y) < 1e-6
    assert list(plain.state_dict()) == list(Tied(one_module).state_dict())


def test_a_tie_is_not_split():
    with pytest.raises(coc.SurgeryError, match=r"first: its weight is tied to second\.weight, which is not converted"):
        coc.convert(Tied(one_module=False), where="first")


def test_where_takes_patterns_and_functions():
    def converted(where):
        return [conv.name for conv in coc.summary(coc.convert(small_net(), where=where)).converted]

    assert converted("5") == ["5"], "asked for, 1×1 convs are converted too"
    assert converted(["0", "[56]"]) == ["0", "5", "6"]
    assert converted(lambda name, conv: conv.groups > 1) == ["3"]
    assert converted(lambda name, conv: name == "6") == ["6"]


def test_layers_can_be_converted_one_after_another_with_their_own_settings():
    model = coc.convert(small_net(), where="0", config=coc.Config(grid_side=1))
    coc.convert(model, "stnd", where="3")
    coc.convert(model)  # the rest; the others keep what they have
    sides = {c.name: c.maps for c in coc.summary(model).converted}
    assert sides == {"0": ("SpatialAssociation",), "3": ("Standardization",), "6": ("SpatialAssociation",)}
    assert coc.kernel_maps(model[0])[0].config.grid_side == 1


def test_summary_names_what_is_skipped_and_why():
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2),
        nn.Conv2d(6, 6, 1),
        nn.ConvTranspose2d(6, 6, 3),
        parametrizations.weight_norm(nn.Conv2d(6, 6, 3)),
        nn.Conv1d(6, 6, 1),
        nn.LazyConv2d(8, 3),
        nn.Conv2d(6, 6, 3, dtype=torch.complex64),
    )
    model.append(nn.LazyBatchNorm2d())
    model.add_module("cls_logits", nn.Conv2d(6, 6, 3))
    summary = coc.summary(coc.convert(model))
    assert [c.name for c in summary.converted] == ["0"]
    assert {c.name: c.skipped_because for c in summary.skipped} == {
        "1": "1×1 kernel",
        "2": "transposed convolution",
        "3": "weight is parametrized already (_WeightNorm)",
        "4": "kernel of size 1",
        "5": "lazy and not initialised: run a forward pass first",
        "6": "weight is torch.complex64",
        "cls_logits": "prediction layer",
    }
    assert summary.converted[0].notes == (
        "the last grid of the layer holds 2 of 4 kernels",
        "grids straddle conv groups (within_conv_groups=True keeps them inside)",
    )
    assert summary.added_parameters == 18
    assert "1 of 8 convs converted; 18 parameters added" in str(summary)


def test_summary_of_a_network_that_is_still_plain():
    summary = coc.summary(nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 6, 1)))
    assert [c.skipped_because for c in summary.skipped] == ["not converted", "1×1 kernel"]


class Masked(nn.Conv2d):
    """PixelCNN's: the kernel's future is set to zero before every use."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.register_buffer("mask", torch.ones_like(self.weight))
        self.mask[:, :, 1, 1:] = self.mask[:, :, 2:] = 0

    def forward(self, x):
        self.weight.data *= self.mask
        return super().forward(x)


class MaskedByIndex(Masked):
    def forward(self, x):
        self.weight.data[self.mask == 0] = 0
        return nn.Conv2d.forward(self, x)


class MaskedByAssignment(Masked):
    def forward(self, x):
        with torch.no_grad():
            self.weight *= self.mask
        return nn.Conv2d.forward(self, x)


class Renormed(nn.Conv2d):
    """EEGNet's, in a method of its own."""

    def forward(self, x):
        self.renorm()
        return super().forward(x)

    def renorm(self):
        self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=1)


class Bounded(nn.Conv2d):
    def forward(self, x):
        with torch.no_grad():
            self.weight.clamp_(-1, 1)
        return super().forward(x)


@pytest.mark.parametrize(
    ("cls", "how"),
    [
        (Masked, "data = ..."),
        (MaskedByIndex, "weight.data"),
        (MaskedByAssignment, "weight = ..."),
        (Renormed, "data = ..."),
        (Bounded, "clamp_"),
    ],
)
def test_a_conv_whose_forward_writes_into_its_weight_stays_plain(cls, how):
    """The write would be lost wherever no kernel is kept: under compile, checkpointing, in other methods."""
    model = coc.convert(nn.Sequential(cls(3, 8, 3), nn.Conv2d(8, 8, 3)))
    summary = coc.summary(model)
    assert [c.name for c in summary.converted] == ["1"]
    assert summary.skipped[0].skipped_because == f"its forward writes into its own weight ({how})"


class Own(nn.Conv2d):
    """Computes with its weight, as weight standardization, mask and scale do; nothing is written."""

    def forward(self, x):
        weight = self.weight * self.weight.detach().abs().mean()
        return self.scaled(self._conv_forward(x, weight, self.bias))

    def scaled(self, out):
        return out.mul_(2)


def test_a_conv_whose_forward_computes_with_its_weight_is_converted(x):
    model = nn.Sequential(Own(3, 8, 3)).eval()
    expected = model(x)
    assert torch.equal(coc.convert(model)(x), expected)
    assert coc.kernel_maps(model[0])


def test_grids_can_be_kept_inside_conv_groups():
    model = coc.convert(nn.Sequential(nn.Conv2d(4, 6, 3, groups=2)), config=coc.Config(within_conv_groups=True))
    assert coc.summary(model).converted[0].notes == ("the last grid of every conv group holds 3 of 4 kernels",)


def test_a_trained_network_is_warned_about_maps_that_change_it(x):
    model = small_net()
    model(x)
    with pytest.warns(
        coc.ConversionWarning, match="Standardization changes the kernels of this network, which looks tra"
    ):
        coc.convert(copy.deepcopy(model), "stnd")
    with pytest.warns(coc.ConversionWarning, match="its function is not kept"):
        coc.convert(copy.deepcopy(model), config="released")
    coc.convert(model)  # keeps the function: no warning (pytest makes warnings errors)


def test_a_map_of_ones_own(x):
    """The ten lines that CONTRIBUTING.md promises."""

    class PerKernelGain(coc.KernelMap):
        def __init__(self, kernels):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(kernels, 1, 1, 1))

        @classmethod
        def for_conv(cls, conv, config):
            return cls(conv.out_channels)

        def forward(self, weight):
            return self.gain * weight

    model = coc.convert(small_net().eval(), ["coc", PerKernelGain])
    assert maps_of(model, "0") == ["SpatialAssociation", "PerKernelGain"]
    randomize(model)
    assert coc.verify(model, coc.reparameterize(model), x) <= 1e-5


def test_a_failed_conversion_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1))
    config = coc.Config(standardize_super_kernel=True, extra_width=0)
    with pytest.raises(coc.ConfigError, match=r"^1 \(Conv2d 8→8, 1×1\): a super kernel of one tap"):
        coc.convert(model, config=config, where="*")
    assert not coc.summary(model).converted


class DataParallel(nn.Module):
    """Stands for the wrapper of that name: building a real one warns or needs devices."""

    def __init__(self, module):
        super().__init__()
        self.module = module


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: coc.convert("resnet50"), coc.ArgumentTypeError, "convert takes an nn.Module, got str"),
        (lambda: coc.summary(3), coc.ArgumentTypeError, "summary takes an nn.Module, got int"),
        (lambda: coc.reparameterize({}), coc.ArgumentTypeError, "reparameterize takes an nn.Module, got dict"),
        (
            lambda: coc.convert(small_net(), "cic"),
            coc.ConfigError,
            "no method is called 'cic'; there are coc, doconv, stnd, orth, norm",
        ),
        (lambda: coc.convert(small_net(), "coc+"), coc.ConfigError, "no method is called ''"),
        (lambda: coc.convert(small_net(), []), coc.ConfigError, "no method given"),
        (lambda: coc.convert(small_net(), 3), coc.ArgumentTypeError, "method takes names .* got 3"),
        (lambda: coc.convert(small_net(), nn.Linear), coc.ArgumentTypeError, "subclasses of KernelMap"),
        (lambda: coc.convert(small_net(), config="best"), coc.ConfigError, "no preset is called 'best'"),
        (lambda: coc.convert(small_net(), config=3), coc.ArgumentTypeError, "config must be a Config or the name"),
        (
            lambda: coc.convert(small_net(), where="conv*"),
            coc.ConfigError,
            "no conv matches 'conv\\*'; the convs are 0, 3",
        ),
        (lambda: coc.convert(small_net(), where=[]), coc.ConfigError, "where: no name patterns are given"),
        (lambda: coc.remove(coc.convert(small_net()), where=iter(())), coc.ConfigError, "no name patterns are given"),
        (
            lambda: coc.convert(small_net(), where=3),
            coc.ArgumentTypeError,
            "where takes a Selection, name patterns or a function",
        ),
        (lambda: coc.convert(small_net(), where=[3]), coc.ArgumentTypeError, "include takes name patterns, got .3."),
        (lambda: coc.convert(nn.Linear(2, 2)), coc.SurgeryError, "nothing to convert in this Linear: it has no conv"),
        (lambda: coc.convert(nn.Conv2d(2, 2, 1)), coc.SurgeryError, "its convs are root \\(1×1 kernel\\)"),
        (lambda: coc.convert(small_net(norm=False), "stnd"), coc.SurgeryError, "no normalisation layer follows"),
        (lambda: coc.convert(coc.convert(small_net())), coc.SurgeryError, "already converted"),
        (
            lambda: coc.convert(DataParallel(small_net())),
            coc.SurgeryError,
            "already wrapped in DataParallel; convert or fold",
        ),
        (
            lambda: coc.reparameterize(DataParallel(small_net())),
            coc.SurgeryError,
            "already wrapped in DataParallel; convert or fold",
        ),
        (lambda: coc.convert(torch.compile(small_net())), coc.SurgeryError, "already wrapped in OptimizedModule"),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


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


class Halve(coc.KernelMap):
    def forward(self, weight):
        return weight / 2

    def right_inverse(self, weight):
        return 2 * weight


@pytest.mark.parametrize("init", ["identity", "kaiming", "solve"])
@pytest.mark.parametrize("first", ["doconv", Halve])
def test_an_association_behind_another_map_starts_as_it_does_alone(first, init, recwarn):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    expected = [conv.weight.detach().clone() for conv in net]
    coc.convert(net, [first, "coc"], coc.Config(init=init))
    for conv, weight in zip(net, expected, strict=True):
        in_front, association = coc.kernel_maps(conv)
        original = conv.parametrizations.weight.original
        if init == "kaiming":
            assert torch.allclose(in_front(original), weight)
            assert relative(association(weight), weight) > 0.1
        else:
            assert relative(conv.weight, weight) < 1e-5
            assert bool(association.super_kernel.any()) == (init == "solve")
    assert not [str(warning.message) for warning in recwarn]


@pytest.mark.parametrize("method", ["coc", ["doconv", "coc"]])
@pytest.mark.parametrize("init", ["solve", "kaiming", "identity"])
def test_tied_convs_start_as_one_does(method, init):
    net = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    net[1].weight = net[0].weight
    expected = net[0].weight.detach().clone()
    coc.convert(net, method, coc.Config(init=init))
    originals = [conv.parametrizations.weight.original for conv in net]
    assert originals[0] is originals[1]
    for conv in net:
        assert relative(originals[0] if init == "kaiming" else conv.weight, expected) < 1e-5


def test_an_association_behind_a_map_without_inverse_starts_from_the_identity():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    with pytest.warns(coc.ConversionWarning, match="a map in front of the association has no inverse"):
        coc.convert(net, ["stnd", "coc"], coc.Config(init="solve"))
    standardize, _ = coc.kernel_maps(net[0])
    assert torch.equal(net[0].weight, standardize(net[0].parametrizations.weight.original))


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


def test_the_kaiming_start_keeps_the_basic_kernels_whatever_the_norms():
    for config in (coc.Config(skip=False, standardize_super_kernel=True, init="kaiming"), coc.Config(init="kaiming")):
        conv = nn.Conv2d(8, 8, 3)
        before = conv.weight.detach().clone()
        coc.convert(conv, config=config)
        assert torch.equal(conv.parametrizations.weight.original, before)


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


def test_tied_convs_must_be_asked_for_alike():
    config = {"first": "poster", "second": coc.Config(grid_side=3)}
    with pytest.raises(coc.SurgeryError, match="second: its weight is tied to a conv with other maps or settings"):
        coc.convert(Tied(one_module=False), config=config)


def test_a_failing_map_is_not_taken_for_a_missing_weight():
    class Broken(coc.KernelMap):
        calls = 0

        def forward(self, weight):
            self.calls += 1
            return weight if self.calls < 2 else weight.no_such_thing

    conv = coc.convert(nn.Conv2d(3, 8, 3), Broken)
    with pytest.raises(coc.SurgeryError, match=r"a kernel map of this conv failed: .*no_such_thing"):
        _ = conv.weight


# verify


def test_verify_returns_the_largest_relative_difference_and_restores_the_mode(x):
    model = small_net()
    model[3].eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[6].bias += 1e-3
    expected = 1e-3 / model.eval()(x).abs().max().item()
    model.train()
    model[3].eval()
    assert coc.verify(model, other, x, tolerance=1) == pytest.approx(expected, rel=1e-3)
    assert model.training
    assert not model[3].training
    assert model[1].num_batches_tracked == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_verify_allows_by_default_for_half_precision(dtype, autocast, x):
    model = coc.convert(small_net().eval(), "coc", coc.Config(init="kaiming"))
    plain = coc.reparameterize(model)
    if autocast:
        with torch.autocast("cpu", dtype=dtype):
            error = coc.verify(model, plain, x)
    else:
        error = coc.verify(model.to(dtype), plain.to(dtype), x.to(dtype))
    assert 1e-5 < error < 4 * torch.finfo(dtype).eps
    with torch.no_grad():
        plain[0].weight.mul_(1.1)
    with pytest.raises(coc.VerificationError, match=r"tolerance 0\.0"):
        coc.verify(model.to(dtype), plain.to(dtype), x.to(dtype))


def test_verify_names_the_first_layer_that_differs(x):
    model = coc.convert(small_net())
    plain = coc.reparameterize(model)
    with torch.no_grad():
        plain[3].weight += 0.1
        plain[0].weight *= 1 + 1e-8
    with pytest.raises(coc.VerificationError, match=r"outputs differ by .* the first layer that differs is 3 \("):
        coc.verify(model, plain, x)


class NormAndActivation(nn.BatchNorm2d):
    """As timm's: a layer with parameters of its own, and a part."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


def test_verify_names_a_layer_that_holds_its_activation(x):
    model = coc.convert(nn.Sequential(nn.Conv2d(3, 8, 3), NormAndActivation(8)))
    plain = coc.reparameterize(model)
    with torch.no_grad():
        plain[1].bias += 1
    with pytest.raises(coc.VerificationError, match=r"the first layer that differs is 1(\.act)? \("):
        coc.verify(model, plain, x)


class Outside(nn.Sequential):
    factor = 1.0

    def forward(self, y):
        return {"out": [super().forward(y) * self.factor]}


def test_verify_says_when_the_difference_is_outside_the_layers(x):
    model, other = Outside(nn.Conv2d(3, 4, 3)), Outside(nn.Conv2d(3, 4, 3))
    other.load_state_dict(model.state_dict())
    assert coc.verify(model, other, x) == 0
    other.factor = 2.0
    with pytest.raises(coc.VerificationError, match="the difference is outside the layers"):
        coc.verify(model, other, x)


class InPlace(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, y):
        return y.mul_(self.factor)


def test_verify_is_not_fooled_by_models_that_work_in_place_nor_by_complex_or_empty_evidence(x):
    with pytest.raises(coc.VerificationError):
        coc.verify(InPlace(2), InPlace(7), x)
    assert coc.verify(InPlace(2), InPlace(2), x) == 0
    with pytest.raises(coc.VerificationError):
        coc.verify(InPlace(1), InPlace(1j), torch.ones(2, dtype=torch.complex64))
    with pytest.raises(coc.VerificationError, match="differ by inf"):
        coc.verify(InPlace(1), InPlace(1), torch.full((2,), float("nan")))
    with pytest.raises(coc.VerificationError, match="differ by inf"):
        coc.verify(InPlace(1), InPlace(-1), torch.tensor([0.0, float("inf")]))


def test_verify_takes_positional_and_keyword_inputs():
    bilinear = nn.Bilinear(2, 3, 4)
    a, b = torch.randn(5, 2), torch.randn(5, 3)
    assert coc.verify(bilinear, bilinear, (a, b)) == 0
    assert coc.verify(bilinear, bilinear, {"input1": a, "input2": b}) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_verify_does_not_let_non_finite_values_pass(value, x):
    model = small_net()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[6].bias[0] = value
    with pytest.raises(coc.VerificationError, match="differ by inf"):
        coc.verify(model, other, x)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: coc.verify(small_net(), 3, 4), coc.ArgumentTypeError, "plain must be an nn.Module, got int"),
        (lambda: coc.verify(nn.Identity(), nn.Identity(), "x"), coc.ArgumentTypeError, "contains no tensor"),
        (lambda: coc.verify(nn.ReLU(), nn.ReLU(), torch.ones(1), tolerance=-1), coc.ConfigError, "got -1"),
    ],
)
def test_verify_names_mistakes(call, error, message):
    with pytest.raises(error, match=message):
        call()
