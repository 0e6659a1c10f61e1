"""A study small enough for tests, and what they ask of its runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("lightning", reason="needs the extra [lab]")

from convofconv.lab.studies.execution import RunOptions
from convofconv.lab.studies.study import Study, read_study
from convofconv.lab.studies.worker import outcome, run_job

_TINY = {
    "data.limit": 40,
    "training.epochs": 2,
    "training.batch": 20,
    "training.warmup_steps": 0,
    "model.options": {"channels": [8, 8, 8, 8], "stem_type": "deep", "stem_width": 4},
}
#: What differs between two times of the same run.
_TIMES = ("seconds", "cpu_seconds", "versions")


def write_study(folder: Path, **changes: Any) -> Path:
    """A study of two variants on a handful of digits."""
    budget = {
        "about": "A test.",
        "seeds": 1,
        "set": {**_TINY, **changes.pop("set", {})},
        "networks": {"digits": {"recipe": "digits-resnet18"}},
        **changes.pop("budget", {}),
    }
    values = {
        "title": "Tiny",
        "question": "Does it run?",
        "variants": {"plain": {}, "coc": {"method": "coc"}},
        "budgets": {"small": budget},
        **changes,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def tiny_study(folder: Path, **changes: Any) -> Study:
    return read_study(str(write_study(folder, **changes)), "small")


def options_in(folder: Path, **changes: Any) -> RunOptions:
    return RunOptions(results=folder / "results", runs=folder / "runs", **changes)


class Inside:
    """Workers that do their runs in this process, one after the other, for what processes have nothing to do with."""

    def __init__(self, workers: int) -> None:
        pass

    def run(self, folders: Sequence[Path], tick: Callable[[], None]) -> Iterator[tuple[Path, Any]]:
        for folder in folders:
            run_job(folder)
            tick()
            yield folder, outcome(folder)


def timeless(records: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {k: v for k, v in record.items() if k not in _TIMES} for name, record in records.items()}


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


def epochs_done(log: Path) -> int:
    return log.read_bytes().count(b"\n") - 1 if log.exists() else 0
