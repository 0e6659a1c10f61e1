"""What ``coc predict`` does: images in, drawings and numbers out."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ...errors import ConfigError, listing
from ..data.decoding import open_image
from ..files.atomic import writable_folder, write_atomic
from ..found_by_name import find_task
from ..progress import print_line, progress_bar
from ..tasks import Answer, Task
from .finished_run import FinishedRun, load_run
from .image_files import image_paths, output_names

#: Answers as numbers: of all images, and of detection as results in COCO's format.
_NUMBERS = ("predictions.json", "detections.json")


def run_predict(
    run: Path, images: Sequence[str], out: Path | None, score: float = 0.5, top: int = 5, device: str = "auto"
) -> None:
    """Ask the folded network of a finished run about images, print and draw its answers and write them down.

    Args:
        run: folder of the run.
        images: files, folders and patterns.
        out: folder for the results; ``predictions`` in the run's if not given.
        score: the least of detected objects that are drawn and printed.
        top: how many of the likeliest classes are printed and written.
        device: auto, cpu or cuda.

    Raises:
        ConfigError: there is no finished run, something given leads to no image, or a result would take the place of
            an image; also, when all the others are done, if there were images that cannot be read.
    """
    if not 0 <= score <= 1:
        raise ConfigError(f"--score must be from 0 to 1, got {score}")
    if top < 1:
        raise ConfigError(f"--top must be at least 1, got {top}")
    out = out or run / "predictions"
    paths = image_paths(images, out)
    names = output_names(paths)
    _refuse_overwriting(paths, names, out)
    finished = load_run(run, device=_device(device))
    task = find_task(finished.recipe.task)
    writable_folder(out)
    reported: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for number_file in _NUMBERS[: 1 + task.lists_objects]:
        (out / number_file).unlink(missing_ok=True)  # an earlier call's would not belong to these drawings
    try:
        with progress_bar(len(paths), "images") as bar:
            for number, (path, name) in enumerate(zip(paths, names, strict=True), start=1):
                own = {"id": number, "file_name": path.as_posix()}
                try:
                    image = open_image(path, upright=True)
                    said = _ask(task, finished, image, score, top)
                except ConfigError as error:
                    failed[path.as_posix()] = str(error).removeprefix(f"{path}: ")
                    bar.write(f"coc: left out {path}: {failed[path.as_posix()]}", file=sys.stderr)
                else:
                    files = _write_images(said, out, name)
                    reported.append({**own, "width": image.width, "height": image.height, **files, **said.entries})
                    objects += [{"image_id": number, **one} for one in said.objects]
                    print_line(f"{path}: {said.printed}")
                bar.update()
    finally:  # after Ctrl-C too
        _write_numbers(finished, run, reported, objects, failed, out)
    if failed:
        others = f"; the others are in {out}" if len(failed) < len(paths) else ""
        raise ConfigError(f"{len(failed)} of {len(paths)} images failed: {listing(failed)}{others}")
    print(f"{len(paths)} image{'s' if len(paths) > 1 else ''}: {out / _NUMBERS[0]}")


def _ask(task: Task, run: FinishedRun, image: Image.Image, score: float, top: int) -> Answer:
    try:
        with torch.inference_mode():
            return task.answer(run, image, score, top)
    except ConfigError:
        raise
    except (RuntimeError, MemoryError, AssertionError, ValueError) as error:
        # Too small for the network's pooling, too large for the memory, or not the one size that it takes.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"the network cannot take {image.width}×{image.height} pixels ({reason})") from error


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no GPU here; leave it out or take cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _refuse_overwriting(images: Sequence[Path], names: Sequence[str], out: Path) -> None:
    """Of what lies beside the images, replace only what an earlier call has written."""
    folders = {os.path.realpath(path.parent) for path in images}
    ours = _written_before(out)
    given = {os.path.realpath(path) for path in images}
    for name in names:
        for target in (out / f"{name}.png", out / f"{name}.mask.png"):
            beside = os.path.realpath(target.parent) in folders and os.path.lexists(target)
            if os.path.realpath(target) in given or (beside and target not in ours):
                raise ConfigError(f"--out: a result would take the place of the image {target}; choose another folder")


def _written_before(out: Path) -> set[Path]:
    """Drawings and masks that the last call has written to a folder, none if that is unknown."""
    try:
        images = json.loads((out / _NUMBERS[0]).read_text(encoding="utf-8"))["images"]
        return {out / image[key] for image in images for key in ("drawing", "mask") if key in image}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _write_images(said: Answer, out: Path, name: str) -> dict[str, str]:
    """The drawing, and the mask if there is one; gives their names."""
    files = {"drawing": f"{name}.png"}
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out / files["drawing"], _png(said.drawing))
    if said.mask is not None:
        files["mask"] = f"{name}.mask.png"
        write_atomic(out / files["mask"], _png(said.mask))
    return files


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _write_numbers(
    finished: FinishedRun,
    run: Path,
    reported: list[dict[str, Any]],
    objects: list[dict[str, Any]],
    failed: dict[str, str],
    out: Path,
) -> None:
    """All answers; of detection as a COCO file of the images, and a file of results that belongs to it."""
    recipe = finished.recipe
    numbers: dict[str, Any] = {"run": run.as_posix(), "task": recipe.task, "classes": list(finished.classes)}
    if find_task(recipe.task).lists_objects:
        names = list(enumerate(finished.classes))[1:]
        numbers["categories"] = [{"id": finished.category(label), "name": name} for label, name in names]
        lines = ",\n".join(f"  {json.dumps(one)}" for one in objects)
        write_atomic(out / _NUMBERS[1], f"[\n{lines}\n]\n".encode())
    numbers |= {
        "images": reported,
        "failed": [{"file_name": name, "reason": reason} for name, reason in failed.items()],
    }
    write_atomic(out / _NUMBERS[0], (json.dumps(numbers, indent=2) + "\n").encode())
