"""The training of one network as a LightningModule, the same for every task, which gives loss and metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ...errors import ConfigError, ConvOfConvError
from ...parameter_groups import param_groups
from ..data.loading import seed_of
from ..found_by_name import find_task
from ..recipe.schema import Recipe
from .schedule import schedule

#: On a GPU, so many steps are taken before their losses are looked at.
_UNREAD = 50


class DivergedError(ConvOfConvError, FloatingPointError):
    """The loss is no number any more; the message names the step."""


class Training(LightningModule):
    """Loss, metrics, optimizer and schedule of a recipe.

    Args:
        recipe: what decides the run.
        network: converted or plain, of :func:`~convofconv.lab.models.network.build_network`.
        classes: names of the classes.
    """

    def __init__(self, recipe: Recipe, network: nn.Module, classes: Sequence[str]) -> None:
        super().__init__()
        self.recipe, self.task = recipe, find_task(recipe.task)
        self.network = network
        decay = recipe.training.ema
        average = AveragedModel(network, multi_avg_fn=_moving_average(decay), use_buffers=True) if decay else None
        # No gradient comes to it: several processes would wait for them.
        self.average = average.requires_grad_(False) if average else None
        self.classes = list(classes)
        self.metrics = self.task.build_metrics(recipe, classes)
        #: Of the last test, numbers per class by metric.
        self.by_class: dict[str, list[float]] = {}
        #: What to know about the figures of the last test; empty if nothing.
        self.remark = ""
        #: One dictionary of numbers per finished epoch; kept in checkpoints, so that resuming neither loses nor
        #: repeats one.
        self.history: list[dict[str, float]] = []
        self._begun = _clocks()
        self._before = (0.0, 0.0)
        # Sum and count of this process's losses in this epoch. No buffers: DDP gives all processes the first one's.
        self._losses = (0.0, 0)
        # Batch, step and loss of those that are not among them yet: asking a GPU for each would keep it waiting.
        self.unread: list[tuple[int, int, Tensor]] = []
        self._rate = 0.0  # of the last step

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and kept: the moving average where there is one."""
        return self.network if self.average is None else self.average.module

    @property
    def spent(self) -> tuple[float, float]:
        """Seconds of time and of this process's CPU that the run has taken, the parts before a kill included."""
        time_now, cpu_now = _clocks()
        return self._before[0] + time_now - self._begun[0], self._before[1] + cpu_now - self._begun[1]

    @property
    def mean_loss(self) -> float | None:
        """Of this process's batches of this epoch so far, as far as their losses have been read."""
        summed, count = self._losses
        return summed / count if count else None

    def loss(self, images: Any, target: Any) -> Tensor:
        """Of a batch in training, as the task defines it."""
        return self.task.loss(self.network, self._in_format(images), target, self.recipe)

    def _in_format(self, images: Any) -> Any:
        if self.recipe.training.channels_last and isinstance(images, Tensor):  # a detector makes its own batches
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Dropout must not depend on how often the run was interrupted.
        seed = self.recipe.training.seed
        torch.manual_seed(seed_of(seed, self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: tuple[Any, Any], batch_idx: int) -> Tensor:
        loss = self.loss(*batch)
        self.unread.append((batch_idx, self.global_step, loss.detach()))
        at_once = loss.device.type == "cpu" or self.task.losses_at_once
        if at_once or len(self.unread) >= _UNREAD:
            self._read_losses()
        return loss

    def _read_losses(self) -> None:
        """Sum up the losses of the last steps; before every checkpoint, so that none is written after one that is no
        number."""
        unread, self.unread = self.unread, []
        for (batch, step, _), value in zip(unread, _numbers([loss for _, _, loss in unread]), strict=True):
            if not math.isfinite(value):
                raise DivergedError(
                    f"the loss is {value} at batch {batch + 1} of epoch {self.current_epoch + 1} (step {step}). The "
                    "last checkpoint is kept; try a smaller training.lr, a longer warm-up (training.warmup_epochs), or "
                    "training.clip"
                )
            self._losses = (self._losses[0] + value, self._losses[1] + 1)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self._rate = self.trainer.optimizers[0].param_groups[0]["lr"]  # the schedule goes on before the epoch's end
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:  # here, for a checkpoint may be written before on_train_batch_end is called
            self.average.update_parameters(self.network)

    def on_validation_epoch_start(self) -> None:
        self.metrics.reset()

    def validation_step(self, batches: list[tuple[Any, Any]], batch_idx: int) -> None:
        # Half precision rounds logits so far that classes tie; scores are of what everybody computes afterwards.
        with torch.autocast(self.device.type, enabled=False):
            for images, target in batches:  # each of images of one size
                self.metrics.update(self.evaluated(self._in_format(images)), target)

    def on_validation_epoch_end(self) -> None:
        values = self.metrics.compute()
        for name, value in values.items():
            self.log(f"val/{name}", value, prog_bar=name == self.metrics.main, sync_dist=True)
        if self.trainer.state.fn == "fit":
            summed, count = self._losses_of_all()
            self._losses = (0.0, 0)
            numbers = {"epoch": self.current_epoch + 1, "step": self.global_step, "lr": self._rate}
            self.history.append({**numbers, "loss": summed / count, **values})
            self.log("train/loss", summed / count, sync_dist=True)

    def _losses_of_all(self) -> tuple[float, int]:
        """Sum and count of this epoch's losses over all processes, each of which must ask."""
        self._read_losses()
        if self.trainer.world_size == 1:
            return self._losses
        mine = torch.tensor(self._losses, dtype=torch.float64, device=self.device)
        summed, count = cast(Tensor, self.all_gather(mine)).sum(0).tolist()
        return summed, int(count)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        # Now: behind the test Lightning has taken everything to the CPU, where NCCL gathers nothing.
        self.by_class = self.metrics.by_class()
        self.remark = self.metrics.remark()
        self.log_dict({f"test/{name}": value for name, value in self.metrics.compute().items()}, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history
        checkpoint["classes"] = self.classes
        checkpoint["spent"] = self.spent
        checkpoint["losses"], checkpoint["rate"] = self._losses_of_all(), self._rate

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_same_classes(checkpoint["classes"], self.classes)
        self.history = list(checkpoint["history"])
        self._before, self._begun = tuple(checkpoint["spent"]), _clocks()
        self._losses = tuple(checkpoint["losses"]) if self.global_rank == 0 else (0.0, 0)  # those of all processes
        self._rate = checkpoint["rate"]

    def configure_optimizers(self) -> Any:
        training = self.recipe.training
        rate = training.super_kernel_rate * training.lr
        groups = param_groups(self.network, training.weight_decay, training.lr, super_kernel_lr=rate)
        if training.decay_norms:
            groups = [{**group, "weight_decay": training.weight_decay} for group in groups]
        optimizer: torch.optim.Optimizer
        if training.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, training.lr, training.momentum, nesterov=training.nesterov)
        else:
            optimizer = torch.optim.AdamW(groups, training.lr)
        steps: int = self.trainer.datamodule.steps_per_epoch  # type: ignore[attr-defined]
        factor: Callable[[int], float] = schedule(training, steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _numbers(losses: Sequence[Tensor]) -> list[float]:
    return torch.stack(list(losses)).tolist() if losses else []


def check_same_classes(learnt: Sequence[str], here: Sequence[str]) -> None:
    """Refuse data whose classes are others than those that a network has learnt, or in another order.

    Raises:
        ConfigError: the message names the first class that differs.
    """
    if len(learnt) != len(here):
        raise ConfigError(f"data.root: the run has learnt {len(learnt)} classes, this data has {len(here)}")
    for number, (theirs, mine) in enumerate(zip(learnt, here, strict=True)):
        if theirs != mine:
            raise ConfigError(
                f"data.root: class {number} is {mine!r} here, and {theirs!r} in the data that the run has learnt from; "
                "give the same data, or classes of the same names in the same order"
            )


def _clocks() -> tuple[float, float]:
    return time.monotonic(), time.process_time()


def _moving_average(decay: float) -> Callable[..., None]:
    average = get_ema_multi_avg_fn(decay)

    def update(averaged: list[Tensor], current: list[Tensor], steps: Tensor | int) -> None:
        """Of numbers; integers, such as counts and the order of grouped kernels, are taken over as they are."""
        if averaged[0].is_floating_point():
            average(averaged, current, steps)
        else:
            for mine, theirs in zip(averaged, current, strict=True):
                mine.copy_(theirs)

    return update
