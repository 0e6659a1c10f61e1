"""The data of a run as a LightningDataModule."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningDataModule

from ..data.build import DataSets
from ..data.loading import Loader, ResumableLoader, evaluation_loader, training_loader
from ..recipe import Recipe


class RunData(LightningDataModule):
    """Loaders of every process, sharded here: training batches without overlap, evaluation pictures exactly once."""

    def __init__(self, recipe: Recipe, sets: DataSets) -> None:
        super().__init__()
        self.recipe, self.sets = recipe, sets

    @property
    def _place(self) -> dict[str, int]:
        assert self.trainer is not None
        return {"rank": self.trainer.global_rank, "world": self.trainer.world_size}

    def train_dataloader(self) -> ResumableLoader:
        training = self.recipe.training
        batch = training.batch // (training.accumulate * self._place["world"])
        return self.training_loader(batch, **self._place)

    def training_loader(self, batch: int, rank: int = 0, world: int = 1) -> ResumableLoader:
        """Loader of batches for one of several processes."""
        seed, workers = self.recipe.training.seed, self.recipe.data.workers
        sets = self.sets
        return training_loader(sets.train, batch, seed, workers, rank, world, sets.collate, sets.groups)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        training = self.recipe.training
        batches = len(self.sets.train) // (training.batch // training.accumulate)
        return max(1, -(-batches // training.accumulate))

    def val_dataloader(self) -> Loader:
        return self._evaluation(self.sets.val)

    def test_dataloader(self) -> Loader:
        return self._evaluation(self.sets.test)

    def _evaluation(self, dataset: Any) -> Loader:
        batch, workers = self.recipe.training.eval_batch, self.recipe.data.workers
        return evaluation_loader(dataset, batch, workers, self.sets.collate, **self._place)
