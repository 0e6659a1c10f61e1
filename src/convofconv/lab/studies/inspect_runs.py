"""``coc study inspect``: the networks of finished runs are looked into, and every one leaves one more record."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...errors import ConfigError, listing
from ..data.build_data import image_evaluation, object_evaluation
from ..files.run_folder import RunFolder
from ..found_by_name import find_task
from ..inspect.run_numbers import What, run_numbers
from ..predict.finished_run import load_run
from ..progress import print_line, progress_bar
from ..recipe.schema import Recipe
from .execution import records_of
from .plan import Job, plan
from .records import inspections, runs
from .study import Study


def inspect_study(study: Study, results: Path, runs_folder: Path, data: Path, threads: int = 0) -> None:
    """Look into every finished run of a study that has not been looked into yet.

    Killed at any moment, it goes on where it was when it is started again.

    Args:
        study: whose networks say under ``inspect`` what is looked into.
        results: folder of the records.
        runs_folder: where runs have their folders.
        data: folder of the data sets.
        threads: CPU threads; 0 leaves torch's choice.

    Raises:
        ConfigError: the study asks for nothing, there is no such layer, or no finished run has its network any more.
    """
    wanted = {label: _what(study, label) for label in study.networks if "inspect" in study.networks[label]}
    if not wanted:
        raise ConfigError(f"{study.name}, {study.budget}: no network says under inspect what is looked into")
    if threads:
        torch.set_num_threads(threads)
    records = records_of(study, results)
    with records.locked():
        read = records.read()
        done = {name for name, record in runs(read).items() if record["status"] == "done"} - set(inspections(read))
        jobs = [job for job in plan(study, read) if job.name in done and job.network in wanted]
        lost = [job.name for job in jobs if not RunFolder(job.folder(runs_folder)).results.is_file()]
        if jobs and len(lost) == len(jobs):
            raise ConfigError(
                f"{runs_folder}: the networks of {listing(lost)} are not there; --runs says where, and without their "
                "folders they must be trained again, with other --results"
            )
        with progress_bar(len(jobs), f"{study.name}, networks") as bar:
            for job in jobs:
                if job.name not in lost:
                    numbers = _inspect(job, wanted[job.network], runs_folder, data)
                    record = {"kind": "inspection", "run": job.name, "convofconv": __version__, "numbers": numbers}
                    records.append(record)
                    print_line(f"{job.name}: {_line(numbers)}")
                bar.update()
    missing = f"; the networks of {listing(lost)} are not there" if lost else ""
    print(f"{len(jobs) - len(lost)} networks were looked into{missing}: {records.path}")


def _what(study: Study, label: str) -> What:
    given = study.networks[label]["inspect"]
    known = [field.name for field in dataclasses.fields(What)]
    if not isinstance(given, Mapping) or set(given) - set(known):
        raise ConfigError(f"{study.name}: {label}.inspect takes {', '.join(known)}; got {given!r}")
    return What(**{"layer": "", **given})


def _inspect(job: Job, what: What, runs_folder: Path, data: Path) -> dict[str, float | None]:
    run = load_run(job.folder(runs_folder), folded=False)
    items = _annotated(job.build_recipe(runs_folder, data), what) if what.object_size else iter(())
    numbers = run_numbers(run.network, what, items)
    return {name: None if value is None else round(value, 5) for name, value in numbers.items()}


def _annotated(recipe: Recipe, what: What) -> Iterator[tuple[Any, Any]]:
    """Images of the test split, or where there is none of the validation split, with the masks of what is in them."""
    data = dataclasses.replace(recipe.data, limit=what.images)
    split = data.test_split or data.val_split
    if find_task(recipe.task).target == "mask":
        images = image_evaluation(data, "mask", split).images
    else:  # boxes alone would not do
        images = object_evaluation(data, "objects", split).images
    return (images[number] for number in range(len(images)))


def _line(numbers: Mapping[str, float | None]) -> str:
    shown = ("similarity", "support_overlap", "energy", "field", "large_objects")
    return ", ".join(f"{name} {numbers[name]:.2f}" for name in shown if numbers.get(name) is not None)
