"""The numbers of a study as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..recipe.recipe_files import flat
from .analysis import Analysis, PlannedRun
from .statistics import unpaired

_RUN = (
    *("network", "variant", "seed", "stage", "status", "reason", "tuned"),
    *("metric", "score", "best_epoch", "seconds", "cpu_seconds"),
)
_GROUPS = ("test", "validation", "parameters")
_REST = ("largest_difference_after_folding", "code")
_COMPARISON = (
    *("network", "metric", "variant", "baseline", "pairs"),
    *("difference", "ci95_low", "ci95_high", "p", "p_holm", "family", "p_unpaired"),
    *("d_z", "g_z", "deviation_of_differences", "standard_error", "degrees_of_freedom"),
    *("detectable_difference", "paper_difference"),
)


def runs_csv(analysis: Analysis) -> bytes:
    """A row per run of the study, missing ones too, with every number of its record but the learning curve."""
    rows = [_run(run) for run in analysis.runs]
    numbers = sorted({key for row in rows for key in row} - {*_RUN, *_REST})
    numbers.sort(key=lambda key: _GROUPS.index(key.partition(".")[0]))
    return _csv((*_RUN, *numbers, *_REST), rows)


def comparisons_csv(analysis: Analysis) -> bytes:
    """A row per comparison, with every number of it."""
    rows = []
    for network in analysis.networks:
        for contrast in network.contrasts.values():
            comparison = contrast.comparison
            low, high = comparison.interval or (None, None)
            values = (
                *(network.label, network.metric, contrast.variant, contrast.baseline, comparison.pairs),
                *(comparison.difference, low, high, comparison.p_value, contrast.p_holm, contrast.family),
                unpaired(
                    [list(network.cells[name].scores().values()) for name in (contrast.variant, contrast.baseline)]
                ),
                *(comparison.d_z, comparison.g_z, comparison.deviation, comparison.error, comparison.freedom or None),
                *(contrast.detectable, contrast.paper),
            )
            shown = [f"{value:.6g}" if isinstance(value, float) else value for value in values]
            rows.append(dict(zip(_COMPARISON, shown, strict=True)))
    return _csv(_COMPARISON, rows)


def _run(run: PlannedRun) -> dict[str, Any]:
    record, result = run.record or {}, run.result
    row = {
        **{key: getattr(run, key) for key in ("network", "variant", "seed", "stage", "status")},
        **{key: record.get(key) for key in ("reason", "code")},
        **{key: result.get(key) for key in ("metric", "best_epoch", "seconds", "cpu_seconds", _REST[0])},
        "tuned": json.dumps(run.tuned, sort_keys=True) if run.tuned else None,
        "score": result["test"]["folded"][result["metric"]] if result else None,
    }
    for group in _GROUPS:
        row.update(flat(result.get(group, {}), f"{group}."))
    return row


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
