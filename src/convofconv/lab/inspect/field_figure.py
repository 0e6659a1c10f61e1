"""Receptive fields side by side: the effective map of every network and layer, and the squares of both fields."""

from __future__ import annotations

from typing import Any

from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ...errors import ConfigError
from .field_comparison import FieldTable, SeedFields
from .theoretical_field import TheoreticalField

#: Colours that people with any kind of colour blindness tell apart, also on dark maps.
EFFECTIVE, THEORETICAL = "#56B4E9", "#E69F00"
_LEAST = 1e-4  # of the peak; what is below is drawn as this


def draw_fields(table: FieldTable) -> Figure:
    """Draw effective fields, a row per layer and a column per network, each over its peak, on one logarithmic scale.

    A solid square is as large as the effective field; a dashed one is the theoretical field, cut off at the image.

    Args:
        table: from :func:`.field_comparison.compare_fields`.

    Raises:
        ConfigError: there is nothing to draw.
    """
    if not table or not all(table.values()):
        raise ConfigError("there are no receptive fields to draw")
    layers = list(next(iter(table.values())))
    first = next(iter(table.values()))[layers[0]].fields[0]
    width = max(3.0, 0.09 * max(len(layer) for layer in layers))
    size = max(4.5, width * len(table) + 1.4), 3.45 * len(layers) + 1.5
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(layers), len(table), squeeze=False)
    noun = "image" if first.images == 1 else "images"
    figure.suptitle(f"Effective receptive fields\nmean |∂y/∂x| of the centre unit, {first.images} {noun}")
    for row, layer in zip(panels, layers, strict=True):
        for axes, (name, fields) in zip(row, table.items(), strict=True):
            drawn = _draw_field(axes, fields[layer])
            axes.set_title(f"{name}, {layer}{_seeds(fields[layer])}\n{sizes_line(fields[layer])}", fontsize=9)
        row[0].set_ylabel("row, px")
        figure.colorbar(drawn, ax=list(row), shrink=0.8, label="share of the peak", extend="min")
    for axes in panels[-1]:
        axes.set_xlabel("column, px")
    add_legend(figure)
    return figure


def sizes_line(fields: SeedFields) -> str:
    """Both sizes in words, with the interval."""
    interval, clipped = fields.interval, any(field.clipped for field in fields.fields)
    half = f" ± {(interval[1] - interval[0]) / 2:.0f}" if interval else ""
    least = "at least " if clipped else ""
    return f"effective {least}{fields.size:.0f}{half} px\ntheoretical {fields.fields[0].theoretical}"


def field_squares(axes: Any, centre: tuple[float, float], effective: float, theoretical: TheoreticalField) -> None:
    """Add the squares of both fields to an image, cut off at its edges.

    Args:
        axes: matplotlib's, with the image.
        centre: column and row, in pixels.
        effective: size, in pixels.
        theoretical: drawn as the frame of the image where it is all of it.
    """
    styles = ((theoretical.height, theoretical.width, THEORETICAL, "--"), (effective, effective, EFFECTIVE, "-"))
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for height, width, colour, style in styles:
        x = [max(left, centre[0] - width / 2), min(right, centre[0] + width / 2)]
        y = [max(top, centre[1] - height / 2), min(bottom, centre[1] + height / 2)]  # rows are counted downwards
        for lines, under in ((3.2, "black"), (1.6, colour)):  # readable on any map
            axes.add_patch(Rectangle((x[0], y[0]), x[1] - x[0], y[1] - y[0], fill=False, ec=under, ls=style, lw=lines))


def add_legend(figure: Figure) -> None:
    """Say below a figure what the squares mean, in two lines where it is narrow."""
    handles = [
        Line2D([], [], color=EFFECTIVE, label="effective field (above 4.55 % of the peak)"),
        Line2D([], [], color=THEORETICAL, linestyle="--", label="theoretical field, cut off at the image"),
    ]
    columns = 2 if figure.get_figwidth() > 7 else 1
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _seeds(fields: SeedFields) -> str:
    return f", {len(fields.fields)} seeds" if len(fields.fields) > 1 else ""


def _draw_field(axes: Any, fields: SeedFields) -> Any:
    map = fields.map.clamp_min(_LEAST).numpy()
    height, width = map.shape
    drawn = axes.imshow(map, cmap="inferno", norm=LogNorm(_LEAST, 1.0))
    axes.set_facecolor("black")
    field_squares(axes, (width / 2 - 0.5, height / 2 - 0.5), fields.size, fields.fields[0].theoretical)
    return drawn
