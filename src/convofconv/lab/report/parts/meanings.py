"""What words and numbers mean, as a list of terms."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from .rendering import render


def meanings(terms: Mapping[str, str]) -> Markup:
    """Terms, and what each means.

    Examples:
        >>> print(meanings({"p": "a probability"}))
        <dl class="meanings">
        <dt>p</dt><dd>a probability</dd>
        </dl>
    """
    return render("meanings.html", terms=terms)
