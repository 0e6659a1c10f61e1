"""The table of the demo: a row per method, over all of its trainings."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from .training import Run


@dataclasses.dataclass(frozen=True)
class Row:
    """One method; accuracies are fractions, the deviation (over the seeds, unbiased) is ``None`` for a single seed."""

    method: str
    accuracy_mean: float
    accuracy_std: float | None
    trained_parameters: int
    deployed_parameters: int
    step_seconds: float
    relative_step_time: float
    largest_difference: float


def summarize(runs: Sequence[Run], step_seconds: Mapping[str, float]) -> list[Row]:
    """One row per method, in the order of the runs; ``step_seconds`` has an entry for ``"plain"`` too."""
    rows = []
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        accuracies = [run.accuracy[-1] for run in own]
        rows.append(
            Row(
                method,
                accuracy_mean=statistics.mean(accuracies),
                accuracy_std=statistics.stdev(accuracies) if len(own) > 1 else None,
                trained_parameters=own[0].trained_parameters,
                deployed_parameters=own[0].deployed_parameters,
                step_seconds=step_seconds[method],
                relative_step_time=step_seconds[method] / step_seconds["plain"],
                largest_difference=max(run.difference for run in own),
            )
        )
    return rows


def table(rows: Sequence[Row], seeds: int) -> str:
    """Write the rows out; ``seeds`` is the number of trainings behind each."""
    lines: list[tuple[str, ...]] = [
        ("", "test accuracy", "parameters", "parameters", "time per", "largest difference"),
        ("method", f"over {seeds} seed{'s' * (seeds > 1)}", "trained", "deployed", "training step", "after folding"),
    ]
    for row in rows:
        spread = "" if row.accuracy_std is None else f" ± {100 * row.accuracy_std:.2f}"
        lines.append(
            (
                row.method,
                f"{100 * row.accuracy_mean:.2f}{spread} %",
                f"{row.trained_parameters:,}",
                f"{row.deployed_parameters:,}",
                f"{row.relative_step_time:.2f} × plain",
                f"{row.largest_difference:.1e}" if row.largest_difference else "0",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(2, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
