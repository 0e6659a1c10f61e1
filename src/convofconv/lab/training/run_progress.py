"""What a run reports while it trains: what it is, a line per epoch, on a terminal a bar, and numbers and curves."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from ...model_summary import summary
from ..files.run_folder import RunFolder
from ..progress import Remaining, duration, print_line
from ..recipe.schema import Recipe
from .finish import write_history
from .module import Training
from .run_data import RunData


class Bar(TQDMProgressBar):
    """Lightning's bar with loss and metric, and without the numbers of loggers and loaders; epochs count from 1."""

    validation_description = "evaluation"

    def init_train_tqdm(self) -> Any:
        return _passing(super().init_train_tqdm(), self.train_description)

    def init_test_tqdm(self) -> Any:
        return _passing(super().init_test_tqdm(), self.validation_description)

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        self.train_progress_bar.reset(self.total_train_batches)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}")

    def on_validation_batch_start(self, *_: Any) -> None:
        if self.has_dataloader_changed(0):
            self.val_progress_bar.reset(self.total_val_batches_current_dataloader)

    def on_test_batch_start(self, *_: Any) -> None:
        if self.has_dataloader_changed(0):
            self.test_progress_bar.reset(self.total_test_batches_current_dataloader)

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        assert isinstance(module, Training)
        history, main, loss = module.history, module.metrics.main, module.mean_loss
        if loss is None and history:  # between two epochs
            loss = history[-1]["loss"]
        shown = {} if loss is None else {"loss": f"{loss:.4f}"}
        return shown | ({main: f"{history[-1][main]:.2f} %"} if history else {})


def _passing(bar: Any, what: str) -> Any:
    """A bar that disappears when it is closed, as a line takes its place."""
    bar.leave = False
    bar.set_description_str(what, refresh=False)
    return bar


class Lines(Callback):
    """What is trained where, and a line per epoch: printed at once by the first process, and kept in the folder."""

    def __init__(self, folder: RunFolder, data: RunData) -> None:
        self.folder, self.data = folder, data

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, Training)
        self._print(trainer, *heading(trainer, module, self.data, self.folder))

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        done, total = trainer.global_step, int(trainer.estimated_stepping_batches)
        self._remaining = Remaining(total, done)
        if done:
            epoch = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
            self._print(trainer, f"resumed in {epoch}, after step {done} of {total}")

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, Training)
        numbers, main, last = module.history[-1], module.metrics.main, str(trainer.max_epochs)
        learned = f"loss {numbers['loss']:.4f}, {main} {numbers[main]:.2f} %, lr {numbers['lr']:.3g}"
        seconds = self._remaining.seconds(trainer.global_step)
        time = f"{duration(seconds)} left" if seconds else f"trained in {duration(module.spent[0])}"
        self._print(trainer, f"epoch {numbers['epoch']:{len(last)}} of {last}: {learned}, {time}")

    def _print(self, trainer: Trainer, *lines: str) -> None:
        for line in lines if trainer.is_global_zero else ():
            print_line(line, self.folder.printed)


class History(Callback):
    """Numbers and curves after every epoch, in the folder."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, Training)
        if trainer.is_global_zero:
            write_history(self.folder, module.history, module.metrics.main)


def heading(trainer: Trainer, training: Training, data: RunData, folder: RunFolder) -> list[str]:
    """What a run is, in a few lines."""
    recipe, sets = training.recipe, data.sets
    test = "the same" if sets.test is sets.val else f"{len(sets.test):,}"
    convs = summary(training.network)
    network = f"{recipe.model.backbone}, {recipe.method}: {convs.parameters - convs.added_parameters:,} parameters"
    if recipe.method != "plain":
        converted = f"{len(convs.converted)} of {len(convs.convs)} convs converted"
        network += f" and {convs.added_parameters:,} added for training, {converted}"
    return [
        f"run:       {folder.path}",
        f"device:    {place(trainer, recipe)}",
        f"data:      {recipe.data.name}, {len(sets.train):,} images to train on, {len(sets.val):,} to validate on, "
        f"{test} to test on; {len(sets.classes)} classes",
        f"network:   {network}",
        f"training:  epochs: {recipe.training.epochs}, steps per epoch: {data.steps_per_epoch:,}, images per step: "
        f"{recipe.training.batch}",
    ]


def place(trainer: Trainer, recipe: Recipe) -> str:
    """What computes, how, and in how many processes."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    threads = f", threads: {torch.get_num_threads()}" if device.type == "cpu" else ""
    processes = f", processes: {trainer.world_size}" if trainer.world_size > 1 else ""
    return f"{name}{threads}{processes}, precision: {recipe.training.precision}"
