"""One training run, from a recipe to a folded network: what ``coc fit``, ``validate`` and ``test`` do."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from ...errors import ConfigError
from ..files.run_folder import RunFolder, read_values
from ..files.state_dicts import load_weights, read_state_dict
from ..found_by_name import find_task
from ..models.network import build_network
from ..progress import watched
from ..recipe.schema import MachineRecipe, Recipe
from .begin import OF_EVALUATION, begin_run, check_folder, check_same_recipe
from .finish import finish, write_history
from .module import Training, check_same_classes
from .profile import profile
from .run_checkpoints import AtomicCheckpoints, KeepLastAndBest
from .run_data import RunData, SplitData
from .run_progress import Bar, Lines, place
from .schedule import check_schedule


def run_fit(recipe: Recipe, out: Path, resume: bool, profile_only: bool = False) -> None:
    """Train, keep the best epoch, fold it, check it and write everything down.

    Args:
        recipe: what decides the result.
        out: folder of the run.
        resume: go on with the run in ``out``, if there is one.
        profile_only: measure the loader and the network for some batches, and train nothing.

    Raises:
        ConfigError: the recipe does not fit the data, or ``out`` cannot be used.
    """
    folder = RunFolder(out)
    leads = _leads(recipe.machine)
    if profile_only:
        if leads:  # all would measure on the first GPU
            print(profile(*_prepared(dataclasses.replace(recipe, machine=_launched(recipe.machine)))))
        return
    with folder.at_work(timeout=0) if leads else contextlib.nullcontext():
        _fit(recipe, folder, resume)


def _prepared(recipe: Recipe, begun: bool = False) -> tuple[Training, RunData]:
    task = find_task(recipe.task)
    sets = task.build_data(recipe.data, recipe.training.seed)
    sizes, size = task.evaluation_sizes(recipe.data, sets.val), task.training_size(recipe.data)
    return _training(recipe, sets.classes, sizes, size, begun), RunData(recipe, sets)


def _fit(recipe: Recipe, folder: RunFolder, resume: bool) -> None:
    launched = dataclasses.replace(recipe, machine=_launched(recipe.machine))
    if leads := _leads(recipe.machine):
        check_folder(folder, recipe, resume)
    go_on = resume and folder.last.exists()
    training, data = _prepared(launched, begun=go_on)
    with _quiet():
        trainer = _trainer(launched, folder, data)
        data.check(trainer.world_size)
        data.loader_of(0, trainer.world_size)
        if not go_on:
            check_schedule(recipe.training, data.steps_per_epoch)
        if leads:
            begin_run(folder, recipe)  # as it was given: another launcher, or none, may go on with it
        with _interruptible(trainer, f"; coc fit {folder.path} --resume goes on from its last checkpoint"):
            trainer.fit(training, data, ckpt_path=folder.last if go_on else None, weights_only=True)
            finish(trainer, training, data, folder)
    _part()


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
    training = _training(recipe, data.classes, task.evaluation_sizes(recipe.data, data.pictures))
    state_dict = read_state_dict(folder.model, training.network.state_dict().keys())
    load_weights(training.network, state_dict, f"{folder.model}: not the network of {folder.recipe.name}")
    with _quiet():
        trainer = _trainer(recipe)
        if trainer.is_global_zero:  # beside the figures, which others may read from the output
            what = f"{len(data.pictures):,} images of {recipe.data.name}, split {name}; {len(data.classes)} classes"
            print(f"{out}: {what}; {place(trainer, recipe)}", file=sys.stderr, flush=True)
        with _interruptible(trainer):
            (values,) = trainer.test(training, datamodule=SplitData(recipe, data), verbose=False)
    if trainer.is_global_zero:
        for name, value in values.items():
            print(f"{name.replace('test/', split + ' ')}: {value:.2f}")
        for name, of_classes in training.by_class.items() if task.prints_classes else ():
            for label, value in zip(data.classes, of_classes, strict=True):
                if not math.isnan(value):  # of classes that occur
                    print(f"{split} {name} of {label}: {value:.2f}")
        if training.remark:
            print(training.remark)
    _part()


def _part() -> None:
    """Leave the other processes while Python still runs.

    Lightning does so with NCCL alone; a thread of gloo that lets go of its last tensor while Python ends aborts the
    process (pytorch/pytorch#179291). After a failure nothing is waited for: others may be in the middle of a sum.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _training(
    recipe: Recipe,
    classes: Sequence[str],
    evaluated: Iterable[tuple[int, int]],
    crop: tuple[int, int] | None = None,
    begun: bool = False,
) -> Training:
    """The network and its training, once it is known to take the sizes that it is evaluated and trained with."""
    if recipe.machine.threads:
        torch.set_num_threads(recipe.machine.threads)
    network, task = build_network(recipe, len(classes), begun), find_task(recipe.task)
    for height, width in dict.fromkeys([crop, *evaluated] if crop else evaluated):
        _check_takes(network, height, width)
        task.check_outputs(network, recipe, len(classes), height, width)
    at_once = recipe.machine.devices * recipe.machine.nodes * recipe.training.accumulate
    if crop and recipe.training.batch == at_once:
        _check_learns_from_one(network, *crop)
    if recipe.training.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if recipe.training.compile:
        task.compile(network)
    return Training(recipe, network, classes)


@torch.no_grad()
def _check_takes(network: nn.Module, height: int, width: int) -> None:
    """Before anything is trained: some networks take one size alone, or none below that of their strides."""
    try:
        with torch.random.fork_rng(devices=[]):
            network.eval()(torch.zeros(2, 3, height, width))  # norms over small maps refuse a single one
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"model.backbone: the network cannot take pictures of {height}×{width} pixels ({reason}). Their size is "
            "data.crop in training, and follows from data.eval_resize and data.eval_crop in evaluation; without "
            "data.eval_crop it is that of each file"
        ) from error
    network.train()


@torch.no_grad()
def _check_learns_from_one(network: nn.Module, height: int, width: int) -> None:
    """Before anything is trained: batch norm takes no statistics of a single picture's map of 1×1."""
    try:
        with torch.random.fork_rng(devices=[]):
            copy.deepcopy(network).train()(torch.zeros(1, 3, height, width))
    except ValueError as error:
        raise ConfigError(
            f"training.batch: the network cannot learn from one picture of {height}×{width} pixels at a time "
            f"({error}); take more for every process and accumulated batch, or a larger data.crop"
        ) from error


def _launched(machine: MachineRecipe) -> MachineRecipe:
    """Take the number of processes from torchrun or SLURM where one of them started this process.

    Raises:
        ConfigError: SLURM started another number than the one that was asked for, or does not say how many per machine.
    """
    if TorchElasticEnvironment.detect():
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        nodes = int(os.environ["WORLD_SIZE"]) // here
    elif _by_slurm():
        here, nodes = int(os.environ.get("SLURM_NTASKS_PER_NODE", "1")), int(os.environ.get("SLURM_NNODES", "1"))
        if machine.devices not in (1, here):
            raise ConfigError(
                f"machine.devices is {machine.devices}, but SLURM started {here} on each machine; start the run with "
                f"srun --ntasks-per-node={machine.devices}, or set machine.devices to 1 to take what SLURM starts"
            )
    else:
        return machine
    return dataclasses.replace(machine, devices=here, nodes=nodes)


def _by_slurm() -> bool:
    """Whether SLURM started this process."""
    if not SLURMEnvironment.detect():
        return False
    try:
        SLURMEnvironment()
    except RuntimeError as error:
        raise ConfigError(
            f"SLURM: {' '.join(str(error).split())} For one process in a job of several tasks: srun --ntasks=1"
        ) from error
    return True


def _to_evaluate(recipe: Recipe) -> Recipe:
    """What evaluates a folded network: it is plain, an average if there was one, and needs no other machine."""
    model = dataclasses.replace(recipe.model, weights="", freeze_norm=False)
    machine = _launched(dataclasses.replace(recipe.machine, nodes=1))
    # The training batch, of which a recipe has a multiple of the processes, says nothing here.
    batch = machine.devices * machine.nodes
    training = dataclasses.replace(recipe.training, ema=0.0, batch=batch, accumulate=1, precision="32-true")
    return dataclasses.replace(recipe, method="plain", model=model, machine=machine, training=training)


def _leads(machine: MachineRecipe) -> bool:
    """Whether this is the only process, or the first of several."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment().global_rank() == 0
    if _by_slurm():
        return SLURMEnvironment().global_rank() == 0
    by_lightning = LightningEnvironment()
    first_machine = machine.nodes == 1 or by_lightning.node_rank() == 0
    return bool(by_lightning.local_rank() == 0 and first_machine)


def _trainer(recipe: Recipe, folder: RunFolder | None = None, data: RunData | None = None) -> Trainer:
    """What trains into a folder, or only evaluates."""
    training, machine = recipe.training, recipe.machine
    callbacks: list[Callback] = [Bar()] if watched() else []
    if folder is not None and data is not None:
        callbacks += [_CheckShared(folder), _WriteHistory(folder), KeepLastAndBest(folder, training.checkpoint_steps)]
        callbacks += [Lines(folder, data)]  # behind what writes: an epoch that is reported is kept
    logger = TensorBoardLogger(folder.path, name="", version=folder.tensorboard.name) if folder is not None else False
    on_cpu = machine.accelerator == "cpu" or not torch.accelerator.is_available()
    if on_cpu and (machine.accelerator == "gpu" or training.precision == "16-mixed"):
        key = "machine.accelerator gpu" if machine.accelerator == "gpu" else "training.precision 16-mixed"
        raise ConfigError(f"{key} needs a GPU, and torch finds none here")
    try:
        return Trainer(
            accelerator=machine.accelerator,
            devices=machine.devices,
            num_nodes=machine.nodes,
            strategy=machine.strategy,
            precision=training.precision,
            max_epochs=training.epochs,
            accumulate_grad_batches=training.accumulate,
            gradient_clip_val=training.clip or None,
            benchmark=find_task(recipe.task).one_size,  # cuDNN tries its ways out once for every size
            callbacks=callbacks,
            logger=logger,
            plugins=[AtomicCheckpoints()],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=watched(),
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except MisconfigurationException as error:  # fewer GPUs than devices, for example
        raise ConfigError(f"machine: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def _interruptible(trainer: Trainer, advice: str = "") -> Iterator[None]:
    """Let Ctrl-C be one: Lightning ends the process as if something had failed."""
    try:
        yield
    except SystemExit:
        if trainer.interrupted:
            print(f"interrupted{advice}", file=sys.stderr)
            raise KeyboardInterrupt from None
        raise


class _CheckShared(Callback):
    """Before anything is trained: the first process writes the checkpoints that all of them read."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def setup(self, trainer: Trainer, module: Any, stage: str) -> None:
        # Lightning waits for all processes before this, and the first one wrote the recipe before it.
        if not trainer.strategy.reduce_boolean_decision(self.folder.recipe.exists()):
            raise ConfigError(
                f"--out must be a folder that all processes share, but not all of them see what the first one wrote to "
                f"{self.folder.path}; give a path on a file system that all machines mount"
            )


class _WriteHistory(Callback):
    """Numbers and curves after every epoch."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        if trainer.is_global_zero:
            write_history(self.folder, module.history, module.metrics.main)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advertisements and its advice on what is decided here."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    loggers += [logging.getLogger(f"{name}.utilities.rank_zero") for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            for message in (
                ".*does not have many workers.*",
                ".*smaller than the logging interval.*",
                ".*GPU available but not used.*",
                ".*treespec, LeafSpec.*",
                ".*all_gather is deprecated.*",
                # A scaler of half precision leaves the first steps out until its scale fits, the schedule goes on.
                r"Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`.*",
            ):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
