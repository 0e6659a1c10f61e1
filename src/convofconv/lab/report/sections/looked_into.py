"""Into which networks the next sections look, and why not into others."""

from __future__ import annotations

from ..looks import WANTED, Inside
from ..parts.rendering import join
from ..parts.section import Section
from ..parts.tables import note, table


def section(inside: Inside) -> Section:
    """A table of the networks, and the reasons why something is not there."""
    parts = []
    if inside.looks:
        rows = [
            [network, look.title, ", ".join(runs)]
            for look in inside.looks.values()
            for network, runs in look.runs.items()
        ]
        parts += [
            note(
                "The networks of the best epochs, as they were trained, with their kernel maps. Where a network has "
                "several runs, receptive fields are means over them and p-values of groups combine them; all "
                "else is of the first one."
            ),
            table("Networks", ["network", "task", "runs"], rows, texts=True),
        ]
    parts += [note(f"{run} is left out: {reason}") for run, reason in inside.left_out.items()]
    for look in inside.looks.values():
        where = f"{look.title}: " if len(inside.looks) > 1 else ""
        parts += [note(f"{where}No {topic}: {reason}") for topic, reason in look.problems.items()]
        parts += [note(f"{where}{_sentence(remark)}") for remark in look.inspection.remarks]
    numbers = {
        "networks": {name: {key: list(runs) for key, runs in look.runs.items()} for name, look in inside.looks.items()},
        "left_out": dict(inside.left_out),
        "problems": {name: dict(look.problems) for name, look in inside.looks.items()},
        "remarks": {name: list(look.inspection.remarks) for name, look in inside.looks.items()},
        "images_of_noise": WANTED.images,
        "draws": WANTED.draws,
    }
    return Section("Looking inside", join(*parts), numbers)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
