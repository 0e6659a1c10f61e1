"""The folder of a run: its files, the recipe it was started with, and whether it may be resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from filelock import FileLock

from ...errors import ConfigError, listing
from .atomic import locked_folder, remove_parts


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths of everything that a run writes."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The recipe as it was started."""
        return self.path / "recipe.json"

    @property
    def last(self) -> Path:
        """Checkpoint to go on from."""
        return self.path / "last.ckpt"

    @property
    def best(self) -> Path:
        """Checkpoint of the best epoch."""
        return self.path / "best.ckpt"

    @property
    def model(self) -> Path:
        """The best network, folded into plain convs."""
        return self.path / "model.safetensors"

    @property
    def converted(self) -> Path:
        """The best network with its kernel maps, to train on."""
        return self.path / "converted.safetensors"

    @property
    def results(self) -> Path:
        """Metrics and how they came about."""
        return self.path / "results.json"

    @property
    def log(self) -> Path:
        """A line of numbers per epoch."""
        return self.path / "metrics.csv"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's files."""
        return self.path / "tensorboard"

    @property
    def printed(self) -> Path:
        """What the run has printed, with the times."""
        return self.path / "log.txt"

    @property
    def curves(self) -> Path:
        """The same as an image."""
        return self.path / "curves.png"

    @property
    def lock(self) -> Path:
        """Held by who is at work here; the file stays."""
        return self.path / ".lock"

    @property
    def began(self) -> bool:
        """Whether there is anything to resume: what ended before its first checkpoint is no run."""
        return self.recipe.exists() and (self.last.exists() or self.results.exists())

    def check_finished(self, *needed: Path) -> None:
        """Refuse the folder of no finished run.

        Args:
            needed: files that a finished run has, and that are asked for.

        Raises:
            ConfigError: one is missing; the message says what to give, or how to finish the run.
        """
        if missing := [file.name for file in needed if not file.is_file()]:
            finish = f", or finish the run: coc fit {self.path} --resume" if self.recipe.is_file() else ""
            raise ConfigError(
                f"{self.path} holds no finished run, there is no {listing(missing)}; give the folder that coc fit "
                f"wrote{finish}"
            )

    @contextlib.contextmanager
    def at_work(self, timeout: float) -> Iterator[None]:
        """Make the folder and keep everybody else from working in it; a folder in which no run begins is removed again.

        Args:
            timeout: so many seconds somebody who does is waited for; -1 for as long as it takes.

        Raises:
            ConfigError: somebody else is at work, or the folder cannot be written to.
        """
        lock = FileLock(self.lock, is_singleton=True)  # so that a study's worker, which holds it, may start a run
        taken = f"{self.path}: another process is at work on this run; wait for it, or choose another folder"
        with locked_folder(lock, timeout, taken, passing=[self.recipe.name, self.tensorboard.name]):
            remove_parts(self.path)
            yield


def read_values(path: Path, *keys: str) -> dict[str, Any]:
    """Read a JSON file that a run has written.

    Args:
        path: of the file.
        keys: that it must have.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: damaged, no longer readable as JSON ({error}); choose another folder") from error
    missing = [key for key in keys if key not in values] if isinstance(values, dict) else ["keys and values"]
    if missing:
        raise ConfigError(f"{path}: damaged, it has no {listing(missing)}; choose another folder")
    return cast("dict[str, Any]", values)
