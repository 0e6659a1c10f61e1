"""The table of the demo: a row per method, over all of its trainings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..studies.formatting import spread
from ..studies.statistics import Summary


@dataclasses.dataclass(frozen=True)
class Row:
    """One method; ``accuracy`` is in per cent, over the seeds."""

    method: str
    accuracy: Summary
    trained_parameters: int
    deployed_parameters: int
    step_seconds: float
    relative_step_time: float
    largest_difference: float


def table(rows: Sequence[Row]) -> str:
    """The rows as text, under two lines of headings."""
    seeds = rows[0].accuracy.n
    lines: list[tuple[str, ...]] = [
        ("", "test accuracy", "parameters", "parameters", "time per", "largest difference"),
        ("method", f"over {seeds} seed{'s' * (seeds > 1)}", "trained", "deployed", "training step", "after folding"),
    ]
    for row in rows:
        lines.append(
            (
                row.method,
                f"{spread(row.accuracy)} %",
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
