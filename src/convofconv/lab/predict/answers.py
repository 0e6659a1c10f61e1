"""What a network says about one picture, by task: as numbers, and as a drawing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype, to_image

from ...errors import ConfigError, listing
from ..data.transforms import evaluation_transform
from .canvas import palette, percent
from .class_chart import draw_chart
from .finished_run import FinishedRun
from .object_drawing import Found, draw_nothing, draw_objects
from .region_drawing import draw_regions


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is told about a picture.

    Args:
        drawing: the picture with the answer in it or beside it.
        printed: the answer in a line.
        told: entries for the list of pictures.
        mask: the class of every pixel, of segmentation.
        objects: of detection, in COCO's format of results but for the picture's id.
    """

    drawing: Image.Image
    printed: str
    told: dict[str, Any]
    mask: Image.Image | None = None
    objects: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def answer(run: FinishedRun, image: Image.Image, score: float, top: int) -> Answer:
    """Ask the network of a run about a picture.

    Args:
        run: of any task.
        image: the picture.
        score: the least of objects that are drawn and printed.
        top: how many of the likeliest classes are told.

    Raises:
        ConfigError: the network cannot take this picture, or puts out what is no number.
    """
    try:
        with torch.inference_mode():
            if run.recipe.task == "classification":
                return _classify(run, image, top)
            if run.recipe.task == "segmentation":
                return _segment(run, image)
            return _detect(run, image, score)
    except ConfigError:
        raise
    except (RuntimeError, MemoryError, AssertionError, ValueError) as error:
        # Too small for the network's pooling, too large for the memory, or not the one size that it takes.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"the network cannot take {image.width}×{image.height} pixels ({reason})") from error


def _classify(run: FinishedRun, image: Image.Image, top: int) -> Answer:
    shown = _at_training_size(run, image)
    shares = _logits(run, shown)[0].cpu().double().softmax(0)
    values, labels = shares.topk(min(top, len(run.classes)))
    guesses = [(run.classes[label], value) for label, value in zip(labels.tolist(), values.tolist(), strict=True)]
    told: dict[str, Any] = {"classes": [{"class": name, "probability": _short(value)} for name, value in guesses]}
    if shown is not image:
        told["resized_to"] = list(shown.size)
    return Answer(draw_chart(image, guesses), listing((f"{name} ({percent(p)})" for name, p in guesses), top), told)


def _at_training_size(run: FinishedRun, image: Image.Image) -> Image.Image:
    """Scaled down to about what the network has seen, where its recipe says nothing else: a photo is no digit."""
    data, shorter = run.recipe.data, min(image.size)
    if data.eval_resize or data.eval_crop or shorter <= 2 * min(data.crop):
        return image
    width, height = (max(1, round(side * min(data.crop) / shorter)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3)


def _segment(run: FinishedRun, image: Image.Image) -> Answer:
    logits = _logits(run, image)
    size = (image.height, image.width)
    if logits.shape[-2:] != size:
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    numbers = logits[0].argmax(0).byte().cpu().numpy()
    counts = np.bincount(numbers.ravel(), minlength=len(run.classes))
    order = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    shares = {label: counts[label] / numbers.size for label in order}
    background = run.classes[0] == "background"
    mask = Image.fromarray(numbers)
    mask.putpalette([part for colour in palette(background) for part in colour])
    told = {"shares": {run.classes[label]: _short(share) for label, share in shares.items()}}
    printed = listing(f"{run.classes[label]} ({percent(share)})" for label, share in shares.items())
    return Answer(draw_regions(image, mask, run.classes, shares, background), printed, told, mask)


def _detect(run: FinishedRun, image: Image.Image, least: float) -> Answer:
    _refuse_strips(run, image)
    (said,) = run.network([to_dtype(to_image(image), torch.float32, scale=True).to(run.device)])
    objects, shown = [], []
    for number, score in enumerate(said["scores"].tolist()):
        label = int(said["labels"][number])
        left, top, right, bottom = (round(value, 3) for value in said["boxes"][number].tolist())
        box = [left, top, round(right - left, 3), round(bottom - top, 3)]
        one = {"category_id": run.category(label), "bbox": box, "score": _short(score)}
        mask = None
        if "masks" in said:
            mask = (said["masks"][number, 0] > 0.5).cpu().numpy()
            encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
            one["segmentation"] = {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}
        objects.append(one)
        if score >= least:
            name = run.classes[label] if len(run.classes) > 2 else ""  # besides the background
            shown.append(Found(label, name, score, (left, top, right, bottom), mask))
    told = {"objects": len(objects)}
    boxes = f"{len(objects)} box{'' if len(objects) == 1 else 'es'}"
    if shown:
        counted = listing(_counted(run.classes[label], scores) for label, scores in _scores_by_label(shown).items())
        return Answer(draw_objects(image, shown), f"{counted}; {boxes} in all", told, objects=objects)
    nothing = f"nothing found above {least:g}"
    best = f"; {boxes} in all, the highest score is {float(said['scores'].max()):.2g}" if objects else ""
    return Answer(draw_nothing(image, nothing), nothing + best, told, objects=objects)


def _scores_by_label(found: Sequence[Found]) -> dict[int, list[float]]:
    scores: dict[int, list[float]] = {}
    for one in found:
        scores.setdefault(one.label, []).append(one.score)
    return scores


def _counted(name: str, scores: Sequence[float]) -> str:
    """Objects of a class, and how sure they are."""
    least = f" to {min(scores):.2f}" if len(scores) > 1 else ""
    return f"{len(scores)} {name} ({max(scores):.2f}{least})"


def _refuse_strips(run: FinishedRun, image: Image.Image) -> None:
    """One pixel high and resized by its shorter side, a picture would take all memory."""
    data = run.recipe.data
    growth = data.eval_resize / min(image.size) if data.eval_resize else 1.0
    if data.longest:
        growth = min(growth, data.longest / max(image.size))
    limit = Image.MAX_IMAGE_PIXELS or float("inf")
    if image.width * image.height * growth**2 > limit:
        raise ConfigError(
            f"{image.width}×{image.height} pixels are too many when the shorter side is {data.eval_resize} "
            "(data.eval_resize); cut the picture"
        )


def _logits(run: FinishedRun, image: Image.Image) -> Tensor:
    """Of the picture as it is prepared when the run is evaluated, a batch of one."""
    _refuse_strips(run, image)
    prepared, _ = evaluation_transform(run.recipe.data, run.recipe.task)(to_image(image), 0)
    logits: Tensor = run.network(prepared[None].to(run.device))
    if not logits.isfinite().all():
        raise ConfigError("the network puts out what is no number for this picture")
    return logits


def _short(value: float) -> float:
    """With six digits, which is what float32 is good for."""
    return float(f"{value:.6g}")
