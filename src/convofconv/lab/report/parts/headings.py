"""Headings within a section."""

from __future__ import annotations

from collections.abc import Collection

from markupsafe import Markup


def heading(name: str, among: Collection[str]) -> Markup:
    """A heading, where there are several of its kind.

    Examples:
        >>> str(heading("detection", ["detection", "segmentation"])), str(heading("a", ["a"]))
        ('<h3>detection</h3>', '')
    """
    return Markup("<h3>{}</h3>").format(name) if len(among) > 1 else Markup("")
