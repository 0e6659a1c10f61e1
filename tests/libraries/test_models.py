"""Real networks from timm and torchvision: nothing changes at conversion, everything is folded exactly."""

from __future__ import annotations

import copy

import pytest
import torch
from reference import randomize, with_literal_kernels
from small_nets import ReusingNet
from torch import nn

import convofconv as coc

timm = pytest.importorskip("timm", reason="timm is not installed (extra [lab])")
torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed (extra [lab])")

create_feature_extractor = torchvision.models.feature_extraction.create_feature_extractor

NETWORKS = {
    "resnet18": lambda: timm.create_model("resnet18"),
    "resnet50": lambda: timm.create_model("resnet50"),
    "hrnet_w18": lambda: timm.create_model("hrnet_w18"),
    "mobilenetv3_small": lambda: timm.create_model("mobilenetv3_small_100"),
    "shufflenet_v2_x1": lambda: torchvision.models.shufflenet_v2_x1_0(),
}
all_networks = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())


@all_networks
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_conversion_changes_no_output_bit(make, memory_format):
    model = make().eval().to(memory_format=memory_format)
    randomize(model)
    x = torch.randn(2, 3, 64, 64).to(memory_format=memory_format)
    strides = {name: p.stride() for name, p in model.named_parameters() if p.dim() == 4}
    with torch.no_grad():
        expected = model(x)
        coc.convert(model)
        assert torch.equal(model(x), expected)
    converted = [name for name, module in model.named_modules() if coc.kernel_maps(module)]
    assert len(converted) > 10
    for name in converted:
        assert model.get_submodule(name).weight.stride() == strides[f"{name}.weight"], name


@all_networks
@pytest.mark.parametrize("config", ["poster", "released"])
def test_converted_and_folded_equal_the_literal_kernels(make, config):
    """Against the literal reference in float64, where nothing hides in rounding; then folding once more in float32."""
    model = make().eval().double()
    original = copy.deepcopy(model)
    coc.convert(model, config=config)
    randomize(model)
    x = torch.randn(2, 3, 64, 64).double()

    literal = with_literal_kernels(original, model)
    assert coc.verify(literal, model, x, tolerance=1e-10) <= 1e-10
    plain = coc.reparameterize(model)
    assert coc.verify(literal, plain, x, tolerance=1e-10) <= 1e-10
    assert coc.verify(model, plain, x, tolerance=1e-10) <= 1e-10, "the original still works after folding a copy"

    assert list(plain.state_dict()) == list(original.state_dict())
    assert [type(m) for m in plain.modules()] == [type(m) for m in original.modules()]
    original.load_state_dict(plain.state_dict(), strict=True)
    assert coc.verify(plain, original, x, tolerance=0) == 0

    model.float()
    assert coc.verify(model, coc.reparameterize(model, inplace=False), x.float()) <= 1e-5


@all_networks
def test_it_trains(make):
    """Two steps (timm starts some norms at zero) move every super kernel; every gradient is finite."""
    model = coc.convert(make())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    maps = [m for module in model.modules() for m in coc.kernel_maps(module)]
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.arange(4)).backward()
        optimizer.step()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(m.super_kernel.any() for m in maps)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "efficientnet_b0", "resnet18"])
def test_convs_of_timm_are_followed_by_their_norms_with_or_without_activation(name):
    """timm's BatchNormAct2d is a norm that holds an activation: every k ≠ 1 conv of these networks is standardized."""
    model = coc.convert(timm.create_model(name), "stnd")
    plain = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert plain
    assert all(coc.kernel_maps(model.get_submodule(n)) for n in plain)


EXTRACTORS = {
    "torchvision": lambda: create_feature_extractor(torchvision.models.resnet18(), {"layer2": "map"}),
    "timm": lambda: timm.create_model("resnet18", features_only=True, feature_cls="fx", out_indices=(1, 2)),
}


def maps_out(out):
    return list(out.values()) if isinstance(out, dict) else out


@pytest.mark.parametrize("make", EXTRACTORS.values(), ids=EXTRACTORS.keys())
@pytest.mark.parametrize("undo", [coc.reparameterize, coc.remove])
def test_a_copy_keeps_the_mode_of_every_module(make, undo):
    """The deep copy of torch.fx's graph modules is in train mode, whatever the original is in."""
    model = coc.convert(make()).eval()
    model.get_submodule(next(name for name, m in model.named_modules() if name.endswith("layer1.0.bn1"))).train()
    x = torch.randn(2, 3, 32, 32)
    copied = undo(model)
    modes = {name: module.training for name, module in model.named_modules() if "parametrizations" not in name}
    assert {name: module.training for name, module in copied.named_modules()} == modes
    model.eval(), copied.eval()
    assert all(map(torch.equal, maps_out(model(x)), maps_out(copied(x))))
    model.train(), copied.train()
    assert all(map(torch.equal, maps_out(model(x)), maps_out(copied(x))))


@pytest.mark.parametrize("training", [False, True])
def test_verifying_changes_no_mode(training):
    """torchvision's extractors have a graph for each mode, which train() and eval() exchange."""
    model = coc.convert(EXTRACTORS["torchvision"]()).train(training)
    assert coc.verify(model, coc.reparameterize(model), torch.randn(2, 3, 32, 32)) == 0
    assert model.training == training
    assert model.graph is (model.train_graph if training else model.eval_graph)


@pytest.mark.filterwarnings("error")
def test_fusing_as_repvit_does_reads_the_kernels_alone():
    """It copies them into new convs, so nothing is lost and there is nothing to warn of."""
    repvit = pytest.importorskip("timm.models.repvit", reason="this timm has no RepViT")
    block = repvit.ConvNorm(4, 8, 3, 1, 1).eval()
    randomize(block)
    x = torch.randn(2, 4, 9, 9)
    expected = block(x)
    coc.convert(block)
    assert coc.kernel_maps(block.c)
    assert torch.allclose(block.fuse()(x), expected, atol=1e-5)


def test_convs_of_other_classes_are_listed():
    model = nn.Sequential(
        timm.layers.CondConv2d(3, 8, 3, num_experts=4), torchvision.ops.DeformConv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
    )
    summary = coc.summary(coc.convert(model))
    assert [(conv.name, conv.kind) for conv in summary.skipped if conv.skipped_because == "not an nn.Conv layer"] == [
        ("0", "CondConv2d, weight 4×216"),
        ("1", "DeformConv2d, weight 8×8×3×3"),
    ]
    assert "1 of 3 convs converted (2 are not nn.Conv layers)" in str(summary)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto", "hiera_tiny_224"]
)
def test_scales_and_position_embeddings_are_no_convs(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert {conv.skipped_because for conv in coc.summary(model).convs} <= {"not converted", "1×1 kernel"}


def test_moving_averages_of_timm():
    model, x = coc.convert(ReusingNet()), torch.randn(4, 3, 8, 8)
    randomize(model)
    ema = timm.utils.ModelEmaV3(model, decay=0.5)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    ema.update(model)
    for averaged, p in zip(ema.module.parameters(), model.parameters(), strict=True):
        assert torch.allclose(averaged, p * 0.75, atol=1e-6)
    assert coc.verify(ema.module, coc.reparameterize(ema.module), x) <= 1e-5
