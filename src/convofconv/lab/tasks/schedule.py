"""Learning-rate schedules, as factors of the full rate per optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..recipe import TrainingRecipe


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
        if step < training.warmup_steps:
            done = step / training.warmup_steps if training.warmup == "linear" else 0.0
            value *= training.warmup_start + (1 - training.warmup_start) * done
        return value

    return factor
