"""Templates to HTML: everything that is put into one is escaped, unless it is HTML already."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_FOLDER = Path(__file__).parents[1] / "templates"
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def render(template: str, **values: Any) -> Markup:
    """Fill a template.

    Args:
        template: a file in ``templates/``.
        values: for it; text is escaped, :class:`~markupsafe.Markup` is not, and ``value | tojson`` is safe in scripts.

    Examples:
        >>> str(render("note.html", text="<b>"))
        '<p class="note">&lt;b&gt;</p>'
    """
    return Markup(_ENVIRONMENT.get_template(template).render(values))


def join(*parts: str) -> Markup:
    """Parts of a page, one after the other; what is mere text is escaped.

    Examples:
        >>> str(join(Markup("<p>"), "<"))
        '<p>\\n&lt;'
    """
    return Markup("\n").join(parts)


def as_it_is(file: str) -> Markup:
    """A file of ``templates/`` that goes into the page unchanged: styles and scripts."""
    return Markup((_FOLDER / file).read_text(encoding="utf-8"))


def json_able(value: Any) -> Any:
    """The same values as JSON has them: ``None`` where a number is not finite, for JSON has none of these.

    Examples:
        >>> json_able({"loss": [1.0, float("nan")], "shape": (2, 3)})
        {'loss': [1.0, None], 'shape': [2, 3]}
    """
    if isinstance(value, Mapping):
        return {str(key): json_able(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [json_able(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
