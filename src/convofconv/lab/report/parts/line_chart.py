"""Curves by plotly: values on hover, one colour per group, mean and spread where a group has several; numbers below."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from .rendering import render
from .tables import digits, folded_away, table

#: Seen on white as on black (a contrast of 3 at least), and told apart by the colour-blind; dashes tell them apart too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7A7A7A", "#8F7700")
#: Letters in a line of what is shown on hover.
_LONGEST = 36
#: Points of a line that are marked; more would hide it.
_MARKED = 60
#: By which a chart is found on a page.
CHART = '<figure class="chart">'
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
#: The same as lengths for the legend.
_STROKES = ("none", "6 3", "2 2", "6 2 2 2", "9 3", "9 2 2 2")


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve.

    Args:
        name: of what it belongs to, a run for example.
        group: what it shares a colour with, the runs that differ by seed alone for example.
        points: values by their place on the x-axis, which rises; ``None`` or what is not finite leaves a gap.
    """

    name: str
    group: str
    points: Mapping[float, float | None]


def line_chart(title: str, lines: Sequence[Line], x_label: str, y_label: str) -> Markup:
    """A chart of curves with a legend that shows and hides groups, and a table of its numbers.

    Of a group with several lines, each is thin, their mean is thick, and the band around it is one standard deviation.

    Args:
        title: its heading.
        lines: in the order of the legend.
        x_label: what the x-axis has.
        y_label: what the y-axis has, with its unit.
    """
    groups = list(dict.fromkeys(line.group for line in lines))
    figure = go.Figure(layout=_layout(x_label, y_label, lines))
    for number, group in enumerate(groups):
        for trace in _traces([line for line in lines if line.group == group], number, x_label):
            figure.add_trace(trace)
    legend = [{"name": group, "colour": _colour(i), "stroke": _STROKES[_dash(i)]} for i, group in enumerate(groups)]
    places = sorted({place for line in lines for place in line.points})
    rows = [[f"{place:g}", *(digits(_finite(line.points.get(place)), 6) for line in lines)] for place in places]
    numbers = table(f"{title}: {y_label} by {x_label}", [x_label, *(line.name for line in lines)], rows)
    return render(
        "chart.html",
        title=title,
        description=_description(title, lines, x_label, y_label),
        legend=legend,
        # By way of text: plotly's own types become JSON's.
        figure=json.loads(figure.to_json()),
        numbers=folded_away("The numbers of this chart", numbers),
    )


def _traces(lines: Sequence[Line], number: int, x_label: str) -> Iterator[go.Scatter]:
    """The mean's band first, for what comes later is drawn above."""
    alone = len(lines) == 1
    style = {"color": _colour(number), "dash": _DASHES[_dash(number)]}
    band = {} if alone else _band(lines)
    if band:
        xs, low, high = list(band), [m - s for m, s in band.values()], [m + s for m, s in band.values()]
        yield go.Scatter(
            x=xs + xs[::-1],
            y=high + low[::-1],
            mode="lines",
            fill="toself",
            fillcolor=_colour(number),
            opacity=0.2,
            line={"width": 0},
            hoverinfo="skip",
            legendgroup=str(number),
        )
    for line in lines:
        finite = [_finite(value) for value in line.points.values()]
        yield go.Scatter(
            x=list(line.points),
            y=finite,
            mode="lines+markers" if len(line.points) <= (_MARKED if alone else 1) else "lines",
            line={**style, "width": 2} if alone else {"color": _colour(number), "width": 1},
            marker={"size": 5},
            opacity=1 if alone else 0.6,
            meta=_wrapped(line.name),
            hovertemplate=_on_hover(x_label, "%{y:.6~g}"),
            legendgroup=str(number),
        )
    if band:
        means = [mean for mean, _ in band.values()]
        yield go.Scatter(
            x=list(band),
            y=means,
            mode="lines",
            line={**style, "width": 3},
            customdata=[spread for _, spread in band.values()],
            meta=_wrapped(f"{lines[0].group}, mean of {len(lines)}"),
            hovertemplate=_on_hover(x_label, "%{y:.6~g} ± %{customdata:.2~g}"),
            legendgroup=str(number),
        )


def _on_hover(x_label: str, value: str) -> str:
    """The name is no part of the template, which would take what is in it for its own."""
    return f"<b>%{{meta}}</b><br>{html.escape(x_label, quote=False)} %{{x}}: {value}<extra></extra>"


def _wrapped(name: str) -> str:
    """A name in lines that a phone has room for, in what plotly takes for HTML."""
    lines = textwrap.wrap(name, _LONGEST, break_on_hyphens=False)
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def _band(lines: Sequence[Line]) -> dict[float, tuple[float, float]]:
    """Mean and standard deviation where all lines have a number."""
    found = {}
    for place in lines[0].points:
        values = [value for line in lines if (value := _finite(line.points.get(place))) is not None]
        if len(values) == len(lines):
            found[place] = (statistics.fmean(values), statistics.stdev(values))
    return found


def _layout(x_label: str, y_label: str, lines: Sequence[Line]) -> dict[str, Any]:
    """Without a background, and with colours that page.css changes to those of the page."""
    axis = {"showgrid": True, "zeroline": False, "automargin": True, "fixedrange": True}
    places = {place for line in lines for place in line.points}
    # Whole epochs alone, also where there are few.
    steps = {"dtick": 1} if len(places) <= 8 and all(float(place).is_integer() for place in places) else {}
    return {
        "template": "none",
        "height": 320,
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "hovermode": "closest",
        "dragmode": False,  # a finger that moves over the chart scrolls the page
        "xaxis": {**axis, **steps, "title": {"text": html.escape(x_label, quote=False)}},
        "yaxis": {**axis, "title": {"text": html.escape(y_label, quote=False)}},
    }


def _description(title: str, lines: Sequence[Line], x_label: str, y_label: str) -> str:
    """What those hear who do not see the chart."""
    ends = []
    for line in lines:
        values = [value for value in map(_finite, line.points.values()) if value is not None]
        ends.append(f"{line.name} from {digits(values[0])} to {digits(values[-1])}" if values else f"{line.name}: none")
    return f"Line chart: {title}, {y_label} by {x_label}. {'; '.join(ends)}."


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _dash(number: int) -> int:
    """Another dash from one colour to the next, and again from one round of the colours to the next."""
    return (number + number // len(COLOURS)) % len(_DASHES)
