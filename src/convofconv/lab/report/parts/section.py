"""What a section of a report is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page.

    Args:
        title: its heading, and its entry in the navigation.
        body: its HTML, of :func:`~.rendering.render` and the other parts.
        numbers: every number in it, by names that say what it is; plain JSON-able values.
    """

    title: str
    body: Markup
    numbers: Mapping[str, Any]
