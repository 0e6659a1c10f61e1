"""The exceptions of this package, one hierarchy: catch :class:`ConvOfConvError` to catch them all."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConvOfConvError(Exception):
    """Base class of everything that convofconv raises on purpose."""


class ArgumentTypeError(ConvOfConvError, TypeError):
    """An argument has the wrong type."""


class ConfigError(ConvOfConvError, ValueError):
    """A setting, a method name or a preset has an impossible value."""


class ShapeError(ConvOfConvError, ValueError):
    """A tensor has the wrong shape or dtype."""


class SurgeryError(ConvOfConvError, RuntimeError):
    """A model cannot be converted or folded as asked."""


class VerificationError(ConvOfConvError, AssertionError):
    """Two models that should agree do not; the message names the first layer that differs."""


class ConversionWarning(UserWarning):
    """A conversion works, but probably not as its user thinks."""


def listing(items: Iterable[object], limit: int = 5) -> str:
    """Join ``items`` for a message, cut after ``limit``."""
    names = [str(item) for item in items]
    more = f", ... ({len(names) - limit} more)" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def similar(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """Known names that are like an unknown one, the likeliest first.

    Of dotted names these are those with the same last part: ``lr`` is ``training.lr``.
    """
    names = {one.lower(): one for one in known}
    last_parts = {one.rpartition(".")[2]: one for one in names}
    name = name.lower()
    last = name.rpartition(".")[2]
    close = [one for one in names if one.rpartition(".")[2] == last] or difflib.get_close_matches(name, names, most)
    close = close or [last_parts[one] for one in difflib.get_close_matches(last, last_parts, most)]
    return [names[one] for one in close[:most]]


def did_you_mean(names: Iterable[str]) -> str:
    """The end of a message on something unknown, with what is similar; empty if nothing is."""
    text = ", ".join(names)
    return f"; did you mean {text}?" if text else ""
