"""What the runs took: time, epochs and parameters."""

from __future__ import annotations

from collections.abc import Sequence

from ...progress import duration
from ..parts.section import Section
from ..parts.tables import NOTHING, digits, table
from ..reported_runs import ReportedRun


def section(runs: Sequence[ReportedRun]) -> Section:
    """Times of whole runs, evaluation after every epoch included."""
    heading = ["run", "device", "time", "CPU time", "per epoch", "parameters in training", "after folding"]
    rows, numbers = [], {}
    for run in runs:
        found = run.results
        seconds, cpu_seconds, epochs = found["seconds"], found.get("cpu_seconds"), len(run.history)
        parameters = found["parameters"]
        rows.append(
            [
                run.name,
                found["device"],
                _time(seconds),
                _time(cpu_seconds),
                NOTHING if seconds is None else f"{digits(seconds / epochs, 3)} s",
                f"{parameters['as_trained']:,}",
                f"{parameters['folded']:,}",
            ]
        )
        numbers[run.name] = {
            "device": found["device"],
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "epochs": epochs,
            "parameters": dict(parameters),
        }
    return Section("Time and parameters", table("What every run took, evaluation included", heading, rows), numbers)


def _time(seconds: float | None) -> str:
    return NOTHING if seconds is None else duration(seconds)
