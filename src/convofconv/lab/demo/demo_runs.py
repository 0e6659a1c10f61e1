"""The runs of the demo, one after the other, in folders from which an interrupted demo resumes."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..files.atomic import write_atomic
from ..files.run_folder import RunFolder, read_values
from ..files.state_dicts import load_weights, read_state_dict
from ..models.network import build_network
from ..progress import Remaining, duration, print_line, progress_bar
from ..recipe.schema import MachineRecipe, ModelRecipe, Recipe, TrainingRecipe
from ..studies.code_identity import code_identity
from ..studies.execution import epochs_done
from ..studies.worker import forget_launchers
from ..training.run import run_fit
from .chosen_images import write_images
from .settings import DemoSettings
from .small_resnet import small_resnet

#: By seed and method, what a run's ``results.json`` holds.
Results = Mapping[tuple[int, str], Mapping[str, Any]]

_BATCH = 64


class DemoRuns:
    """Every method with every seed, on the same images.

    Args:
        settings: what to compare.
        work: folder of the images and runs; it is cleared of those of other settings or other code.

    Raises:
        ConfigError: the data cannot be read.
    """

    def __init__(self, settings: DemoSettings, work: Path) -> None:
        self.settings, self._work = settings, work
        identity = json.dumps({**dataclasses.asdict(settings), "code": code_identity()}, default=str).encode()
        begun = work / "settings.json"
        same = begun.is_file() and begun.read_bytes() == identity
        for folder in ("images",) if same else ("images", "runs"):
            shutil.rmtree(work / folder, ignore_errors=True)
        write_atomic(begun, identity)
        self.images = write_images(settings, work / "images")
        self.plan = [(seed, method) for seed in range(settings.seeds) for method in settings.methods]

    @property
    def batch(self) -> int:
        """Images per step."""
        return min(_BATCH, self.images.train_images)

    def network(self, method: str, seed: int = 0) -> nn.Module:
        """The network with which a run begins."""
        return build_network(self._recipe(method, seed), len(self.images.classes))

    def trained_network(self, method: str, seed: int = 0) -> nn.Module:
        """The network of a finished run, not folded."""
        network, folder = self.network(method, seed), self._folder(method, seed)
        file = folder.converted if folder.converted.is_file() else folder.model
        load_weights(network, read_state_dict(file, network.state_dict().keys()), f"{file}: not this network")
        return network

    def train(self) -> Results:
        """Do what is not done yet, and print a line for every run."""
        forget_launchers()
        finished = sum(self._folder(method, seed).results.is_file() for seed, method in self.plan)
        remaining = Remaining(len(self.plan), finished)
        results = {}
        with progress_bar(len(self.plan) * self.settings.epochs, "training") as bar:
            for number, (seed, method) in enumerate(self.plan, 1):
                folder = self._folder(method, seed)
                bar.set_postfix_str(f"seed {seed}, {method}", refresh=False)
                if not folder.results.is_file():
                    with contextlib.redirect_stdout(_Advance(bar, folder)):
                        run_fit(self._recipe(method, seed), folder.path, resume=True)
                bar.update(number * self.settings.epochs - bar.n)
                result = results[seed, method] = read_values(folder.results)
                line = f"seed {seed}  {method:<10}{last_accuracy(result):6.2f} %  {result['seconds']:.1f} s"
                seconds = remaining.seconds(number)
                left = f", {duration(seconds)} left" if seconds else ""
                print_line(f"{line}  {number} of {len(self.plan)} done{left}")
        return results

    def _folder(self, method: str, seed: int) -> RunFolder:
        return RunFolder(self._work / "runs" / f"{method}-seed{seed}")

    def _recipe(self, method: str, seed: int) -> Recipe:
        return Recipe(
            method=method,
            data=self.images.recipe,
            model=ModelRecipe(f"{small_resnet.__module__}:{small_resnet.__name__}"),
            training=TrainingRecipe(
                epochs=self.settings.epochs,
                batch=self.batch,
                eval_batch=500,
                nesterov=True,
                weight_decay=5e-4,
                seed=seed,
            ),
            machine=MachineRecipe("cpu", threads=self.settings.threads),
        )


class _Advance(io.StringIO):
    """Takes what a run prints, and moves the bar of all runs by the epochs that this one has done."""

    def __init__(self, bar: Any, folder: RunFolder) -> None:
        super().__init__()
        self._bar, self._folder, self._before = bar, folder, bar.n

    def write(self, text: str) -> int:
        self._bar.update(self._before + epochs_done(self._folder) - self._bar.n)
        return len(text)


def last_accuracy(result: Mapping[str, Any]) -> float:
    """Accuracy after the last epoch, in per cent: the test images themselves choose the best epoch."""
    return float(result["history"][-1][result["metric"]])
