"""Tables that can be read on a phone and by keyboard: each scrolls by itself, never the page."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from .rendering import render

#: Stands where there is no number.
NOTHING = "–"


def table(
    caption: str,
    heading: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    summaries: Sequence[int] = (),
    texts: bool = False,
) -> Markup:
    """A table with a caption; the first cell of a row is its heading.

    Args:
        caption: what is in it.
        heading: of the columns.
        rows: of cells.
        summaries: numbers of the rows that sum up others, and are set apart.
        texts: whether cells hold words, which stand left, and not numbers, which stand right.

    Examples:
        >>> "<th scope=\\"row\\">coc</th>" in table("Scores", ["run", "top1"], [["coc", "90.1"]])
        True
    """
    return render("table.html", caption=caption, heading=heading, rows=rows, summaries=summaries, texts=texts)


def folded_away(summary: str, *parts: str) -> Markup:
    """What is shown when its summary is clicked, or opened by Enter."""
    return render("details.html", summary=summary, parts=parts)


def note(text: str) -> Markup:
    """A remark on what is above or below it."""
    return render("note.html", text=text)


def digits(value: float | None, places: int = 4) -> str:
    """A number with the digits that count.

    Examples:
        >>> digits(0.0123456), digits(1234567.0), digits(None), digits(3)
        ('0.01235', '1.235e+06', '–', '3')
    """
    return NOTHING if value is None else f"{value:.{places}g}"
