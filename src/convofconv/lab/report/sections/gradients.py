"""How kernels of converted networks depend on their neighbours, in gradients and in what they put out (C3 and C4)."""

from __future__ import annotations

from markupsafe import Markup

from ...inspect.gradient_figures import draw_kernel_jacobian
from ...inspect.gradient_flow import NeighbourShare
from ...inspect.tap_figure import draw_tap_responses
from ..looks import Inside, Look
from ..parts.drawn_figure import drawn_figure
from ..parts.headings import heading
from ..parts.line_chart import Line, line_chart
from ..parts.rendering import join
from ..parts.section import Section
from ..parts.tables import NOTHING, digits, folded_away, note, table


def section(inside: Inside) -> Section | None:
    """Shares of gradients, blocks of the Jacobian and tap responses; ``None`` where nothing is associated."""
    looks = {name: look for name, look in inside.looks.items() if _any(look)}
    if not looks:
        return None
    words = note(
        "In a plain layer the gradient of a kernel is its own. Where kernels are associated, a part of it comes back "
        "through the kernels beside it. The share is that part's length against the sum of both lengths: 0 % in a "
        "plain network, 50 % where both are as long."
    )
    parts = [part for look in looks.values() for part in [heading(look.title, looks), *_of(look)]]
    return Section("Gradients and outputs", join(words, *parts), inside.numbers("gradients"))


def _any(look: Look) -> bool:
    return bool(look.inspection.shares or look.inspection.jacobians or look.inspection.responses)


def _of(look: Look) -> list[Markup]:
    found = look.inspection
    parts = []
    if found.shares:
        layers = list(dict.fromkeys(one.layer for shares in found.shares.values() for one in shares))
        numbers = {layer: number for number, layer in enumerate(layers, start=1)}
        of = "images" if found.images is not None else "images of noise"
        lines = [
            Line(name, name, {numbers[one.layer]: _per_cent(one.mean) for one in shares})
            for name, shares in found.shares.items()
        ]
        parts.append(
            line_chart(f"Gradient that comes through neighbours, on {of}", lines, "converted layer", "mean share, %")
        )
        rows = [_row(name, numbers[one.layer], one) for name, shares in found.shares.items() for one in shares]
        columns = ["network", "number", "layer", "kernels", "mean, %", "median, %", "range, %", "mean cosine"]
        shares = table("Share of a kernel's gradient that comes through its neighbours", columns, rows)
        parts.append(folded_away("Shares by layer", shares))
    if found.jacobians:
        rows = [
            [name, one.layer, str(one.group), *(digits(value, 3) for value in (one.own, one.neighbours, one.outside))]
            for name, one in found.jacobians.items()
        ]
        caption = "∂W′/∂W: how much of a change of basic kernels arrives in an effective kernel (plain: 1, 0, 0)"
        parts.append(
            table(caption, ["network", "layer", "group", "its own", "the group's others", "other groups"], rows)
        )
    for name, jacobian in found.jacobians.items():
        title = f"{name}: blocks of ∂W′/∂W in {jacobian.layer}, by kernels and by taps"
        text = (
            f"Three heat maps of gains: own kernel {jacobian.own:.2g}, others of the group {jacobian.neighbours:.2g}, "
            f"other groups {jacobian.outside:.2g}"
        )
        parts.append(folded_away(title, drawn_figure(title, draw_kernel_jacobian(jacobian), text)))
    for name, response in found.responses.items():
        title = f"{name}: the association of group {response.group} of {response.layer} as a matrix on tap responses"
        text = f"Heat map of {len(response.matrix)} × {len(response.matrix)} weights between taps of kernels"
        parts.append(folded_away(title, drawn_figure(title, draw_tap_responses(response), text)))
    return parts


def _row(network: str, number: int, one: NeighbourShare) -> list[str]:
    numbers, quantiles = one.numbers(), one.quantiles
    cosine = numbers["mean_cosine"]
    return [
        network,
        str(number),
        one.layer,
        str(one.of_kernels) if len(one.kernels) == one.of_kernels else f"{len(one.kernels)} of {one.of_kernels}",
        digits(_per_cent(one.mean), 3),
        digits(_per_cent(quantiles[2] if quantiles else None), 3),
        f"{100 * quantiles[0]:.2g} to {100 * quantiles[-1]:.2g}" if quantiles else NOTHING,
        digits(cosine, 2) if isinstance(cosine, float) else NOTHING,
    ]


def _per_cent(share: float | None) -> float | None:
    return None if share is None else 100 * share
