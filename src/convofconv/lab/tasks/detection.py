"""Detection: a box and a class for every object in an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_dtype, to_image

from ...errors import ConfigError, listing
from ..data.build_data import DataSets, EvaluationData, object_evaluation, object_sets
from ..drawing.object_drawing import Found, draw_nothing, draw_objects
from ..metrics.coco_metrics import DetectionMetrics
from ..models.detector import BeforeSelection, build_detector
from . import Answer, Task, six_digits

if TYPE_CHECKING:
    from ..metrics.base import Metrics
    from ..predict.finished_run import FinishedRun
    from ..recipe.schema import DataRecipe, Recipe


class Detection(Task):
    """RetinaNet, which takes images of different sizes and lists objects, its own losses, and COCO's AP."""

    target = "boxes"
    keys: tuple[str, ...] = (
        *("data.shorter", "data.longest", "model.fpn_channels", "model.smallest_anchor", "model.head_norm"),
        *("model.rois", "model.max_detections"),
    )
    backbone = "backbone.body."
    #: A detector that has learned nonsense fails by itself in the next step, and would not say why.
    losses_at_once = True
    #: They are in float64, which not all devices have.
    targets_stay = True
    lists_objects = True
    #: Whether objects have masks.
    masks = False

    def check(self, recipe: Recipe) -> None:
        if not recipe.data.eval_resize:
            raise ConfigError("data.eval_resize is missing: the shorter side of images when a detector evaluates")

    def build_data(self, recipe: DataRecipe, seed: int) -> DataSets:
        return object_sets(recipe, self.target, seed)

    def build_evaluation(self, recipe: DataRecipe, split: str) -> EvaluationData:
        return object_evaluation(recipe, self.target, split)

    def build_network(self, recipe: Recipe, classes: int) -> nn.Module:
        detector: nn.Module = build_detector(recipe.model, recipe.data, classes, self.masks)
        return detector

    def compile(self, network: nn.Module) -> None:
        # What a detector does behind its backbone depends on how many boxes there are, and would be compiled anew.
        network.get_submodule("backbone").compile()

    def loss(self, network: nn.Module, images: Any, target: Any, recipe: Recipe) -> Tensor:
        losses: dict[str, Tensor] = network(images, target)
        return torch.stack(list(losses.values())).sum()

    def build_metrics(self, recipe: Recipe, classes: Sequence[str]) -> Metrics:
        return DetectionMetrics(len(classes), self.masks, recipe.model.max_detections)

    def batch(self, images: Sequence[Tensor]) -> list[Tensor]:
        return list(images)

    def noise(self, normal: Tensor) -> list[Tensor]:
        return list(normal.sigmoid())  # a detector normalizes by itself

    def compared(self, network: nn.Module) -> BeforeSelection:
        return BeforeSelection(network)

    def answer(self, run: FinishedRun, image: Image.Image, score: float, top: int) -> Answer:
        run.refuse_strips(image)
        (said,) = run.network([to_dtype(to_image(image), torch.float32, scale=True).to(run.device)])
        objects, shown = [], []
        for number, sure in enumerate(said["scores"].tolist()):
            label = int(said["labels"][number])
            left, upper, right, lower = (round(value, 3) for value in said["boxes"][number].tolist())
            box = [left, upper, round(right - left, 3), round(lower - upper, 3)]
            one = {"category_id": run.category(label), "bbox": box, "score": six_digits(sure)}
            mask = None
            if "masks" in said:
                mask = (said["masks"][number, 0] > 0.5).cpu().numpy()
                encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
                one["segmentation"] = {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}
            objects.append(one)
            if sure >= score:
                name = run.classes[label] if len(run.classes) > 2 else ""  # besides the background
                shown.append(Found(label, name, sure, (left, upper, right, lower), mask))
        entries = {"objects": len(objects)}
        boxes = f"{len(objects)} box{'' if len(objects) == 1 else 'es'}"
        if shown:
            counted = listing(_counted(run.classes[label], scores) for label, scores in _scores_by_label(shown).items())
            return Answer(draw_objects(image, shown), f"{counted}; {boxes} in all", entries, objects=objects)
        nothing = f"nothing found above {score:g}"
        best = f"; {boxes} in all, the highest score is {float(said['scores'].max()):.2g}" if objects else ""
        return Answer(draw_nothing(image, nothing), nothing + best, entries, objects=objects)


def _scores_by_label(found: Sequence[Found]) -> dict[int, list[float]]:
    scores: dict[int, list[float]] = {}
    for one in found:
        scores.setdefault(one.label, []).append(one.score)
    return scores


def _counted(name: str, scores: Sequence[float]) -> str:
    """Objects of a class, and how sure they are."""
    least = f" to {min(scores):.2f}" if len(scores) > 1 else ""
    return f"{len(scores)} {name} ({max(scores):.2f}{least})"


TASK = Detection()
