"""The folder of a run: its files, the recipe it was started with, and whether it may be gone on with."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from filelock import FileLock
from jsonargparse import ArgumentError, ArgumentParser

from ...errors import ConfigError, did_you_mean, listing, similar
from ..files import locked_folder, remove_parts, write_atomic
from ..recipe import Recipe

#: What may change between the start of a run and its resuming, because it does not decide the result.
_FREE = ("data.root", "data.download", "data.workers", "training.eval_batch", "training.checkpoint_steps", "machine.")
#: What else may change where a finished run is evaluated.
OF_EVALUATION = ("model.max_detections",)


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
        """The same as a picture."""
        return self.path / "curves.png"

    @property
    def lock(self) -> Path:
        """Held by who is at work here; the file stays."""
        return self.path / ".lock"

    @property
    def began(self) -> bool:
        """Whether there is anything to go on with: what ended before its first checkpoint is no run."""
        return self.recipe.exists() and (self.last.exists() or self.results.exists())

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


def default_folder(name: str, recipe: Recipe) -> Path:
    """Where a run goes if nothing else is said."""
    return Path("runs") / f"{name}-{recipe.method}-seed{recipe.training.seed}"


def check_folder(folder: RunFolder, recipe: Recipe, resume: bool) -> None:
    """Check that a folder is free for a new run, or that the run in it may be gone on with.

    Raises:
        ConfigError: it holds a run of another recipe, or ``resume`` is not asked for, or the run is finished and has no
            checkpoint any more.
    """
    if not folder.began:
        return
    further = f"--model.weights {folder.path} with another --out"
    advice = "choose another --out"
    if read_values(folder.recipe).get("training", {}).get("epochs", 0) < recipe.training.epochs:
        first = "" if folder.results.exists() else f"finish it (coc fit {folder.path} --resume), then "
        advice = f"its schedule ends with its epochs: to train for longer, {first}give {further}"
    check_same_recipe(folder, recipe, advice=advice)
    if not resume:
        weights = f"; {further} trains on from its weights" if folder.results.exists() else ""
        raise ConfigError(
            f"{folder.path} holds a run already: go on with it by --resume, or choose another --out{weights}"
        )
    if not folder.last.exists():
        raise ConfigError(
            f"{folder.path} holds a finished run without {folder.last.name}, there is nothing to go on with; choose "
            f"another --out to train anew, or {further} to train on from its weights"
        )


def begin_run(folder: RunFolder, recipe: Recipe) -> None:
    """Write down what is trained here, once data and network are found to fit."""
    if not folder.began:
        write_atomic(folder.recipe, (json.dumps(plain_values(recipe), indent=2) + "\n").encode())


def check_same_recipe(
    folder: RunFolder, recipe: Recipe, free: tuple[str, ...] = (), advice: str = "choose another --out"
) -> None:
    """Refuse to go on with a run of another recipe.

    Args:
        folder: of the run.
        recipe: what is asked for.
        free: keys that may differ besides those that decide no result.
        advice: what to do if it is another one.

    Raises:
        ConfigError: something differs that decides the result; the message names the keys.
    """
    if wrong := different_keys(read_values(folder.recipe), plain_values(recipe), free):
        raise ConfigError(f"{folder.path} holds a run of another recipe: {listing(wrong)}; {advice}")


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


def different_keys(theirs: Mapping[str, Any], mine: Mapping[str, Any], free: tuple[str, ...] = ()) -> list[str]:
    """What differs between two recipes and decides a result, as text; keys that one lacks have their default there."""
    default = flat(plain_values(Recipe()))
    before, now = {**default, **flat(theirs)}, {**default, **flat(mine)}
    return [
        f"{key}={before.get(key)!r} there, {now.get(key)!r} here"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and not key.startswith((*_FREE, *free))
    ]


def plain_values(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe), default=str))
    return values


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """The recipe of plain values, those of :func:`plain_values` for example; what is not among them has its default.

    Raises:
        ConfigError: a key is unknown or a value impossible here, a folder that is missing for example.
    """
    check_keys(values)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe, fail_untyped=True)
    try:
        options = parser.parse_object(dict(values))
    except ArgumentError as error:
        raise ConfigError(" ".join(str(error).split())) from error
    return Recipe(**vars(parser.instantiate(options)))


def check_keys(values: Mapping[str, Any]) -> None:
    """Refuse unknown keys, a value where a recipe has keys, and null where it has a value (YAML's for nothing).

    Raises:
        ConfigError: the message names the keys.
    """
    plain = plain_values(Recipe())
    sections = {key: entries for key, entries in plain.items() if isinstance(entries, dict) and entries}
    known = {*plain, *(f"{section}.{key}" for section, entries in sections.items() for key in entries)}
    given = {f"{section}.{key}" for section in sections for key in _entries(values.get(section))} | {*map(str, values)}
    for key in sorted(given - known):
        raise ConfigError(f"{key}: a recipe has no such key{did_you_mean(similar(key, known))}")
    for key in values.keys() & {key for key, value in plain.items() if isinstance(value, dict)}:
        if not isinstance(values[key], Mapping):
            raise ConfigError(f"{key} has keys and values, got {values[key]!r}")
    default = flat(plain)
    if empty := [key for key, value in flat(values).items() if value is None and default.get(key) is not None]:
        raise ConfigError(f"{listing(empty)}: null is no value there; leave it out for its default")


def _entries(section: Any) -> list[Any]:
    return list(section) if isinstance(section, Mapping) else []


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            out.update(flat(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = value
    return out
