"""The networks whose training steps are measured, with random input of the sizes that the targets name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import timm
import torch
import torchvision
from torch import Tensor, nn

detection, segmentation = torchvision.models.detection, torchvision.models.segmentation
_EMPTY = {"weights": None, "weights_backbone": None}


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, what it is fed with, and its loss.

    ``target`` is the largest ratio of a converted step to a plain one that the project set itself, on two CPU cores.
    """

    name: str
    build: Callable[[], nn.Module]
    batch: int
    pixels: int
    target: float
    task: str = "classification"

    def __str__(self) -> str:
        return f"{self.name}, {self.pixels} px, batch {self.batch}"

    def loss(self, device: torch.device, layout: torch.memory_format, batch: int) -> Callable[[nn.Module], Tensor]:
        """The loss of a model on one fixed random batch."""
        images = torch.randn(batch, 3, self.pixels, self.pixels, device=device).to(memory_format=layout)
        if self.task == "classification":
            labels = torch.randint(1000, (batch,), device=device)
            return lambda model: nn.functional.cross_entropy(model(images), labels)
        if self.task == "segmentation":
            masks = torch.randint(21, (batch, self.pixels, self.pixels), device=device)
            return lambda model: nn.functional.cross_entropy(model(images)["out"], masks)
        # As many objects as a COCO image has on average.
        corner = torch.rand(batch, 7, 2, device=device) * self.pixels / 2
        boxes = torch.cat([corner, corner + 8 + torch.rand_like(corner) * self.pixels / 3], -1)
        targets = [
            {
                "boxes": boxes[i],
                "labels": torch.randint(1, 91, (7,), device=device),
                "masks": torch.ones(7, self.pixels, self.pixels, dtype=torch.uint8, device=device),
            }
            for i in range(batch)
        ]
        inputs = list(torch.rand(batch, 3, self.pixels, self.pixels, device=device))

        def detection_loss(model: nn.Module) -> Tensor:
            torch.manual_seed(0)  # the same proposals are sampled for every contender
            losses: list[Tensor] = list(model(inputs, targets).values())
            return torch.stack(losses).sum()

        return detection_loss


def _detector(build: Callable[..., nn.Module], pixels: int) -> nn.Module:
    return build(**_EMPTY, trainable_backbone_layers=5, min_size=pixels, max_size=pixels)


NETWORKS = (
    Network("ResNet-50", lambda: timm.create_model("resnet50"), 8, 224, 1.03),
    Network("ResNet-18", lambda: timm.create_model("resnet18"), 64, 64, 1.08),
    Network("HRNet-w18", lambda: timm.create_model("hrnet_w18"), 4, 224, 1.03),
    Network(
        "FCN-r50-d8", lambda: segmentation.fcn_resnet50(**_EMPTY, num_classes=21), 2, 256, 1.05, task="segmentation"
    ),
    Network(
        "RetinaNet-r50",
        lambda: _detector(detection.retinanet_resnet50_fpn, 320),
        2,
        320,
        1.04,
        task="detection",
    ),
    Network(
        "Mask R-CNN r50",
        lambda: _detector(detection.maskrcnn_resnet50_fpn, 320),
        2,
        320,
        1.04,
        task="detection",
    ),
    Network("MobileNetV3-small", lambda: timm.create_model("mobilenetv3_small_100"), 32, 224, 1.03),
    Network("ShuffleNetV2-1x", torchvision.models.shufflenet_v2_x1_0, 32, 224, 1.03),
)
