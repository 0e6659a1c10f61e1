"""COCO's figures for detection and instance segmentation, computed by pycocotools, over all processes of a run.

Not by torchmetrics' MeanAveragePrecision: it hangs or loses masks where processes have different numbers of images,
and its float32 thresholds count an overlap of exactly 0.6, or a recall of 0.1, otherwise than COCO's evaluator.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torchmetrics import Metric

from ...errors import ConfigError
from ..data.objects import RunLengths, Target
from .base import Metrics

#: Figures by name, and the AP of every class.
_Part = tuple[dict[str, float], list[float]]
#: The first six of COCO's summary: over all overlaps, at two of them, and by the objects' areas.
FIGURES = ("AP", "AP50", "AP75", "APS", "APM", "APL")
#: The overlap of every figure, ``None`` for all, and the areas as pycocotools calls them.
_WHICH = ((None, "all"), (0.5, "all"), (0.75, "all"), (None, "small"), (None, "medium"), (None, "large"))
#: Detections of a class in an image that COCO counts.
_COCOS_LIMIT = 100


class DetectionMetrics(Metrics):
    """COCO's average precisions of boxes, and of masks where they are asked for (``mask_AP``, ...).

    A figure over no objects, APL where there are no large ones for example, is left out. Crowds are as in COCO:
    detections in them count neither as right nor as wrong. What is large is decided by an object's own area for truth,
    by that of the box for detected boxes, by that of the mask for detected masks. An image counts once however often
    it is given.

    Args:
        classes: number of classes, background included.
        masks: measure masks too.
        limit: detections of a class in an image that count, those with the highest scores; 0 for COCO's 100.

    Shape:
        a detection and a target per image, with the keys

        - boxes: ``(N, 4)``, left, top, right, bottom in the image's own pixels
        - bbox: ``(N, 4)``, in place of boxes where it is given: left, top, width, height, as a file has them
        - labels: ``(N,)``
        - masks: ``(N, H, W)`` or ``(N, 1, H, W)``, of bool or probabilities
        - scores: ``(N,)``, detections
        - image_id, area and iscrowd ``(N,)``: targets

    Source:
        https://cocodataset.org/#detection-eval; the area of masks as in detectron2's COCOEvaluator
    """

    def __init__(self, classes: int, masks: bool = False, limit: int = 0) -> None:
        super().__init__()
        self.main = "mask_AP" if masks else "AP"
        self.evaluation = _Evaluation(classes, masks, limit or _COCOS_LIMIT)

    def update(self, detections: Sequence[Mapping[str, Tensor]], targets: Sequence[Target]) -> None:
        """Count a batch."""
        self.evaluation.update(detections, targets)

    def compute(self) -> dict[str, float]:
        """Percentages over everything counted.

        Raises:
            ConfigError: there is no object to find in any image.
        """
        found, _ = self.evaluation.compute()
        return {name: value for figures, _ in found.values() for name, value in figures.items()}

    def by_class(self) -> dict[str, list[float]]:
        """AP, and mask_AP where masks are measured, of every class in per cent, NaN for those without objects."""
        found, _ = self.evaluation.compute()
        return {name: by_class for name, (_, by_class) in found.items()}

    def remark(self) -> str:
        """What to know about the figures: whether images have more objects than are counted; empty where none has."""
        _, most = self.evaluation.compute()
        limit = self.evaluation.limit
        more = sum(count > limit for count in most)
        if not more:
            return ""
        return (
            f"AP counts at most {limit} detections of a class in an image; {more} of {len(most)} images "
            f"{'has' if more == 1 else 'have'} more objects than that, up to {max(most)}. model.max_detections sets "
            "the number"
        )


@dataclasses.dataclass(frozen=True, eq=False)  # for torchmetrics hashes what it keeps
class _Counted:
    """The objects or detections of an image; ``numbers`` are areas of truth or scores of detections.

    Boxes are left, top, width and height.
    """

    boxes: NDArray[np.float64]
    labels: list[int]
    numbers: list[float]
    crowd: list[int]
    run_lengths: list[RunLengths] | None


class _Evaluation(Metric):
    """Keeps boxes and run lengths, no masks, and evaluates them all at once; torchmetrics says when to gather them."""

    full_state_update = False
    images: list[tuple[int, _Counted, _Counted]]

    def __init__(self, classes: int, masks: bool, limit: int) -> None:
        super().__init__()
        self.classes, self.masks, self.limit = classes, masks, limit
        self.add_state("images", default=[], dist_reduce_fx=None)

    def update(self, detections: Sequence[Mapping[str, Tensor]], targets: Sequence[Target]) -> None:
        for detection, target in zip(detections, targets, strict=True):
            truth = _counted(target, target["area"], target["iscrowd"], self.masks)
            found = _counted(detection, detection["scores"], torch.zeros_like(detection["labels"]), self.masks)
            self.images.append((int(target["image_id"]), truth, found))

    def compute(self) -> tuple[dict[str, _Part], list[int]]:
        """Figures of boxes and masks, and of every image how many objects of one class it has at most."""
        images = {number: (truth, found) for number, truth, found in self.images}
        if not any(0 in truth.crowd for truth, _ in images.values()):
            raise ConfigError(
                f"there is no AP, for the {len(images)} evaluated images have no objects but crowds at most; "
                "evaluate a split with objects"
            )
        kinds = {"": "bbox", "mask_": "segm"} if self.masks else {"": "bbox"}
        parts = {f"{prefix}AP": self._evaluate(images, prefix, kind) for prefix, kind in kinds.items()}
        return parts, [_most(truth) for truth, _ in images.values()]

    def _evaluate(self, images: Mapping[int, tuple[_Counted, _Counted]], prefix: str, kind: str) -> _Part:
        truth = self._coco({number: part for number, (part, _) in images.items()}, kind, "area")
        found = self._coco({number: part for number, (_, part) in images.items()}, kind, "score")
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCOeval(truth, found, kind)
            coco.params.maxDets = [self.limit]
            coco.evaluate()
            coco.accumulate()
        precision = coco.eval["precision"][..., 0]  # overlaps, recalls, classes, areas; -1 where there are no objects
        by_class = [-1, *precision[..., 0].mean((0, 1))]
        figures = {}
        # Its own summary is of 100 detections alone.
        for name, (overlap, area) in zip(FIGURES, _WHICH, strict=True):
            rows = slice(None) if overlap is None else coco.params.iouThrs == overlap
            values = precision[rows, :, :, coco.params.areaRngLbl.index(area)]
            if (there := values > -1).any():
                figures[f"{prefix}{name}"] = _percent(values[there].mean())
        return figures, [_percent(value) if value >= 0 else math.nan for value in by_class]

    def _coco(self, images: Mapping[int, _Counted], kind: str, key: str) -> Any:
        """pycocotools' own form of them."""
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": number, "height": 0, "width": 0} for number in images],  # sizes are asked for, not used
            "categories": [{"id": label} for label in range(1, self.classes)],
            # An id of 0 would mean "no match" to it.
            "annotations": [
                {**entry, "id": count} for count, entry in enumerate(_annotations(images, kind, key), start=1)
            ],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco

    def _apply(self, fn: Any, exclude_state: Sequence[str] = ()) -> nn.Module:
        return super()._apply(fn, ("images",))  # they are no tensors, and stay where they are

    def _sync_dist(self, dist_sync_fn: Any = None, process_group: Any = None) -> None:
        shares: list[Any] = [None] * torch.distributed.get_world_size(process_group)
        torch.distributed.all_gather_object(shares, self.images, process_group)
        self.images = [image for share in shares for image in share]


def _counted(values: Mapping[str, Any], numbers: Tensor, crowd: Tensor, masks: bool) -> _Counted:
    run_lengths = _encode(values["masks"]) if masks else None
    boxes = values.get("bbox", values["boxes"]).detach().cpu().double().numpy()
    if "bbox" not in values:
        boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    return _Counted(boxes, values["labels"].tolist(), numbers.tolist(), crowd.tolist(), run_lengths)


def _most(truth: _Counted) -> int:
    """How many objects of one class there are at most; crowds need not be found."""
    counts = Counter(label for label, crowd in zip(truth.labels, truth.crowd, strict=True) if not crowd)
    return max(counts.values(), default=0)


def _encode(masks: Tensor) -> list[RunLengths]:
    masks = masks.detach().flatten(0, 1) if masks.ndim == 4 else masks.detach()
    pixels = (masks > 0.5).to(torch.uint8).transpose(1, 2).contiguous().cpu().numpy()
    encoded: list[RunLengths] = coco_mask.encode(pixels.transpose(2, 1, 0))  # columns first, as it reads them
    return encoded


def _annotations(images: Mapping[int, _Counted], kind: str, key: str) -> Iterator[dict[str, Any]]:
    for number, part in images.items():
        for place, label in enumerate(part.labels):
            entry: dict[str, Any] = {"image_id": number, "category_id": label, "iscrowd": part.crowd[place]}
            entry["bbox"] = part.boxes[place].tolist()
            entry["area"] = float(part.boxes[place, 2:].prod())
            if kind == "segm":
                assert part.run_lengths is not None
                entry["segmentation"] = part.run_lengths[place]
                entry["area"] = float(coco_mask.area(part.run_lengths[place]))
            yield {**entry, key: part.numbers[place]}  # truth has an area of its own


def _percent(share: float) -> float:
    return round(100 * float(share), 6)
