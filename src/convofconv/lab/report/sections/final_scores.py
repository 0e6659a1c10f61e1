"""What the runs have reached: scores of the folded networks, with the spread over seeds, and by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from ...studies.formatting import points, spread
from ...studies.statistics import Summary, summarize
from ..parts.headings import heading
from ..parts.rendering import join
from ..parts.section import Section
from ..parts.tables import folded_away, note, table
from ..reported_runs import ReportedRun, by_task, by_variant


def section(runs: Sequence[ReportedRun]) -> Section:
    """A table per task, and one per metric that is known by class."""
    tasks = by_task(runs)
    parts: list[Markup] = [
        note("Scores of the folded networks of the best epochs, in per cent; ± is the standard deviation over seeds.")
    ]
    for task, those in tasks.items():
        parts += [heading(task.replace("_", " "), tasks), _scores(those), *_by_class(those)]
    numbers = {
        "runs": {run.name: dict(run.scores) for run in runs},
        "over_seeds": {
            task: {
                name: {metric: _plain(_summary(seeds, metric)) for metric in _metrics(those)}
                for name, seeds in _repeated(those).items()
            }
            for task, those in tasks.items()
        },
        "by_class": {run.name: _class_scores(run) for run in runs},
    }
    return Section("Results", join(*parts), numbers)


def _scores(runs: Sequence[ReportedRun]) -> Markup:
    metrics = _metrics(runs)
    rows = [
        [run.name, run.variant, str(run.seed), f"{run.results['best_epoch']} of {len(run.history)}"]
        + [points(run.scores.get(metric)) for metric in metrics]
        for run in runs
    ]
    repeated = _repeated(runs)
    rows += [
        [f"{name}: mean of {len(seeds)}", name, "", "", *(spread(_summary(seeds, metric)) for metric in metrics)]
        for name, seeds in repeated.items()
    ]
    summaries = range(len(runs), len(rows))
    caption = f"Scores, %; {runs[0].metric} chose the best epoch"
    return table(caption, ["run", "variant", "seed", "best epoch", *metrics], rows, summaries=summaries)


def _by_class(runs: Sequence[ReportedRun]) -> list[Markup]:
    """A table per metric, of the classes that any run has a score of."""
    parts = []
    scores = {run.name: _class_scores(run) for run in runs}
    for metric in dict.fromkeys(metric for one in scores.values() for metric in one):
        classes = list(dict.fromkeys(label for one in scores.values() for label in one.get(metric, {})))
        rows = [[label, *(points(scores[run.name].get(metric, {}).get(label)) for run in runs)] for label in classes]
        shown = table(f"{metric} by class, %", ["class", *(run.name for run in runs)], rows)
        parts.append(folded_away(f"{metric} of {len(classes)} classes", shown))
    return parts


def _class_scores(run: ReportedRun) -> dict[str, dict[str, float | None]]:
    """By metric and class, without classes that have no score."""
    labels = run.results["classes"]
    return {
        metric: {label: score for label, score in zip(labels, scores, strict=True) if score is not None}
        for metric, scores in run.results.get("test_by_class", {}).items()
    }


def _metrics(runs: Sequence[ReportedRun]) -> list[str]:
    return list(dict.fromkeys(metric for run in runs for metric in run.scores))


def _repeated(runs: Sequence[ReportedRun]) -> dict[str, list[ReportedRun]]:
    """Variants of several runs."""
    return {name: seeds for name, seeds in by_variant(runs).items() if len(seeds) > 1}


def _summary(runs: Sequence[ReportedRun], metric: str) -> Summary:
    return summarize([score for run in runs if (score := run.scores.get(metric)) is not None])


def _plain(summary: Summary) -> dict[str, Any]:
    interval = list(summary.interval) if summary.interval else None
    return {"n": summary.n, "mean": summary.mean, "deviation": summary.deviation, "interval": interval}
