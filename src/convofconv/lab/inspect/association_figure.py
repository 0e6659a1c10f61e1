"""The health of all associations of a network at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from ..association_health import AssociationHealth, LayerHealth
from .layer_rows import COLOURS, GREY, draw_quantiles, layer_rows


def draw_association_health(health: AssociationHealth, title: str = "") -> Figure:
    """Singular values of α per layer, and beside them how far α moves the kernels.

    Args:
        health: of a network.
        title: what the network is.
    """
    layers = health.layers
    figure, (values, changes) = layer_rows([one.layer for one in layers], panels=2)
    # A singular matrix has some at 1e-17: the dot that is left of them at the border says so.
    shown = [one for one in layers if one.singular_values is not None]
    floor = min([0.1, *(q for one in shown for q in _quantiles(one)[:1] if q > 1e-6)]) / 2
    for row, one in enumerate(layers):
        if one.singular_values is None:
            values.text(1, row, one.remark or "no numbers", ha="center", va="center", fontsize=7, color=GREY)
        else:
            quantiles = [max(q, floor) for q in _quantiles(one)]
            draw_quantiles(values, row, quantiles, COLOURS[0])
            if one.smallest is not None and one.smallest < floor:
                values.plot(floor, row, "<", color=COLOURS[1], ms=7, clip_on=False)
        if one.change is not None:
            changes.plot(100 * one.change, row, "o", color=COLOURS[0], ms=5)
    _note_dead(changes, layers)
    values.axvline(1, color=GREY, linestyle=":")
    values.set_xscale("log")
    if shown:
        largest = max(_quantiles(one)[-1] for one in shown)
        values.set_xlim(floor / 1.1, max(2.0, 1.2 * largest))
    values.set_xlabel("singular values of α (log scale): range, quartiles, median\ndotted: the identity; ◂: singular")
    values.set_title("What α amplifies and dampens", fontsize=10)
    changes.set_xlim(left=0)
    changes.set_xlabel("‖α(W) − W‖ / ‖W‖ in %")
    changes.set_title("How far it moves the kernels", fontsize=10)
    figure.suptitle(f"Health of the association{f': {title}' if title else ''}", fontsize=12)
    return figure


def _note_dead(axes: Any, layers: Sequence[LayerHealth]) -> None:
    """Beside the dots of layers with dead groups, on the side where there is room."""
    middle = 50 * max((one.change or 0.0 for one in layers), default=0.0)
    for row, one in enumerate(layers):
        if one.dead_groups:
            place = 100 * (one.change or 0.0)
            side, away = ("right", -8) if place > middle else ("left", 8)
            note = f"{len(one.dead_groups)} of {one.groups} groups dead"
            style = {"ha": side, "va": "center", "fontsize": 8, "color": COLOURS[1]}
            axes.annotate(note, (place, row), (away, 0), textcoords="offset points", **style)


def _quantiles(layer: LayerHealth) -> list[float]:
    found = layer.numbers()["singular_value_quantiles"]
    assert isinstance(found, list)
    return found
