"""Learning-rate schedules, as factors of the full rate per optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...errors import ConfigError, listing
from ..recipe.schema import TrainingRecipe


def schedule(training: TrainingRecipe, steps_per_epoch: int) -> Callable[[int], float]:
    """The factor on ``training.lr`` at every optimizer step, counted from 0.

    The warm-up's factor multiplies that of the schedule, which runs from the first step to the last whatever the
    warm-up, as OpenMMLab's toolboxes, from which the paper's settings come, have it.

    Examples:
        >>> factor = schedule(TrainingRecipe(epochs=10, schedule="step", milestones=(5,)), steps_per_epoch=2)
        >>> factor(9), factor(10)
        (1.0, 0.1)
    """
    total = training.epochs * steps_per_epoch
    least = training.min_lr / training.lr
    warmup = warmup_length(training, steps_per_epoch)

    def factor(step: int) -> float:
        done = min(step / max(1, total), 1.0)
        if training.schedule == "step":
            value = training.gamma ** sum(step >= epoch * steps_per_epoch for epoch in training.milestones)
        elif training.schedule == "poly":
            value = least + (1 - least) * (1 - done) ** training.power
        elif training.schedule == "linear":
            value = least + (1 - least) * (1 - done)
        elif training.schedule == "cosine":
            value = least + (1 - least) * 0.5 * (1 + math.cos(math.pi * done))
        else:
            value = 1.0
        if step < warmup:
            done = step / warmup if training.warmup == "linear" else 0.0
            value *= training.warmup_start + (1 - training.warmup_start) * done
        return value

    return factor


def warmup_length(training: TrainingRecipe, steps_per_epoch: int) -> int:
    """Optimizer steps of the warm-up.

    Examples:
        >>> warmup_length(TrainingRecipe(warmup_epochs=1.5), steps_per_epoch=10)
        15
    """
    return round(training.warmup_epochs * steps_per_epoch) if training.warmup_epochs else training.warmup_steps


def check_schedule(training: TrainingRecipe, steps_per_epoch: int) -> None:
    """Refuse a schedule of which a part would never be reached, or that rises where it should fall.

    For the beginning of a run: only there is known how many steps the data gives.

    Raises:
        ConfigError: the warm-up lasts to the end of the run, a milestone lies behind it, or the last rate is the
            larger one; the message says what would fit.
    """
    epochs, total = training.epochs, training.epochs * steps_per_epoch
    warmup = warmup_length(training, steps_per_epoch)
    if warmup >= total:
        if training.warmup_epochs:
            given, none = f"epochs is {training.warmup_epochs:g}, {warmup} steps", "epochs=0 --training.warmup_steps=0"
        else:
            given, none = f"steps is {warmup}", "steps=0"
        raise ConfigError(
            f"training.warmup_{given}, but the run has {total} steps in all, {steps_per_epoch} in each epoch: the full "
            f"learning rate would never be reached. Give for example --training.warmup_epochs={epochs / 10:g}, a tenth "
            f"of the run, or --training.warmup_{none} for no warm-up"
        )
    if training.schedule == "step" and (behind := [epoch for epoch in training.milestones if epoch >= epochs]):
        others = sorted({epochs * 2 // 3, epochs * 8 // 9} - {0, epochs})
        instead = f"--training.milestones='{others}'" if others else "--training.schedule=constant"
        raise ConfigError(
            f"training.milestones: the run ends after training.epochs, {epochs}, and the learning rate would never "
            f"fall at {listing(behind)}. Give for example {instead}"
        )
    if training.schedule in ("poly", "linear", "cosine") and training.min_lr > training.lr:
        raise ConfigError(
            f"training.min_lr is {training.min_lr:g}, more than training.lr, {training.lr:g}: the learning rate would "
            f"rise to the end. Give for example --training.min_lr={training.lr / 100:g}"
        )
