"""Segmentation networks: shapes at any size, output strides, the head, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convofconv.errors import ConfigError

pytest.importorskip("timm", reason="timm is not installed (extra [lab])")
import timm

from convofconv.lab.models.fcn import FCN, build_fcn
from convofconv.lab.recipe.schema import ModelRecipe

TINY = {"channels": [8, 16, 24, 32]}
HRNET = ModelRecipe("hrnet_w18_small")
BACKBONES = {
    "resnet18": ModelRecipe("resnet18", options=TINY),
    "resnet26": ModelRecipe("resnet26", options=TINY),
    "resnetv2": ModelRecipe("resnetv2_18", options=TINY),
    "mobilenetv3": ModelRecipe("mobilenetv3_small_050"),
    "hrnet": HRNET,
    "ghostnet": ModelRecipe("ghostnet_050", output_stride=32),
}
SIZES = [(64, 64), (65, 47), (33, 70)]


@pytest.mark.parametrize("recipe", BACKBONES.values(), ids=BACKBONES.keys())
def test_logits_have_the_size_of_the_images(recipe):
    network = build_fcn(recipe, classes=4).eval()
    for size in SIZES:
        with torch.no_grad():
            assert network(torch.randn(2, 3, *size)).shape == (2, 4, *size)


@pytest.mark.parametrize("recipe", [BACKBONES["resnet18"], HRNET], ids=["resnet18", "hrnet"])
def test_the_backbone_learns(recipe):
    network = build_fcn(recipe, classes=4)
    F.cross_entropy(network(torch.randn(2, 3, 33, 40)), torch.randint(4, (2, 33, 40))).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    assert network.backbone.conv1.weight.grad.any()


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet26"])
def test_a_smaller_output_stride_computes_the_same_on_a_finer_grid(backbone, stride):
    """Dilation in place of strides: every 32 / stride-th position has what the undilated network has there."""
    torch.manual_seed(0)
    coarse = timm.create_model(backbone, features_only=True, **TINY).eval()
    fine = build_fcn(ModelRecipe(backbone, options=TINY, output_stride=stride), classes=4).eval().backbone
    fine.load_state_dict(coarse.state_dict())
    images = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        (found,) = fine(images)
        expected = coarse(images)[-1]
    assert found.shape[-2:] == (96 // stride, 128 // stride)
    step = 32 // stride
    torch.testing.assert_close(found[..., ::step, ::step], expected, rtol=1e-4, atol=1e-4)


def test_hrnets_branches_are_brought_to_the_largest_one_and_joined():
    network = build_fcn(HRNET, classes=4).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = network.backbone(images)
        assert [tuple(m.shape[-2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
        joined = torch.cat([F.interpolate(m, size=(16, 24), mode="bilinear", align_corners=False) for m in maps], 1)
        logits = F.interpolate(network.head(joined), size=(64, 96), mode="bilinear", align_corners=False)
        assert torch.equal(network(images), logits)


def test_odd_sizes_of_hrnet_see_zeros_beyond_the_border():
    network = build_fcn(HRNET, classes=4).eval()
    images = torch.randn(1, 3, 50, 70)
    framed = torch.zeros(1, 3, 64, 96)
    framed[..., :50, :70] = images
    with torch.no_grad():
        assert torch.equal(network(images), network(framed)[..., :50, :70])


@pytest.mark.parametrize(
    ("recipe", "head_channels", "inputs", "width", "kernel"),
    [
        (BACKBONES["resnet18"], 0, 32, 8, (3, 3)),
        (BACKBONES["resnet26"], 0, 128, 32, (3, 3)),
        (BACKBONES["resnet18"], 11, 32, 11, (3, 3)),
        (HRNET, 0, 240, 240, (1, 1)),
        (HRNET, 11, 240, 11, (1, 1)),
    ],
)
def test_the_head(recipe, head_channels, inputs, width, kernel):
    built = ModelRecipe(recipe.backbone, options=recipe.options, head_channels=head_channels, dropout=0.1)
    head = build_fcn(built, classes=4).head
    conv, norm, act, dropout, predict = head
    assert (conv.in_channels, conv.out_channels, conv.kernel_size, conv.bias) == (inputs, width, kernel, None)
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(act, nn.ReLU)
    assert dropout.p == 0.1
    assert (predict.in_channels, predict.out_channels, predict.kernel_size) == (width, 4, (1, 1))
    assert head(torch.randn(2, inputs, 5, 6)).shape == (2, 4, 5, 6)


def test_timms_weights_are_loaded_into_the_backbone(monkeypatch):
    fetched = timm.create_model("resnet18", **TINY).state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(fetched))
    network = build_fcn(ModelRecipe("resnet18", "timm", TINY), classes=5)
    for name, value in network.backbone.state_dict().items():
        assert torch.equal(value, fetched[name]), name


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (ModelRecipe("hrnet_w81"), r"timm has no model 'hrnet_w81'; did you mean .*hrnet_w18\b"),
        (ModelRecipe("torchvision/resnet18"), "model.backbone: torchvision/resnet18 gives no .* a ResNet"),
        (
            ModelRecipe("vgg11"),
            "timm/vgg11 cannot be built.*output_stride.*: AssertionError. .* a ResNet",
        ),
        (
            ModelRecipe("shvit_s1", output_stride=32),
            "maps of timm/shvit_s1 are 64 times smaller .* not 32 times. Take",
        ),
        (ModelRecipe("swin_tiny_patch4_window7_224", output_stride=32), "swin.* channels last.* a ResNet or an HRNet"),
        (ModelRecipe("resnet18", options={"out_indices": [1]}), "out_indices cannot be among them"),
    ],
)
def test_mistakes(recipe, message):
    with pytest.raises(ConfigError, match=message):
        build_fcn(recipe, classes=5)


def test_fcn_takes_any_backbone_that_describes_its_maps():
    backbone = timm.create_model("resnet18", features_only=True, out_indices=(1, 4), **TINY)
    assert FCN(backbone, classes=3).eval()(torch.randn(1, 3, 64, 64)).shape == (1, 3, 64, 64)
