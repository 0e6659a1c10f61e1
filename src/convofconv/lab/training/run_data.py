"""The data of a run as a LightningDataModule, all of it or one split to evaluate."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from ...errors import ConfigError
from ..data.build_data import DataSets, EvaluationData, EvaluationSet
from ..data.loading import Loader, ResumableLoader, evaluation_loader, training_loader
from ..found_by_name import find_task
from ..recipe.schema import Recipe


class SplitData(LightningDataModule):
    """One split to evaluate, sharded here over all processes: every image exactly once."""

    def __init__(self, recipe: Recipe, data: EvaluationData) -> None:
        super().__init__()
        self.recipe, self.data = recipe, data

    def setup(self, stage: str) -> None:
        """Before anything is trained or evaluated."""
        self.check(self._place["world"])

    def check(self, processes: int) -> None:
        """Refuse more processes than there are images.

        Raises:
            ConfigError: some would have nothing to do.
        """
        self._check_evaluation(self.data.images, processes)

    def _check_evaluation(self, images: EvaluationSet, processes: int) -> None:
        if len(images) < processes:
            raise ConfigError(
                f"{len(images)} images are too few to be evaluated by {processes} processes; take fewer of them"
            )

    @property
    def _place(self) -> dict[str, int]:
        assert self.trainer is not None
        return {"rank": self.trainer.global_rank, "world": self.trainer.world_size}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave targets of evaluation where they are if the task says so."""
        assert self.trainer is not None
        move = super().transfer_batch_to_device
        if find_task(self.recipe.task).targets_stay and not self.trainer.training:
            return [(move(images, device, dataloader_idx), targets) for images, targets in batch]
        return move(batch, device, dataloader_idx)

    def test_dataloader(self) -> Loader:
        return self._evaluation(self.data.images)

    def _evaluation(self, images: EvaluationSet) -> Loader:
        batch, workers = self.recipe.training.eval_batch, self.recipe.data.workers
        return evaluation_loader(images, batch, workers, self.data.collate, **self._place)


class RunData(SplitData):
    """Loaders of every process, sharded here: training batches without overlap, evaluation images exactly once."""

    def __init__(self, recipe: Recipe, sets: DataSets) -> None:
        super().__init__(recipe, EvaluationData(sets.test, sets.classes, sets.collate))
        self.sets = sets

    def check(self, processes: int) -> None:
        """As of one split, for what is evaluated after every epoch and in the end."""
        super().check(processes)
        self._check_evaluation(self.sets.val, processes)

    def check_training(self, processes: int) -> None:
        """As :meth:`check`, for training too.

        Raises:
            ConfigError: some would have nothing to do, or the batch is larger than the training set.
        """
        self.check(processes)
        self.loader_of(0, processes)

    def train_dataloader(self) -> ResumableLoader:
        return self.loader_of(**self._place)

    def loader_of(self, rank: int, world: int) -> ResumableLoader:
        """Loader of one of several processes, with its share of the recipe's batch.

        Raises:
            ConfigError: the batch is larger than the training set.
        """
        training = self.recipe.training
        return self.training_loader(training.batch // (training.accumulate * world), rank, world)

    def training_loader(self, batch: int, rank: int = 0, world: int = 1) -> ResumableLoader:
        """Loader of batches for one of several processes."""
        seed, workers = self.recipe.training.seed, self.recipe.data.workers
        sets, accumulate = self.sets, self.recipe.training.accumulate
        return training_loader(sets.train, batch, seed, workers, rank, world, sets.collate, sets.groups, accumulate)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return len(self.sets.train) // self.recipe.training.batch

    def val_dataloader(self) -> Loader:
        return self._evaluation(self.sets.val)
