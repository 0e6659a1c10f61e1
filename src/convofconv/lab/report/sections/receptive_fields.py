"""How much of an image the units of a layer really see, networks side by side."""

from __future__ import annotations

from markupsafe import Markup

from ...inspect.effective_field import THRESHOLD
from ...inspect.field_comparison import SeedFields
from ...inspect.field_figure import draw_fields, sizes_line
from ..looks import Inside, Look
from ..parts.drawn_figure import drawn_figure
from ..parts.headings import heading
from ..parts.rendering import join
from ..parts.section import Section
from ..parts.tables import NOTHING, note, table

_HEADING = ["network", "layer", "effective size, px", "95 % interval", "over", "theoretical size, px", "input, px"]
_HEADING += ["energy at the border", "clipped"]


def section(inside: Inside) -> Section | None:
    """A map per network, and a table of sizes; ``None`` where no field was looked at."""
    looks = {name: look for name, look in inside.looks.items() if look.inspection.fields}
    if not looks:
        return None
    words = note(
        "The map shows how much the centre unit of the layer depends on each pixel, |∂y/∂x|, as a share of the peak on "
        "a logarithmic scale. Its size is the root of the number of pixels above "
        f"{100 * THRESHOLD:g} % of the peak (Luo et al., 2016). The theoretical field is all that the unit is "
        "connected with. A clipped field reaches the edge of the image, and may be larger than what is given."
    )
    parts = [part for look in looks.values() for part in [heading(look.title, looks), *_of(look)]]
    return Section("Receptive fields", join(words, *parts), inside.numbers("fields"))


def _of(look: Look) -> list[Markup]:
    fields = look.inspection.fields
    layers = list(next(iter(fields.values())))
    drawn = [
        drawn_figure(
            f"{name}, {layer}",
            draw_fields({name: {layer: found[layer]}}),
            f"Effective receptive field of {layer} in {name}: {sizes_line(found[layer])}".replace("\n", ", "),
        )
        for layer in layers
        for name, found in fields.items()
    ]
    rows = [_row(name, layer, found[layer]) for layer in layers for name, found in fields.items()]
    side_by_side = Markup('<div class="side-by-side">{}</div>').format(join(*drawn))
    return [side_by_side, table("Sizes of receptive fields", _HEADING, rows)]


def _row(name: str, layer: str, found: SeedFields) -> list[str]:
    one, numbers = found.fields[0], found.numbers()
    count = len(found.fields) if numbers["interval_over"] == "seeds" else one.images
    clipped = [
        word
        for word, is_clipped in (
            ("effective", any(field.clipped for field in found.fields)),
            ("theoretical", one.theory_clipped),
        )
        if is_clipped
    ]
    border = max(0.0, *(field.border for field in found.fields))  # which rounding makes less
    return [
        name,
        layer,
        f"{found.size:.1f}",
        NOTHING if found.interval is None else "{:.1f} to {:.1f}".format(*found.interval),
        f"{count} {numbers['interval_over']}",
        str(one.theoretical),
        "{} × {}".format(*one.map.shape),
        f"{100 * border:.1f} %",
        " and ".join(clipped) or "no",
    ]
