"""A fully convolutional network for segmentation: a backbone of timm and a small head, as in mmsegmentation."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ConfigError
from ..recipe.schema import ModelRecipe
from .backbones import architecture, build_features

_ADVICE = (
    "Take a backbone of timm whose feature maps can have model.output_stride: a ResNet or an HRNet, for example; "
    "networks without a dilated form have 32"
)


class FCN(nn.Module):
    """Logits for every pixel, from one feature map or from several that are brought to the size of the largest.

    The head of one map is a 3×3 conv, that of several a 1×1 conv of their concatenation; either is followed by BN,
    ReLU, dropout and the prediction layer, a 1×1 conv.

    Args:
        backbone: gives a list of feature maps, the largest first, and describes them like timm in ``feature_info``.
        classes: number of classes.
        head_channels: channels of the head's first conv; 0 for a quarter of its input, or for as many as its input
            where there are several feature maps.
        dropout: share of channels dropped before the prediction layer.

    Shape:
        - input: ``(batch, 3, height, width)``, of any size
        - output: ``(batch, classes, height, width)``

    Source: Long, Shelhamer, Darrell: Fully Convolutional Networks, CVPR 2015; mmsegmentation's FCNHead with one conv.
    """

    def __init__(self, backbone: nn.Module, classes: int, head_channels: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        info = cast(Any, backbone).feature_info
        several = len(info.channels()) > 1
        inputs = sum(info.channels())
        width = head_channels or (inputs if several else max(1, inputs // 4))
        kernel = 1 if several else 3
        # Networks that fuse maps by doubling their size need sizes that halve without rest.
        self.multiple = max(info.reduction()) if several else 1
        self.backbone = backbone
        conv = nn.Conv2d(inputs, width, kernel, padding=kernel // 2, bias=False)
        predict = nn.Conv2d(width, classes, 1)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(predict.weight, std=0.01)
        nn.init.zeros_(cast(Tensor, predict.bias))
        self.head = nn.Sequential(
            OrderedDict(
                conv=conv,
                norm=nn.BatchNorm2d(width),
                act=nn.ReLU(inplace=True),
                dropout=nn.Dropout2d(dropout),
                predict=predict,
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % self.multiple, 0, -height % self.multiple))
        maps = self.backbone(images)
        same = [maps[0], *(_resize(others, maps[0].shape[-2:]) for others in maps[1:])]
        merged = torch.cat(same, 1) if len(same) > 1 else same[0]
        return _resize(self.head(merged), images.shape[-2:])[..., :height, :width]


def _resize(maps: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def build_fcn(recipe: ModelRecipe, classes: int) -> FCN:
    """Build the segmentation network of a recipe, plain.

    HRNets give their four branches; they have no dilated form, so ``output_stride`` does not concern them. Of other
    networks the last stage is taken, its strides replaced by dilation where the output stride asks for it.

    Raises:
        ConfigError: there is no such backbone, or it cannot be built as asked.
    """
    name = architecture(recipe.backbone)
    arguments: dict[str, Any] = {"out_indices": (-1,)}
    if name.startswith("timm/hrnet"):
        arguments["out_indices"] = (1, 2, 3, 4)
    elif recipe.output_stride != 32:  # what all have by default, also those that know no other
        arguments["output_stride"] = recipe.output_stride
    backbone = build_features(recipe, _ADVICE, **arguments)
    if (stride := min(backbone.feature_info.reduction())) > recipe.output_stride:
        raise ConfigError(
            f"model.output_stride: the maps of {name} are {stride} times smaller than the image, not "
            f"{recipe.output_stride} times. {_ADVICE}"
        )
    return FCN(backbone, classes, recipe.head_channels, recipe.dropout)
