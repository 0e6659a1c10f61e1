"""Whether the folded networks compute what the trained ones do: what ``coc fit`` found when it folded them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..parts.rendering import join
from ..parts.section import Section
from ..parts.tables import digits, note, table
from ..reported_runs import ReportedRun


def section(runs: Sequence[ReportedRun]) -> Section:
    """The largest difference of outputs, and of scores of the whole evaluation."""
    found = {run.name: _found(run) for run in runs}
    rows = [
        [
            name,
            "nothing was converted" if not one["converted"] else "the same",
            digits(one["largest_difference"] if one["converted"] else None, 3),
            digits(one["largest_difference_of_scores"] if one["converted"] else None, 3),
        ]
        for name, one in found.items()
    ]
    heading = ["run", "folded network", "largest difference of outputs, relative", "of scores, points"]
    words = note(
        "coc fit folds the best network into plain convs, compares both on validation images before anything is chosen "
        "from their outputs, and writes no results where the difference exceeds rounding. coc verify RUN repeats it."
    )
    return Section("Folding check", join(table("Trained against folded", heading, rows), words), found)


def _found(run: ReportedRun) -> dict[str, Any]:
    test, parameters = run.results["test"], run.results["parameters"]
    pairs = [(test["as_trained"].get(metric), score) for metric, score in test["folded"].items()]
    differences = [abs(before - after) for before, after in pairs if before is not None and after is not None]
    return {
        "converted": run.recipe["method"] != "plain" or parameters["as_trained"] != parameters["folded"],
        "largest_difference": run.results["largest_difference_after_folding"],
        "largest_difference_of_scores": max(differences, default=None),
    }
