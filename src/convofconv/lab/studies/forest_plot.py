"""What a method adds on every network that it was measured on: a forest plot and a table, across studies."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping

from matplotlib.figure import Figure

from .analysis import Contrast
from .figures import BLUE, GREY, LINE
from .formatting import between, points
from .statistics import average

#: By question, a comparison on each network that was measured; networks are named by their study and label.
Answers = Mapping[str, Mapping[str, Contrast]]
#: Networks with fewer pairs of runs are left out: one run would decide the mean, and the interval of two is so wide
#: that nothing beside it could be read.
FEWEST = 3
#: Letters in a line above a panel, and panels in a row.
_WIDTH, _COLUMNS = 28, 4


def draw_forest_plot(answers: Answers) -> Figure:
    """A panel per question, a row per network: mean difference and its 95 % confidence interval, and their mean."""
    networks = list(dict.fromkeys(name for found in answers.values() for name in found))
    columns = min(_COLUMNS, len(answers))
    rows = -(-len(answers) // columns)
    size = (2.4 + 2.2 * columns, rows * (1.3 + LINE * (len(networks) + 1)))
    figure = Figure(figsize=size, layout="constrained")
    # One scale, so that a panel of small differences looks small.
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axes in panels[len(answers) :]:
        axes.set_axis_off()
    for axes, (question, found) in zip(panels, answers.items(), strict=False):
        for name, contrast in found.items():
            comparison, row = contrast.comparison, networks.index(name)
            if comparison.interval:
                axes.plot(comparison.interval, [row, row], color=BLUE, lw=1.5)
            axes.plot(comparison.difference, row, "o", color=BLUE, ms=5)
        overall = average([contrast.comparison for contrast in found.values()])
        if overall.interval:
            axes.plot(overall.interval, [len(networks)] * 2, color="black", lw=1.5)
        if overall.n > 1:
            axes.plot(overall.mean, len(networks), "D", color="black", ms=6)
        axes.axvline(0, color=GREY, linestyle=":")
        axes.set_title("\n".join(textwrap.wrap(question, _WIDTH) + textwrap.wrap(_named(found), _WIDTH)), fontsize=9)
        axes.set_xlabel("points", fontsize=9)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8, labelbottom=True)
    panels[0].set_yticks(range(len(networks) + 1), [*networks, "mean of networks"])
    panels[0].set_ylim(len(networks) + 0.5, -0.5)
    return figure


def tabulate(answers: Answers) -> str:
    """A row per question: mean and median over networks, how sure the mean is, and on how many it is positive."""
    heading = "| | difference | networks | mean | 95 % CI over networks | median | positive on |"
    lines = [heading, "|---|---|---|---|---|---|---|"]
    for question, found in answers.items():
        comparisons = [contrast.comparison for contrast in found.values()]
        overall = average(comparisons)
        mean, sure = points(overall.mean, sign=True), between(overall.interval, sign=True)
        above = f"{sum((comparison.difference or 0.0) > 0 for comparison in comparisons)} of {overall.n}"
        middle = points(statistics.median(comparison.difference or 0.0 for comparison in comparisons), sign=True)
        lines.append(f"| {question} | {_named(found)} | {overall.n} | {mean} | {sure} | {middle} | {above} |")
    return "\n".join(lines)


def _named(found: Mapping[str, Contrast]) -> str:
    variants, baselines = (
        " or ".join(dict.fromkeys(getattr(contrast, name) for contrast in found.values()))
        for name in ("variant", "baseline")
    )
    return f"{variants} − {baselines}"
