"""Detectors of torchvision on a backbone of timm: RetinaNet for boxes, Mask R-CNN for boxes and masks."""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7
from torchvision.transforms.v2.functional import resize

from ...errors import ConfigError
from ..recipe.schema import DataRecipe, ModelRecipe
from .backbones import architecture, build_features

DetectorT = TypeVar("DetectorT", RetinaNet, MaskRCNN)

_RATIOS = (0.5, 1.0, 2.0)
_CANDIDATES = (
    1000  # boxes that a detector chooses from, of an image or of a level of its pyramid: torchvision's default
)
_ROI_SIDE = 7  # of the features that a box is pooled to, torchvision's default


class PyramidBackbone(nn.Module):
    """A feature pyramid over some feature maps of a backbone.

    Args:
        body: gives a list of feature maps and describes them like timm in ``feature_info``.
        levels: numbers of the maps, the largest first.
        channels: of the pyramid.
        extra: makes more, smaller levels.
        norm: of the pyramid's convs.

    Shape:
        - input: ``(batch, 3, height, width)``
        - output: levels by name, from "0" on, ``(batch, channels, height / stride, width / stride)``

    Source: Lin et al.: Feature Pyramid Networks for Object Detection, CVPR 2017
    """

    def __init__(
        self,
        body: nn.Module,
        levels: Sequence[int],
        channels: int,
        extra: ExtraFPNBlock,
        norm: Callable[[int], nn.Module] | None,
    ) -> None:
        super().__init__()
        self.body = body
        self.levels = list(levels)
        self.out_channels = channels
        inputs = [cast(Any, body).feature_info.channels()[level] for level in levels]
        self.fpn = FeaturePyramidNetwork(inputs, channels, extra, norm)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.body(images)
        levels: OrderedDict[str, Tensor] = self.fpn(
            OrderedDict((str(number), maps[level]) for number, level in enumerate(self.levels))
        )
        return levels


class AntialiasedResizing(GeneralizedRCNNTransform):  # type: ignore[misc]
    """torchvision's preparation of images and of answers, except for two things.

    What evaluation shrinks is smoothed as in training: torchvision's own leaves out pixels, so that a detector would
    meet noise that it has never learnt from. And masks are of bool, where the probability is above a half: those of a
    hundred objects in a camera's image would take ten GB as numbers.
    """

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        if self.training:
            resized: tuple[Tensor, dict[str, Tensor] | None] = super().resize(image, target)
            return resized
        sides = image.shape[-2:]
        scale = min(self.min_size[-1] / min(sides), self.max_size / max(sides))
        return resize(image, [max(1, int(side * scale)) for side in sides], antialias=True), target

    def postprocess(
        self,
        result: list[dict[str, Tensor]],
        image_shapes: list[tuple[int, int]],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        small = [] if self.training else [found.pop("masks") for found in result if "masks" in found]
        whole: list[dict[str, Tensor]] = super().postprocess(result, image_shapes, original_image_sizes)
        for found, masks, size in zip(whole, small, original_image_sizes, strict=False):  # boxes alone have none
            found["masks"] = masks.new_empty((len(masks), 1, *size), dtype=torch.bool)
            for one in range(len(masks)):
                here = slice(one, one + 1)
                found["masks"][here] = paste_masks_in_image(masks[here], found["boxes"][here], size) > 0.5
        return whole


class BeforeSelection(nn.Module):
    """Everything that a detector computes before it picks boxes: a rounding error can turn a choice, but not this.

    The heads of Mask R-CNN are given the whole image as their box.

    Args:
        detector: a network of :func:`build_detector`.

    Shape:
        - input: images, a list of ``(3, height, width)``
        - output: a list of tensors
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        detector: Any = self.detector
        batch, _ = detector.transform(images)
        maps = detector.backbone(batch.tensors)
        if isinstance(detector, RetinaNet):
            return list(cast(Any, detector).head(list(maps.values())).values())
        objectness, deltas = detector.rpn.head(list(maps.values()))
        boxes = [batch.tensors.new_tensor([[0.0, 0.0, width, height]]) for height, width in batch.image_sizes]
        heads = detector.roi_heads
        scores, corners = heads.box_predictor(heads.box_head(heads.box_roi_pool(maps, boxes, batch.image_sizes)))
        masks = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(maps, boxes, batch.image_sizes)))
        return [*objectness, *deltas, scores, corners, masks]


def takes_list(network: nn.Module) -> bool:
    """Whether a network is one of torchvision's detectors, which take a list of images with values from 0 to 1."""
    return hasattr(network, "roi_heads") or hasattr(network, "anchor_generator")


def before_selection(network: nn.Module) -> nn.Module:
    """:class:`BeforeSelection` of the detectors that it is made for; other networks as they are."""
    return BeforeSelection(network) if isinstance(network, RetinaNet | MaskRCNN) else network


def build_detector(recipe: ModelRecipe, data: DataRecipe, classes: int, masks: bool) -> RetinaNet | MaskRCNN:
    """Build the detector of a recipe, plain.

    RetinaNet has levels of strides 8 to 128, Mask R-CNN of 4 to 64; its heads are as wide in proportion to the pyramid
    as in the papers.

    Args:
        recipe: of the network.
        data: says how images are normalised, and to what size they are resized in evaluation.
        classes: number of classes, background included.
        masks: Mask R-CNN, with masks, in place of RetinaNet.

    Shape:
        - input: images, a list of ``(3, height, width)`` from 0 to 1; in training also their targets
        - output: losses by name in training, else a dictionary per image with boxes, labels, scores, and masks of
          ``(N, 1, height, width)``

    Raises:
        ConfigError: there is no such backbone, or it cannot be built as asked.

    Source:
        Lin et al.: Focal Loss for Dense Object Detection, ICCV 2017; He et al.: Mask R-CNN, ICCV 2017
    """
    norm = _NORMS[recipe.head_norm]
    channels = recipe.fpn_channels
    extra = LastLevelMaxPool() if masks else LastLevelP6P7(channels, channels)
    backbone = _pyramid(recipe, (4, 8, 16, 32) if masks else (8, 16, 32), extra, norm)
    # In training, images are resized with their objects by the loader.
    transform: dict[str, Any] = {
        "min_size": data.eval_resize,
        "max_size": data.longest or sys.maxsize,
        "image_mean": list(data.mean),
        "image_std": list(data.std),
        "_skip_resize": True,
    }
    sides = [recipe.smallest_anchor * 2**level for level in range(5)]
    most, kind = recipe.max_detections, "box_detections_per_img" if masks else "detections_per_img"
    chosen_from = ("rpn_pre_nms_top_n_test", "rpn_post_nms_top_n_test") if masks else ("topk_candidates",)
    limits = {kind: most, **dict.fromkeys(chosen_from, max(most, _CANDIDATES))} if most else {}
    if masks:
        detector = _mask_rcnn(backbone, sides, classes, norm, box_batch_size_per_image=recipe.rois, **limits)
        detector.transform = AntialiasedResizing(**transform)
        return _in_float32(detector, "backbone", "rpn.head", "roi_heads.box_predictor", "roi_heads.mask_predictor")
    anchors = AnchorGenerator(
        tuple(tuple(round(side * 2 ** (third / 3)) for third in range(3)) for side in sides), (_RATIOS,) * len(sides)
    )
    head = RetinaNetHead(channels, anchors.num_anchors_per_location()[0], classes, norm)
    retinanet = RetinaNet(backbone, classes, anchor_generator=anchors, head=head, **limits)
    retinanet.transform = AntialiasedResizing(**transform)
    return _in_float32(retinanet, "backbone", "head")


def _in_float32(detector: DetectorT, *parts: str) -> DetectorT:
    """Let these parts put out float32 under autocast too.

    torchvision takes anchors, proposals and ground truth in their outputs' dtype, and bfloat16 has multiples of 8 alone
    behind 1024 pixels; nor do scores near 0 or 1 and their losses survive it.
    """
    for part in parts:
        detector.get_submodule(part).register_forward_hook(_widen_outputs)
    return detector


def _widen_outputs(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    """A hook; a function of the module, so that networks can be copied and pickled."""
    return _widened(outputs)


def _widened(outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    if isinstance(outputs, dict):
        return type(outputs)((name, _widened(value)) for name, value in outputs.items())
    return type(outputs)(map(_widened, outputs))  # a list or a tuple


def _mask_rcnn(
    backbone: PyramidBackbone,
    sides: Sequence[int],
    classes: int,
    norm: Callable[[int], nn.Module] | None,
    **arguments: Any,
) -> MaskRCNN:
    channels = backbone.out_channels
    anchors = AnchorGenerator(tuple((side,) for side in sides), (_RATIOS,) * len(sides))
    return MaskRCNN(
        backbone,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(channels, anchors.num_anchors_per_location()[0]),
        box_head=TwoMLPHead(channels * _ROI_SIDE**2, 4 * channels),
        box_predictor=FastRCNNPredictor(4 * channels, classes),
        mask_head=MaskRCNNHeads(channels, (channels,) * 4, 1, norm),
        mask_predictor=MaskRCNNPredictor(channels, channels, classes),
        **arguments,
    )


def _group_norm(channels: int) -> nn.Module:
    """Of 32 groups for the papers' 256 channels, and of groups as large for fewer: the last maps have one pixel."""
    groups = max(1, channels // 8)
    return nn.GroupNorm(math.gcd(min(32, groups), channels), channels)


_NORMS: dict[str, Callable[[int], nn.Module] | None] = {
    "none": None,
    "batch": nn.BatchNorm2d,
    "group": _group_norm,
}


def _pyramid(
    recipe: ModelRecipe, strides: Sequence[int], extra: ExtraFPNBlock, norm: Callable[[int], nn.Module] | None
) -> PyramidBackbone:
    name = architecture(recipe.backbone)
    advice = f"Take a backbone of timm with feature maps of the strides {', '.join(map(str, strides))}, resnet50 say"
    body = build_features(recipe, advice)
    found = list(body.feature_info.reduction())
    if missing := [stride for stride in strides if stride not in found]:
        raise ConfigError(f"model.backbone: {name} has no map of stride {missing[0]}, only of {found}. {advice}")
    levels = [len(found) - 1 - found[::-1].index(stride) for stride in strides]  # the last one of a stride
    if name.startswith("timm/hrnet") and 4 not in strides:
        # Processes that share gradients wait for all that learn; what only makes the map of stride 4 never gets one.
        body.stage4[-1].fuse_layers[0].requires_grad_(False)
    return PyramidBackbone(body, levels, recipe.fpn_channels, extra, norm)
