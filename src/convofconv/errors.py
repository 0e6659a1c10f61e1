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


def suggestion(name: str, known: Iterable[str]) -> str:
    """The known names that a misspelt one is near, as the end of a message; empty where it is near none."""
    near = difflib.get_close_matches(name, list(known), cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""
