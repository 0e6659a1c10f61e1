"""convert and summary on small networks."""

from __future__ import annotations

import pytest
import torch
from reference import randomize
from small_nets import Tied, maps_of, small_net
from torch import nn
from torch.nn.utils import parametrizations

import convofconv as coc


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


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 8, affine=False), nn.InstanceNorm2d(8), nn.LayerNorm(8)])
def test_norms_without_a_scale_are_norms_too(norm):
    model = coc.convert(nn.Sequential(nn.Conv2d(3, 8, 3), norm), "stnd")
    assert len(coc.kernel_maps(model[0])) == 1


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("coc+stnd", ["SpatialAssociation", "KernelLayerNorm", "Standardization"]),
        ("coc+doconv", ["SpatialAssociation", "DepthwiseOverparameterization", "KernelLayerNorm"]),
        ("coc+norm", ["SpatialAssociation", "KernelLayerNorm"]),
        ("coc+stnd+norm", ["SpatialAssociation", "Standardization", "KernelLayerNorm"]),
        ([coc.SpatialAssociation, coc.KernelLayerNorm], ["SpatialAssociation", "KernelLayerNorm"]),
    ],
)
def test_a_norm_that_is_asked_for_twice_is_registered_once(method, expected):
    assert maps_of(coc.convert(small_net(), method, "released"), "0") == expected
    layer = coc.CoC2d(4, 8, 3, method=method, config="released")
    assert [type(m).__name__ for m in coc.kernel_maps(layer)] == expected


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


def test_grids_can_be_kept_inside_conv_groups():
    model = coc.convert(nn.Sequential(nn.Conv2d(4, 6, 3, groups=2)), config=coc.Config(within_conv_groups=True))
    assert coc.summary(model).converted[0].notes == ("the last grid of every conv group holds 3 of 4 kernels",)


def test_a_map_of_ones_own_is_of_the_convs_dtype():
    class Gain(coc.KernelMap):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, weight):
            return self.gain * weight[: self.kernels]

        kernels = None

    half = coc.convert(small_net().half(), ["coc", Gain])
    assert half[0].weight.dtype == torch.float16

    class Fewer(Gain):
        kernels = 1

    class Lost(Gain):
        kernels = "all"

    for cls, message in (
        (Fewer, r"0 \(Conv2d.*\): Fewer must give back .*got \(\(1, 3, 3, 3\)"),
        (Lost, "Lost fails on"),
    ):
        model = small_net()
        with pytest.raises(coc.SurgeryError, match=message):
            coc.convert(model, ["coc", cls])
        assert not any(coc.kernel_maps(module) for module in model.modules())


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
        (
            lambda: coc.convert(coc.convert(small_net())),
            coc.SurgeryError,
            r"already converted.*go back first: convofconv\.reparameterize\(model\) keeps what the network computes",
        ),
        (
            lambda: coc.convert(DataParallel(small_net())),
            coc.SurgeryError,
            "already wrapped in DataParallel; convert or fold what it wraps",
        ),
        (
            lambda: coc.reparameterize(DataParallel(small_net())),
            coc.SurgeryError,
            "already wrapped in DataParallel; convert or fold what it wraps",
        ),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_tied_convs_must_be_asked_for_alike():
    config = {"first": "poster", "second": coc.Config(grid_side=3)}
    with pytest.raises(coc.SurgeryError, match="second: its weight is tied to a conv with other maps or settings"):
        coc.convert(Tied(one_module=False), config=config)


def test_a_failing_map_is_not_taken_for_a_missing_weight():
    class Broken(coc.KernelMap):
        calls = 0

        def forward(self, weight):
            self.calls += 1
            return weight if self.calls < 3 else weight.no_such_thing

    model = coc.convert(nn.Sequential(nn.Conv2d(3, 8, 3)), Broken)
    for use in (lambda: model[0].weight, lambda: model(torch.randn(1, 3, 5, 5))):
        with pytest.raises(coc.SurgeryError, match=r"a kernel map of this conv failed: .*no_such_thing"):
            use()


@pytest.mark.parametrize("skip", [True, False])
def test_converting_computes_no_kernels(skip, monkeypatch):
    """The start is known to be the identity; on a large network computing it would take half a minute."""

    def refuse(*_):
        raise AssertionError("computed")

    for kernel_map in coc.METHODS.values():
        monkeypatch.setattr(kernel_map, "forward", refuse)
    monkeypatch.setattr(torch.linalg, "solve_ex", refuse)
    for method in (*coc.METHODS, "coc+doconv", "coc+norm"):
        coc.convert(small_net(), method, coc.Config(skip=skip))


def test_a_map_of_ones_own_may_ask_for_others_behind_it():
    class Own(coc.KernelMap):
        """Neither linear nor of the package."""

        @classmethod
        def companions(cls, config):
            return (coc.Standardization,)

        def forward(self, weight):
            return weight * weight.abs()

    model = coc.convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), [Own])
    assert [type(m) for m in coc.kernel_maps(model[0])] == [Own, coc.Standardization]
