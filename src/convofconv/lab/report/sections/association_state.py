"""Whether the associations are healthy: how they amplify, how far they move the kernels, which groups are dead."""

from __future__ import annotations

from markupsafe import Markup

from ....errors import listing
from ...association_health import AssociationHealth, LayerHealth
from ...inspect.association_figure import draw_association_health
from ..looks import Inside
from ..parts.drawn_figure import drawn_figure
from ..parts.headings import heading
from ..parts.rendering import join
from ..parts.section import Section
from ..parts.tables import NOTHING, digits, note, table

_HEADING = ["layer", "groups", "σ min", "σ max", "condition", "‖s∗W‖/‖W‖", "‖α−I‖/‖I‖", "frequencies removed", "notes"]


def section(inside: Inside) -> Section | None:
    """A table and a figure per network; ``None`` where nothing is associated."""
    looks = {name: look for name, look in inside.looks.items() if look.inspection.health}
    if not looks:
        return None
    words = note(
        "The association α is a matrix on the numbers of a group. Its singular values σ say how much it amplifies and "
        "dampens, the condition is the largest ratio of two of them; 1 everywhere is the identity, which plain kernels "
        "have. ‖s∗W‖/‖W‖ says how far the super kernels move the kernels. Frequencies are removed where less than a "
        "tenth is left of them."
    )
    parts = [words]
    for look in looks.values():
        parts.append(heading(look.title, looks))
        for network, health in look.inspection.health.items():
            parts += _of(network, health)
    return Section("Health of the association", join(*parts), inside.numbers("health"))


def _of(network: str, health: AssociationHealth) -> list[Markup]:
    problems = [one.problem for one in health.layers if one.problem]
    said = f"{network}: {'; '.join(problems)}." if problems else f"{network}: all associations are healthy."
    title = f"{network}: singular values of α, and how far it moves the kernels"
    words = (
        f"Ranges of singular values by layer, and relative changes of kernels in {network}; the table has the numbers"
    )
    return [
        note(said),
        drawn_figure(title, draw_association_health(health, network), words),
        table(f"Associations of {network}", _HEADING, [_row(one) for one in health.layers]),
    ]


def _row(one: LayerHealth) -> list[str]:
    sizes = (one.smallest, one.largest, one.condition, one.change, one.distance)
    dead = f"dead groups: {listing(one.dead_groups)}" if one.dead_groups else ""
    same = f"{len(one.identity_groups)} groups at the identity" if one.identity_groups else ""
    notes = [note for note in ("" if one.finite else "no numbers", dead, same, one.remark) if note]
    return [
        one.layer,
        str(one.groups),
        *(digits(size, 3) for size in sizes),
        NOTHING if one.removed is None else f"{100 * one.removed:.0f} %",
        "; ".join(notes),
    ]
