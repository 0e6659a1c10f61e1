"""State dicts: plain ones, converted ones, and rebuilding a conversion from one."""

from __future__ import annotations

import pytest
import torch
from reference import randomize, relative
from small_nets import normed_net
from torch import nn

import convofconv as coc


@pytest.fixture
def x():
    return torch.randn(2, 3, 9, 9)


def test_a_plain_checkpoint_in_a_model_with_learnt_super_kernels_is_warned_about():
    model = coc.convert(normed_net())
    randomize(model)
    supers = [m.super_kernel.clone() for module in model.modules() for m in coc.kernel_maps(module)]
    with pytest.warns(coc.ConversionWarning, match="Load plain checkpoints before convert"):
        model.load_state_dict(normed_net().state_dict())
    after = [m.super_kernel for module in model.modules() for m in coc.kernel_maps(module)]
    assert all(torch.equal(a, b) for a, b in zip(supers, after, strict=True)), "super kernels keep what they had"


def test_a_plain_checkpoint_of_another_shape_is_torchs_error():
    other = nn.Conv2d(3, 16, 3)
    with pytest.raises(RuntimeError, match=r"size mismatch for parametrizations\.weight\.original"):
        coc.convert(nn.Conv2d(3, 8, 3)).load_state_dict(other.state_dict())


def test_convert_like_rebuilds_other_settings_layers_and_ties(x):
    trained = coc.convert(normed_net(), config={"0": coc.Config(grid_side=3, dilated=False), "*": "released"})
    randomize(trained)
    state = trained.state_dict()
    rebuilt = coc.convert_like(normed_net(), state)
    rebuilt.load_state_dict(state)
    assert torch.equal(rebuilt.eval()(x), trained.eval()(x))
    assert coc.kernel_maps(rebuilt[0])[0].config.grid_side == 3
    conv = coc.convert(nn.Conv2d(3, 8, 3))
    assert coc.kernel_maps(coc.convert_like(nn.Conv2d(3, 8, 3), conv.state_dict()))
    plain = coc.convert_like(normed_net(), normed_net().state_dict())
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
        self.base = normed_net()
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
    state = coc.convert(normed_net(), config=coc.Config(extra_width=0, dilated=True)).state_dict()
    other = coc.convert(normed_net(), config=coc.Config(extra_width=0, dilated=True, skip=False))
    with pytest.raises(
        RuntimeError, match=r"2\.0 was converted with other settings: skip=True in the checkpoint, False"
    ):
        other.load_state_dict(state)
    start = coc.convert(normed_net(), config=coc.Config(extra_width=0, init="kaiming"))
    start.load_state_dict(state)  # the start is history


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_checkpoint_may_be_cast_whole(dtype, x):
    """As scripts do that average checkpoints, or halve them for publication."""
    trained = coc.convert(normed_net(), "coc+stnd", coc.Config(grid_side=3, init="kaiming"))
    state = {name: value.to(dtype) for name, value in trained.state_dict().items()}
    rebuilt = coc.convert_like(normed_net(), state)
    rebuilt.load_state_dict(state)
    assert relative(rebuilt.eval()(x), trained.eval()(x)) < 0.1
    assert coc.kernel_maps(rebuilt[0])[0].config == coc.kernel_maps(trained[0])[0].config


def test_rebuilding_a_conversion_solves_nothing(x, monkeypatch, recwarn):
    """Of the start only the setting matters: the kernels are about to be loaded."""
    trained = coc.convert(normed_net(), config=coc.Config(init="solve"))

    def refuse(*_, **__):
        raise AssertionError("solved")

    monkeypatch.setattr(torch.linalg, "cond", refuse)
    monkeypatch.setattr(torch.linalg, "solve_ex", refuse)
    rebuilt = coc.convert_like(normed_net(), trained.state_dict())
    rebuilt.load_state_dict(trained.state_dict())
    assert torch.equal(rebuilt.eval()(x), trained.eval()(x))
    assert coc.kernel_maps(rebuilt[0])[0].config.init == "solve"
    assert not recwarn


class Forgotten(coc.KernelMap):
    def forward(self, weight):
        return weight


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: coc.convert_like(3, {}), coc.ArgumentTypeError, "takes an nn.Module, got int"),
        (lambda: coc.convert_like(normed_net(), 3), coc.ArgumentTypeError, "takes a state dict, got int"),
        (
            lambda: coc.convert_like(nn.Sequential(nn.Linear(2, 2)), coc.convert(normed_net()).state_dict()),
            coc.SurgeryError,
            "kernel maps for 0, 2.0, no convs of this Sequential",
        ),
        (
            lambda: coc.convert_like(
                normed_net(), {"0.parametrizations.weight.0._extra_state": torch.tensor([1], dtype=torch.uint8)}
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


@pytest.mark.parametrize("method", ["coc", "doconv", "norm"])
@pytest.mark.parametrize("on_meta", [True, False])
@pytest.mark.filterwarnings("ignore:plain kernels were loaded")  # into a norm of kernels
def test_what_a_checkpoint_lacks_follows_its_dtype(method, on_meta, x):
    """A plain checkpoint in half precision, assigned, makes a network in half precision, as of a plain network."""
    state = normed_net().bfloat16().state_dict()
    with torch.device("meta" if on_meta else "cpu"):
        model = coc.convert(normed_net(), method).eval()
    model.load_state_dict(state, assign=True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model(x.bfloat16()).dtype == torch.bfloat16
