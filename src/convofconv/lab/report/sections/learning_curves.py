"""How the runs went: training loss and validation metrics by epoch."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from ..parts.headings import heading
from ..parts.line_chart import Line, line_chart
from ..parts.rendering import join
from ..parts.section import Section
from ..parts.tables import folded_away, note
from ..reported_runs import ReportedRun, by_task

_COUNTERS = ("epoch", "step")


def section(runs: Sequence[ReportedRun]) -> Section:
    """Of every task its loss and its main metric; the other metrics and the learning rate are folded away."""
    tasks = by_task(runs)
    parts = [
        part for task, those in tasks.items() for part in [heading(task.replace("_", " "), tasks), *_charts(those)]
    ]
    history = {run.name: [dict(epoch) for epoch in run.history] for run in runs}
    return Section("Learning curves", join(*parts), {"history": history, "gaps": _gaps(runs)})


def _charts(runs: Sequence[ReportedRun]) -> list[Markup]:
    keys = list(dict.fromkeys(key for run in runs for epoch in run.history for key in epoch if key not in _COUNTERS))
    main = [key for key in ("loss", runs[0].metric) if key in keys]
    others = [key for key in keys if key not in main]
    parts = [_chart(key, runs) for key in main]
    if others:
        what = "learning rate" if others == ["lr"] else f"learning rate and {len(others) - 1} other metrics"
        parts.append(folded_away(f"More curves: {what}", *(_chart(key, runs) for key in others)))
    gaps = [f"{name}: {key} in epoch {', '.join(map(str, epochs))}" for name, key, epochs in _each_gap(runs)]
    return parts + ([note(f"No finite number, so that the curves have gaps: {'; '.join(gaps)}.")] if gaps else [])


def _chart(key: str, runs: Sequence[ReportedRun]) -> Markup:
    titles = {"loss": ("Training loss", "loss"), "lr": ("Learning rate of the last step", "learning rate")}
    title, y_label = titles.get(key, (f"Validation: {key}", f"{key}, %"))
    lines = [
        Line(run.name, run.variant, {epoch["epoch"]: epoch.get(key) for epoch in run.history})
        for run in runs
        if any(key in epoch for epoch in run.history)
    ]
    return line_chart(title, lines, "epoch", y_label)


def _gaps(runs: Sequence[ReportedRun]) -> list[dict[str, object]]:
    return [{"run": name, "metric": key, "epochs": epochs} for name, key, epochs in _each_gap(runs)]


def _each_gap(runs: Sequence[ReportedRun]) -> list[tuple[str, str, list[int]]]:
    """Runs, metrics and the epochs in which they are no number."""
    found: dict[tuple[str, str], list[int]] = {}
    for run in runs:
        for epoch in run.history:
            for key, value in epoch.items():
                if value is None:
                    found.setdefault((run.name, key), []).append(epoch["epoch"])
    return [(*place, epochs) for place, epochs in found.items()]
