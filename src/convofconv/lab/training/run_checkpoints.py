"""Checkpoints of a run: written atomically, read without executing code, the last and the best epoch's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer

from ...errors import ConvOfConvError
from ..files.atomic import replacing
from ..files.run_folder import RunFolder
from .module import Training


class CheckpointError(ConvOfConvError, RuntimeError):
    """A checkpoint cannot be written or read; the message names the file."""


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoint files that are complete or not there."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        target = Path(path)
        try:
            with replacing(target) as part:
                torch.save(checkpoint, part)
        except (OSError, RuntimeError) as error:  # torch's writer raises a RuntimeError where the disk is full
            raise CheckpointError(
                f"{target}: the checkpoint cannot be written ({error}); the one before it is intact"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        advice = "; copy best.ckpt over it to go on from the best epoch, or choose another --out to train anew"
        return read_checkpoint(Path(path), map_location, advice)


def read_checkpoint(path: Path, map_location: Any = "cpu", advice: str = "") -> dict[str, Any]:
    """Read a checkpoint without executing code from it.

    Args:
        path: of the checkpoint.
        map_location: as :func:`torch.load`'s.
        advice: what to do if it is damaged.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
    except Exception as error:  # torch raises nearly anything on broken files
        raise CheckpointError(f"{path}: not a readable checkpoint ({error}){advice}") from error
    return checkpoint


class KeepLastAndBest(Callback):
    """Save after every epoch, on request also every so many steps, and keep the best epoch's checkpoint.

    Which epoch is best follows from the history in the checkpoint: the first with the highest metric.
    """

    def __init__(self, folder: RunFolder, every_steps: int) -> None:
        self.folder, self.every_steps = folder, every_steps

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        # Not between batches whose gradients are accumulated, for gradients are in no checkpoint.
        stepped = (index + 1) % trainer.accumulate_grad_batches == 0 and not trainer.is_last_batch
        if self.every_steps and stepped and trainer.global_step % self.every_steps == 0:
            trainer.save_checkpoint(self.folder.last, weights_only=False)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, Training)
        scores = [epoch[module.metrics.main] for epoch in module.history]
        # The best one first: if the last one is written, the best one that it speaks of is there.
        if scores.index(max(scores)) == len(scores) - 1:
            trainer.save_checkpoint(self.folder.best, weights_only=False)
        trainer.save_checkpoint(self.folder.last, weights_only=False)
