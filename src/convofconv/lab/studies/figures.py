"""The figures of a study: scores, hyper-parameter curves, learning curves, and gain against cost."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from ..plots import whole_epochs
from .analysis import CLOCKS, PLAIN, Analysis, Cell, Network
from .statistics import Summary
from .study import Study

GREY = "#555555"
_PAPER = "#999999"
_PAPER_LABEL = "paper: difference to its plain, from ours"
BLUE = "#0072B2"
#: Inches per line of text.
LINE = 0.3
_MOST_COLUMNS = 3

#: The figures by name.
CAPTIONS = {
    "scores": "Scores: a small dot per seed, mean and 95 % confidence interval per variant; dotted: mean of plain. "
    "Here and below, intervals of few seeds may leave the frame.",
    "curves": "Hyper-parameters: mean and 95 % confidence interval; dotted: mean of plain. Grey: what the paper's "
    "variants differ from its plain network by, drawn from our plain network.",
    "learning": "Learning curves: validation metric per epoch, mean over seeds in a band of one standard deviation, "
    "plain in grey; then what each variant differs from plain by, paired by seed.",
    "cost": "What a variant gains over plain and what its training takes: means and 95 % confidence intervals, paired "
    "by seed.",
}
#: What is added to the captions of scores and curves where one model of all runs gives means and intervals.
ADJUSTED = (
    "Means are adjusted for seeds that a variant lacks, and intervals leave out what a seed does to all variants: two "
    "variants differ, before any correction, if they are further apart than √2 times an interval's half."
)


def draw(name: str, analysis: Analysis) -> Figure | None:
    """Draw one of :data:`CAPTIONS`; ``None`` where nothing that it shows is done, or the study has no such figure."""
    networks = [net for net in analysis.networks if any(cell.results for cell in net.cells.values())]
    if name == "curves" and not analysis.study.curves:
        return None
    return _DRAW[name](analysis.study, networks) if networks else None


def encode(figure: Figure, ending: str) -> bytes:
    """The figure as ``"png"`` or ``"svg"``: the same figure, the same bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "convofconv"}):  # otherwise names in the file are drawn by chance
        figure.savefig(buffer, format=ending, dpi=130, metadata={"Date": None} if ending == "svg" else {})
    return _numbered(buffer.getvalue()) if ending == "svg" else buffer.getvalue()


def _numbered(svg: bytes) -> bytes:
    """Frames are named by the last bits of where they are, which the layout does not repeat: by their order instead."""
    names: dict[bytes, bytes] = {}
    return re.sub(rb"\bp[0-9a-f]{10}\b", lambda name: names.setdefault(name[0], b"frame%d" % len(names)), svg)


def _panels(networks: Sequence[Network], width: float, height: float) -> tuple[Figure, list[Any]]:
    """A figure with a panel per network."""
    rows = -(-len(networks) // _MOST_COLUMNS)
    columns = -(-len(networks) // rows)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in panels[len(networks) :]:
        unused.set_axis_off()
    for axes, network in zip(panels, networks, strict=False):
        axes.set_title(network.label)
        axes.grid(alpha=0.3)
    return figure, panels[: len(networks)]


def _shown(network: Network) -> list[Cell]:
    """Cells with results."""
    return [cell for cell in network.cells.values() if cell.results]


def _plain_mean(network: Network) -> float | None:
    return network.mean(PLAIN).mean if PLAIN in network.cells else None


def _half_width(mean: Summary) -> float:
    """Half the confidence interval; not a number where there is none, which draws none."""
    return float("nan") if mean.interval is None else (mean.interval[1] - mean.interval[0]) / 2


def _around(values: Iterable[float], margin: float) -> tuple[float, float]:
    """Limits of an axis: the range of some values and a margin. Intervals of few seeds would make all else small."""
    found = list(values)
    gap = margin * ((max(found) - min(found)) or 1.0)
    return min(found) - gap, max(found) + gap


def _scores(study: Study, networks: Sequence[Network]) -> Figure:
    most = max(len(_shown(network)) for network in networks)
    figure, panels = _panels(networks, width=6, height=1.2 + LINE * most)
    for axes, network in zip(panels, networks, strict=True):
        cells = _shown(network)
        for place, cell in enumerate(cells):
            colour = GREY if cell.variant == PLAIN else BLUE
            scores, mean = list(cell.scores().values()), network.mean(cell.variant)
            axes.plot(scores, [place + 0.25] * len(scores), "o", color=colour, ms=4, alpha=0.5, markeredgewidth=0)
            if mean.mean is not None:
                axes.errorbar(mean.mean, place, xerr=_half_width(mean), fmt="D", color=colour, markersize=5, capsize=3)
        if (plain := _plain_mean(network)) is not None:
            axes.axvline(plain, color=GREY, linestyle=":")
        axes.set_yticks(range(len(cells)), [cell.variant for cell in cells])
        axes.set_ylim(len(cells) - 0.5, -0.5)
        means = (found for cell in cells if (found := network.mean(cell.variant).mean) is not None)
        axes.set_xlim(_around((*means, *(score for cell in cells for score in cell.scores().values())), margin=0.1))
        axes.set_xlabel(f"{network.metric}, %")
    return figure


def _curves(study: Study, networks: Sequence[Network]) -> Figure:
    """A row of panels per network: one per curve, and one with the variants in no curve."""
    titles = {title: list(points.items()) for title, points in study.curves.items()}
    on_curves = {name for points in titles.values() for _, name in points}
    alone = [name for name in study.variants if name not in on_curves and name != PLAIN]
    if alone:
        titles["others"] = [(name, name) for name in alone]
    widths = [0.7 + 0.38 * len(points) for points in titles.values()]
    figure = Figure(figsize=(1.2 + sum(widths), 3.4 * len(networks) + 0.6), layout="constrained")
    rows = figure.subplots(len(networks), len(titles), squeeze=False, sharex="col", sharey="row", width_ratios=widths)
    for row, network in zip(rows, networks, strict=True):
        row[0].set_ylabel(f"{network.label}\n{network.metric}, %")
        for axes, (title, points) in zip(row, titles.items(), strict=True):
            _curve(axes, network, title, points, joined=title in study.curves)
        row[0].set_ylim(_around(_heights(network, titles), margin=0.1))
    for axes, title in zip(rows[0], titles, strict=True):
        axes.set_title(title, fontsize=10)
    _legend(figure, list(rows.flat), loc="outside lower center", ncols=3)
    return figure


def _heights(network: Network, curves: Mapping[str, Sequence[tuple[str, str]]]) -> Iterator[float]:
    """All scores and means and all of the paper's points that curves show, plain included."""
    for name in {PLAIN, *(name for points in curves.values() for _, name in points)} & set(network.cells):
        yield from network.cells[name].scores().values()
        if (mean := network.mean(name).mean) is not None:  # adjusted for seeds that it lacks, beside all scores
            yield mean
    for title, points in curves.items():
        yield from (height for height in _papers(network, title, points) if not math.isnan(height))


def _papers(network: Network, title: str, points: Sequence[tuple[str, str]]) -> list[float]:
    """The paper's points of a curve, some of them on this curve alone: by their difference to its plain, from ours."""
    plain, theirs = _plain_mean(network), network.paper
    if plain is None or PLAIN not in theirs:
        return [math.nan] * len(points)
    values = (theirs.get(f"{title}/{x}", theirs.get(name, math.nan)) for x, name in points)
    return [plain + value - theirs[PLAIN] for value in values]


def _legend(figure: Figure, panels: Sequence[Any], **where: Any) -> None:
    """One legend for all panels."""
    named = [pair for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles = {label: handle for handle, label in named}
    figure.legend(handles.values(), handles, **where)


def _curve(axes: Any, network: Network, title: str, points: Sequence[tuple[str, str]], joined: bool) -> None:
    plain = _plain_mean(network)
    if plain is not None:
        axes.axhline(plain, color=GREY, linestyle=":", label=PLAIN)
        if PLAIN in network.paper:
            style = "s-" if joined else "s"
            axes.plot(
                range(len(points)), _papers(network, title, points), style, color=_PAPER, ms=6, label=_PAPER_LABEL
            )
    cells = network.cells
    found = [x for x, (_, name) in enumerate(points) if name in cells and network.mean(name).mean is not None]
    if found:
        summaries = [network.mean(points[x][1]) for x in found]
        means = np.array([summary.mean for summary in summaries])
        if not joined and plain is not None:  # bars begin at plain: at zero they would all look the same
            axes.bar(found, means - plain, 0.6, plain, color=BLUE, alpha=0.3)
        style, reach = "o-" if joined else "o", [_half_width(summary) for summary in summaries]
        axes.errorbar(found, means, reach, fmt=style, color=BLUE, ms=5, capsize=3, label="this study")
    axes.set_xticks(range(len(points)), [x for x, _ in points], rotation=0 if joined else 90)
    axes.set_xlim(-0.5, len(points) - 0.5)
    axes.grid(alpha=0.3)


def _learning(study: Study, networks: Sequence[Network]) -> Figure:
    """A block per network: all variants in one panel, then each one's difference to plain, which is small."""
    most = max(len(_others(network)) + 1 for network in networks)
    columns = max(2, -(-most // -(-most // 7)))
    rows = [-(-(len(_others(network)) + 1) // columns) for network in networks]
    figure = Figure(figsize=(0.6 + 2.2 * columns, 0.3 + 2.1 * sum(rows) + 0.5 * len(rows)), layout="constrained")
    blocks = figure.subfigures(len(networks), 1, squeeze=False, height_ratios=[0.5 + 2.1 * count for count in rows])
    for block, count, network in zip(blocks.flat, rows, networks, strict=True):
        block.suptitle(network.label)
        block.supxlabel("epoch", fontsize=9)
        panels = list(block.subplots(count, columns, squeeze=False, sharex=True).flat)
        _learning_panels(panels, network)
    return figure


def _others(network: Network) -> list[Cell]:
    return [cell for cell in _shown(network) if cell.variant != PLAIN]


def _learning_panels(panels: Sequence[Any], network: Network) -> None:
    plain = network.cells.get(PLAIN)
    first, *rest = panels
    for cell in _others(network):
        _band(first, cell.learning(), BLUE)
    if plain:
        _band(first, plain.learning(), GREY)
    first.set_title("all variants", fontsize=9)
    first.set_ylabel(f"validation {network.metric}, %", fontsize=9)
    whole_epochs(first)
    for axes, cell in zip(rest, _others(network), strict=False):
        if axes is not rest[0]:
            axes.sharey(rest[0])
        _band(axes, cell.learning(plain), BLUE)
        axes.set_title(cell.variant, fontsize=9)
        if plain:
            axes.axhline(0, color=GREY, linestyle=":")
    rest[0].set_ylabel(f"− {PLAIN}, points" if plain else f"validation {network.metric}, %", fontsize=9)
    for number, axes in enumerate(panels):
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8, labelbottom=True)
        if number > len(_others(network)):
            axes.set_axis_off()


def _band(axes: Any, epochs: Mapping[int, Summary], colour: str) -> None:
    """The mean in a band of one standard deviation; of one epoch, a point and a bar."""
    mean = np.array([summary.mean for summary in epochs.values()])
    spread = np.array([summary.deviation or 0.0 for summary in epochs.values()])
    if len(epochs) == 1:
        axes.errorbar(list(epochs), mean, spread, color=colour, fmt="o", ms=4, lw=1.2)
        return
    axes.plot(list(epochs), mean, color=colour, lw=1.2)
    axes.fill_between(list(epochs), mean - spread, mean + spread, color=colour, alpha=0.2, lw=0)


def _gains(network: Network) -> list[tuple[str, float, float]]:
    """Variants with their relative training time and their gain over plain, as far as there are both."""
    found = []
    for name in network.cells:
        cost, gain = network.cost(name).mean, network.gain(name).difference
        if name != PLAIN and cost is not None and gain is not None:
            found.append((name, cost, gain))
    return found


def _cost(study: Study, networks: Sequence[Network]) -> Figure | None:
    """A panel per network, two in a row."""
    networks = [network for network in networks if _gains(network)]
    if not networks:
        return None
    columns = min(2, len(networks))
    rows = -(-len(networks) // columns)
    height = max(3.6, 1.4 + LINE * max(len(_gains(network)) for network in networks))
    figure = Figure(figsize=(6 * columns, height * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, network in zip(panels, networks, strict=False):
        axes.set_title(network.label)
        axes.set_xlabel(f"training {CLOCKS[network.clock]}, × {PLAIN}")
        axes.set_ylabel(f"gain over {PLAIN}, points of {network.metric}")
        _cost_panel(axes, network)
        _name_points(axes, [*_gains(network), (PLAIN, 1.0, 0.0)], gap=0.19 / (height - 1.2))
    for axes in panels[len(networks) :]:
        axes.set_axis_off()
    return figure


def _cost_panel(axes: Any, network: Network) -> None:
    for name, cost, gain in _gains(network):
        low, high = network.gain(name).interval or (gain, gain)
        left, right = network.cost(name).interval or (cost, cost)
        axes.plot([left, right], [gain, gain], color=BLUE, alpha=0.25, lw=1)
        axes.plot([cost, cost], [low, high], color=BLUE, alpha=0.25, lw=1)
        axes.plot(cost, gain, "o", color=BLUE, markersize=5)
    axes.plot(1, 0, "s", color=GREY, markersize=6)
    axes.axhline(0, color=GREY, linestyle=":")
    axes.set_xlim(_around([1.0, *(cost for _, cost, _ in _gains(network))], margin=0.3))
    axes.set_ylim(_around([0.0, *(gain for _, _, gain in _gains(network))], margin=0.3))
    axes.grid(alpha=0.3)


def _name_points(axes: Any, points: Sequence[tuple[str, float, float]], gap: float) -> None:
    """Write the points' names in a column to the right of the axes, a line to each, at least ``gap`` of them apart."""
    bottom, top = axes.get_ylim()
    points = sorted(points, key=lambda point: point[2])
    heights = [(y - bottom) / (top - bottom) for _, _, y in points]
    for (name, x, y), height in zip(points, spread_out(heights, gap), strict=True):
        axes.annotate(
            name,
            xy=(x, y),
            xytext=(1.03, height),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=GREY if name == PLAIN else "black",
            arrowprops={"arrowstyle": "-", "relpos": (0, 0.5), "color": _PAPER, "lw": 0.5, "shrinkA": 0, "shrinkB": 3},
        )


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """The places nearest to ascending ones in [0, 1], by least squares, that are at least ``gap`` apart, if they fit.

    Examples:
        >>> [round(place, 3) for place in spread_out([0.2, 0.5, 0.5], 0.1)]
        [0.2, 0.45, 0.55]
    """
    steps = gap * np.arange(len(places))
    free = isotonic_regression(np.asarray(places) - steps).x
    return list((np.clip(free, 0.0, max(0.0, 1.0 - steps[-1])) + steps).tolist())


_DRAW: dict[str, Callable[[Study, Sequence[Network]], Figure | None]] = {
    "scores": _scores,
    "curves": _curves,
    "learning": _learning,
    "cost": _cost,
}
