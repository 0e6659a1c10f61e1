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


def did_you_mean(name: str, known: Iterable[str], most: int = 1) -> str:
    """The end of a message on an unknown name: the known ones that are like it, if there are any.

    Of dotted names, those with the same last part are the likeliest: ``seed`` is ``training.seed``.
    """
    names = {one.lower(): one for one in known}
    name = name.lower()
    last = name.rpartition(".")[2]
    close = [one for one in names if one.rpartition(".")[2] == last] or difflib.get_close_matches(name, names, most)
    return f"; did you mean {', '.join(names[one] for one in close[:most])}?" if close else ""
