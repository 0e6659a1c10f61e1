"""Which convs of a model to convert: by kind, by name, or by a function; the default choice."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from typing import cast

from torch import nn

from ..errors import ArgumentTypeError, ConfigError, SurgeryError, listing
from ..maps.kernel_map import Conv
from ..maps.registered import convs, kernel_size
from ..torch_private import is_compiled
from .obstacles import NO_CONV_LAYER, other_convs

#: Names of the layers that torchvision's detectors predict with, kept plain by default: nothing normalises what they
#: put out. The last one is SSD's.
PREDICTION_LAYERS = (
    *("cls_logits", "bbox_reg", "bbox_pred", "bbox_ctrness", "mask_fcn_logits"),
    r"(?:classification|regression)_head\.module_list\.\d+",
)

_PREDICTS = re.compile(rf"(?:.*\.)?(?:{'|'.join(PREDICTION_LAYERS)})")

_WRAPPERS = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule", "OptimizedModule")


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which convs to convert, by kind and by name; the default is what :func:`convofconv.convert` does by itself.

    Args:
        stem: the network's first conv.
        depthwise: convs with a group per input channel.
        pointwise: convs whose kernel is 1×1.
        predictions: the layers that a detector predicts with (:data:`PREDICTION_LAYERS`).
        include: name patterns with ``*``; empty for all.
        exclude: name patterns with ``*``.

    Raises:
        ArgumentTypeError: a flag is not a bool, a pattern not a string.

    Examples:
        >>> Selection(stem=False, exclude=["layer4.*"]).exclude
        ('layer4.*',)
    """

    stem: bool = True
    depthwise: bool = True
    pointwise: bool = False
    predictions: bool = False
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool):
                if not isinstance(value, bool):
                    raise ArgumentTypeError(f"Selection.{field.name} must be True or False, got {value!r}")
                continue
            patterns = (value,) if isinstance(value, str) else value
            if not isinstance(patterns, Iterable) or not all(isinstance(pattern, str) for pattern in patterns):
                raise ArgumentTypeError(f"Selection.{field.name} takes name patterns, got {value!r}")
            object.__setattr__(self, field.name, tuple(patterns))

    def reason_to_skip(self, name: str, conv: Conv, stem: nn.Module | None = None) -> str:
        """Why this conv is left out, empty if it is not; ``stem`` is the network's first conv."""
        if self.include and not _matches(name, self.include):
            return "not selected"
        if _matches(name, self.exclude):
            return "excluded"
        size = kernel_size(conv)
        if not self.pointwise and set(size) == {1}:
            return "1×1 kernel" if len(size) == 2 else "kernel of size 1"
        if not self.predictions and _PREDICTS.fullmatch(name):
            return "prediction layer"
        if not self.depthwise and getattr(conv, "groups", 1) == getattr(conv, "in_channels", None) != 1:
            return "depthwise"
        return "stem" if conv is stem and not self.stem else ""


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def check_patterns(model: nn.Module, patterns: Iterable[str], argument: str) -> None:
    """Raise where a pattern matches no conv: it is misspelt."""
    names = [name for name, _ in convs(model)]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            other = next((what for name, _, what in other_convs(model) if fnmatch.fnmatchcase(name, pattern)), "")
            raise ConfigError(
                f"{argument}: no conv matches {pattern!r}{other and f' (a {other} does, {NO_CONV_LAYER})'}; the convs "
                f"are {listing(names)} (use * for any text)"
            )


Where = Selection | str | Iterable[str] | Callable[[str, nn.Module], bool]


def parse_where(model: nn.Module, where: Where | None) -> Callable[[str, Conv], str]:
    """Turn ``where`` into a function that gives the reason to skip a conv, empty for one to take."""
    if callable(where):
        chosen = where
        return lambda name, conv: "" if chosen(name, conv) else "not selected"
    if where is None:
        where = Selection()
    elif not isinstance(where, Selection):
        if not isinstance(where, Iterable):
            raise ArgumentTypeError(f"where takes a Selection, name patterns or a function, got {where!r}")
        patterns = where if isinstance(where, str) else tuple(where)
        if not patterns:  # a filtered list that came out empty must not take everything
            raise ConfigError("where: no name patterns are given; leave it out for the default choice")
        # Who names a layer means it, whatever its kind.
        where = Selection(pointwise=True, predictions=True, include=cast(Sequence[str], patterns))
    selection = where
    check_patterns(model, (*selection.include, *selection.exclude), "where")
    stem = next((conv for _, conv in convs(model)), None)
    return lambda name, conv: selection.reason_to_skip(name, conv, stem)


def refuse_wrapped(model: nn.Module) -> None:
    """Raise where a wrapper has already recorded the model's parameters or traced its forward."""
    for module in model.modules():
        wrapper = next((base.__name__ for base in type(module).__mro__ if base.__name__ in _WRAPPERS), None)
        if wrapper or is_compiled(module):
            advice = "convert or fold what it wraps (model.module, or model._orig_mod of a compiled one)"
            if wrapper in (None, "FSDPModule"):  # in place: there is no bare model any more
                advice = (
                    "convert before that; to fold, give its weights to a fresh model, fresh = convofconv.convert_like("
                    "build(), state_dict) and fresh.load_state_dict(state_dict), and fold that"
                )
            raise SurgeryError(f"the model is already {'wrapped in ' + wrapper if wrapper else 'compiled'}; {advice}")
