"""Runs to report: their results read and checked, named, and joined where they differ by seed alone."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ConfigError, listing
from ..files.run_folder import RunFolder, read_values
from ..recipe.variant_labels import shortest_names, variant_labels
from .parts.rendering import json_able

#: What a report needs of ``results.json``.
_KEYS = (
    *("recipe", "classes", "metric", "best_epoch", "test", "largest_difference_after_folding", "parameters"),
    *("history", "versions", "device", "seconds"),
)


@dataclasses.dataclass(frozen=True)
class ReportedRun:
    """A finished run.

    Args:
        folder: of the run.
        name: of its folder, with those above it as far as others are called the same.
        results: what ``coc fit`` wrote into ``results.json``; what a number is not finite is ``None``.
        variant: what it shares with the runs of the same task that differ from it by seed alone: the method, and other
            settings where that is not enough.
    """

    folder: RunFolder
    name: str
    results: Mapping[str, Any]
    variant: str = ""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """What decided the run, in sections."""
        return dict(self.results["recipe"])

    @property
    def task(self) -> str:
        """What the network was trained for."""
        return str(self.recipe["task"])

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self.recipe["training"]["seed"])

    @property
    def metric(self) -> str:
        """The one that chose the best epoch."""
        return str(self.results["metric"])

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """Numbers per epoch."""
        return list(self.results["history"])

    @property
    def scores(self) -> Mapping[str, float | None]:
        """Of the folded network, in per cent, by metric; the one that matters comes first."""
        found = self.results["test"]["folded"]
        return {self.metric: found.get(self.metric), **found}


def read_runs(folders: Sequence[Path]) -> list[ReportedRun]:
    """Read the results of finished runs.

    Raises:
        ConfigError: a folder holds no finished run or damaged results, or is given twice.
    """
    real = [os.path.realpath(folder) for folder in folders]
    if twice := [str(folder) for folder, one in zip(folders, real, strict=True) if real.count(one) > 1]:
        raise ConfigError(f"the same run is given twice: {listing(twice)}; name every run once")
    names = shortest_names([Path(one) for one in real])
    runs = [
        ReportedRun(RunFolder(folder), name, _results(RunFolder(folder)))
        for folder, name in zip(folders, names, strict=True)
    ]
    labels = [variant_labels({run.name: run.recipe for run in runs if run.task == one.task})[one.name] for one in runs]
    return [dataclasses.replace(run, variant=label) for run, label in zip(runs, labels, strict=True)]


def by_task(runs: Sequence[ReportedRun]) -> dict[str, list[ReportedRun]]:
    """Runs by task, in the order in which they were given: numbers of two tasks do not belong in one table."""
    return {task: [run for run in runs if run.task == task] for task in dict.fromkeys(run.task for run in runs)}


def by_variant(runs: Sequence[ReportedRun]) -> dict[str, list[ReportedRun]]:
    """Runs of one task by variant."""
    return {name: [run for run in runs if run.variant == name] for name in dict.fromkeys(run.variant for run in runs)}


def _results(folder: RunFolder) -> dict[str, Any]:
    folder.check_finished(folder.results)
    found: dict[str, Any] = json_able(read_values(folder.results, *_KEYS))
    if not found["history"]:
        raise ConfigError(f"{folder.results}: the history is empty, there is no epoch to report; train the run anew")
    run = ReportedRun(folder, folder.path.name, found)
    try:
        _check(run)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{folder.results}: not the results of a run of this version ({reason})") from error
    return found


def _check(run: ReportedRun) -> None:
    """Stumble now over what sections would stumble over later."""
    results, texts = run.results, [run.task, run.recipe["method"], run.metric]
    numbers = [run.seed, results["seconds"], results["best_epoch"], results["largest_difference_after_folding"]]
    numbers += [*run.scores.values(), *results["test"]["as_trained"].values()]
    numbers += [results["parameters"][key] for key in ("as_trained", "folded")]
    numbers += [epoch["epoch"] + 0 for epoch in run.history]  # which are never None
    numbers += [value for epoch in run.history for value in epoch.values()]
    for scores in results.get("test_by_class", {}).values():
        if len(scores) != len(results["classes"]):
            raise ValueError(f"scores of {len(scores)} classes, there are {len(results['classes'])}")
        numbers += scores
    wrong = [value for value in numbers if not isinstance(value, (int, float, type(None)))]
    wrong += [value for value in (*texts, *results["classes"]) if not isinstance(value, str)]
    if wrong or not isinstance(results["versions"], dict):
        raise TypeError(f"{(wrong or [results['versions']])[0]!r} has the wrong type")
