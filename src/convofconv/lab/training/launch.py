"""Where a run is computed: the processes that a launcher has started, and Lightning's trainer in each of them."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from ...errors import ConfigError
from ..files.run_folder import RunFolder
from ..found_by_name import find_task
from ..progress import watched
from ..recipe.schema import MachineRecipe, Recipe
from .run_checkpoints import AtomicCheckpoints
from .run_progress import Bar


def leads(machine: MachineRecipe) -> bool:
    """Whether this is the only process, or the first of several."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment().global_rank() == 0
    if _by_slurm():
        return SLURMEnvironment().global_rank() == 0
    by_lightning = LightningEnvironment()
    first_machine = machine.nodes == 1 or by_lightning.node_rank() == 0
    return bool(by_lightning.local_rank() == 0 and first_machine)


def launched(recipe: Recipe) -> Recipe:
    """The recipe with the number of processes that there are, see :func:`launched_machine`."""
    machine = launched_machine(recipe.machine)
    return recipe if machine == recipe.machine else dataclasses.replace(recipe, machine=machine)


def launched_machine(machine: MachineRecipe) -> MachineRecipe:
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


def build_trainer(recipe: Recipe, folder: RunFolder | None = None, callbacks: Sequence[Callback] = ()) -> Trainer:
    """What trains into a folder, or only evaluates.

    Raises:
        ConfigError: this machine does not have what the recipe asks for.
    """
    training, machine = recipe.training, recipe.machine
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
            callbacks=[*([Bar()] if watched() else []), *callbacks],
            logger=TensorBoardLogger(folder.path, name="", version=folder.tensorboard.name) if folder else False,
            plugins=[AtomicCheckpoints()],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=watched(),
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except MisconfigurationException as error:  # fewer GPUs than devices, for example
        raise ConfigError(f"machine: {' '.join(str(error).split())}") from error


class CheckShared(Callback):
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


@contextlib.contextmanager
def interruptible(trainer: Trainer, advice: str = "") -> Iterator[None]:
    """Let Ctrl-C be one: Lightning ends the process as if something had failed."""
    try:
        yield
    except SystemExit:
        if trainer.interrupted:
            print(f"interrupted{advice}", file=sys.stderr)
            raise KeyboardInterrupt from None
        raise


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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


def leave_processes() -> None:
    """Leave the other processes while Python still runs.

    Lightning does so with NCCL alone; a thread of gloo that lets go of its last tensor while Python ends aborts the
    process (pytorch/pytorch#179291). After a failure nothing is waited for: others may be in the middle of a sum.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
