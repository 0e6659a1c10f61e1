"""One training run, from a recipe to a folded network: what ``coc fit``, ``validate`` and ``test`` do.

:func:`run_fit` is the story of a run, read from top to bottom.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path

from ...errors import ConfigError
from ..files.run_folder import RunFolder, read_values
from ..found_by_name import find_task
from ..recipe.schema import Recipe
from .association_watch import AssociationWatch
from .begin import OF_EVALUATION, begin_run, check_folder, check_same_recipe
from .finish import finish
from .launch import (
    CheckShared,
    build_trainer,
    interruptible,
    launched,
    launched_machine,
    leads,
    leave_processes,
    quiet,
)
from .module import Training, check_same_classes
from .prepare import prepare, prepare_evaluation
from .profile import profile
from .run_checkpoints import KeepLastAndBest
from .run_data import SplitData
from .run_progress import History, Lines, place
from .schedule import check_schedule


def run_fit(recipe: Recipe, out: Path, resume: bool) -> None:
    """Train, keep the best epoch, fold it, check it and write everything down.

    Args:
        recipe: what decides the result.
        out: folder of the run.
        resume: resume the run in ``out``, if there is one.

    Raises:
        ConfigError: the recipe does not fit the data, or ``out`` cannot be used.
    """
    folder, first = RunFolder(out), leads(recipe.machine)
    with folder.at_work(timeout=0) if first else contextlib.nullcontext():
        here = launched(recipe)
        if first:
            check_folder(folder, recipe, resume)
        resumed = resume and folder.last.exists()
        training, data = prepare(here, resumed)
        data.check_training(here.machine.devices * here.machine.nodes)
        if not resumed:
            check_schedule(here.training, data.steps_per_epoch)
        # The watch before the checkpoints, which keep what it has warned of.
        written = [CheckShared(folder), History(folder), AssociationWatch(folder)]
        written.append(KeepLastAndBest(folder, here.training.checkpoint_steps))
        with quiet():
            # The lines come behind what writes: an epoch that is reported is kept.
            trainer = build_trainer(here, folder, [*written, Lines(folder, data)])
            if first:
                begin_run(folder, recipe)  # as it was given: another launcher, or none, may resume it
            with interruptible(trainer, f"; coc fit {folder.path} --resume goes on from its last checkpoint"):
                trainer.fit(training, data, ckpt_path=folder.last if resumed else None, weights_only=True)
                finish(trainer, training, data, folder)
        leave_processes()


def run_profile(recipe: Recipe) -> None:
    """Measure the loader and the network for some batches, and train nothing.

    Raises:
        ConfigError: the recipe does not fit the data.
    """
    if leads(recipe.machine):  # all would measure on the first GPU
        print(profile(*prepare(launched(recipe))))


def run_evaluation(recipe: Recipe, out: Path, split: str) -> None:
    """Evaluate the folded network of a finished run.

    Args:
        recipe: the recipe of the run.
        out: folder of the run.
        split: ``val`` or ``test``.

    Raises:
        ConfigError: there is no finished run of this recipe.
    """
    folder = RunFolder(out)
    if not folder.model.exists():
        raise ConfigError(f"{out} holds no finished run of this recipe; train it first: coc fit ... --out {out}")
    check_same_recipe(folder, recipe, OF_EVALUATION)
    recipe = _to_evaluate(recipe)
    name = recipe.data.val_split if split == "val" else recipe.data.test_split or recipe.data.val_split
    task = find_task(recipe.task)
    data = task.build_evaluation(recipe.data, name)
    if folder.results.exists():
        check_same_classes(read_values(folder.results, "classes")["classes"], data.classes)
    training = prepare_evaluation(recipe, data, folder)
    with quiet():
        trainer = build_trainer(recipe)
        if trainer.is_global_zero:  # beside the figures, which others may read from the output
            what = f"{len(data.images):,} images of {recipe.data.name}, split {name}; {len(data.classes)} classes"
            print(f"{out}: {what}; {place(trainer, recipe)}", file=sys.stderr, flush=True)
        with interruptible(trainer):
            (values,) = trainer.test(training, datamodule=SplitData(recipe, data), verbose=False)
    if trainer.is_global_zero:
        for name, value in values.items():
            print(f"{name.replace('test/', split + ' ')}: {value:.2f}")
        for line in _of_classes(training, split):
            print(line)
        if training.remark:
            print(training.remark)
    leave_processes()


def _to_evaluate(recipe: Recipe) -> Recipe:
    """What evaluates a folded network: it is plain, an average if there was one, and needs no other machine."""
    model = dataclasses.replace(recipe.model, weights="", freeze_norm=False)
    machine = launched_machine(dataclasses.replace(recipe.machine, nodes=1))
    # The training batch, of which a recipe has a multiple of the processes, says nothing here.
    batch = machine.devices * machine.nodes
    training = dataclasses.replace(recipe.training, ema=0.0, batch=batch, accumulate=1, precision="32-true")
    return dataclasses.replace(recipe, method="plain", model=model, machine=machine, training=training)


def _of_classes(training: Training, split: str) -> Iterator[str]:
    """A line for every metric and class that occurs, where the task prints them."""
    for name, of_classes in training.by_class.items() if find_task(training.recipe.task).prints_classes else ():
        for label, value in zip(training.classes, of_classes, strict=True):
            if not math.isnan(value):
                yield f"{split} {name} of {label}: {value:.2f}"
