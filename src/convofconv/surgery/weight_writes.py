"""Who writes into the weight of a conv.

The weight of a converted conv is computed, so a write into it changes a temporary and is lost, and the tensor cannot
say so. The functions that write can, see :mod:`.bytecode`. Those that run in a network's forward are looked at before
it is converted, all others when they read the weight of a converted conv.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any, NamedTuple

from torch import nn

from ..errors import listing
from ..torch_private import ConvNd, forward_hooks, forward_pre_hooks, modules_of, parameters_of
from .bytecode import OUTSIDE, UNNAMED, VIEW_ATTRIBUTES, Item, Path, Value, effects, instruction_at

_NONE: Mapping[str, object] = MappingProxyType({})
_CONTAINERS = (list, tuple, dict, nn.Sequential, nn.ModuleList, nn.ModuleDict)


def writers(code: CodeType, last: int) -> tuple[str, ...]:
    """What writes into the weight that a function reads with the instruction of a frame's ``f_lasti``."""
    offset = instruction_at(code, last)
    writes = (write for write in effects(code).writes if write.target.origin == offset)
    return tuple(sorted({write.how for write in writes if _is_view_of_weight(write.target.path)}))


def _is_view_of_weight(path: Path) -> bool:
    place = max(place for place, element in enumerate(path) if element in ("weight", UNNAMED))
    return all(map(_is_view, path[place + 1 :]))


def _is_view(element: str | Item) -> bool:
    return isinstance(element, Item) or element in VIEW_ATTRIBUTES


def written_in_forward(model: nn.Module) -> dict[nn.Module, str]:
    """The convs whose weight the forward of a module, or a hook of it, writes into, each with the reason.

    What functions do in loops over modules is not seen.

    Examples:
        >>> class Masked(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.conv = nn.Conv2d(3, 8, 3)
        ...     def forward(self, x):
        ...         self.conv.weight.data.clamp_(-1, 1)
        ...         return self.conv(x)
        >>> list(written_in_forward(Masked()).values())
        ['Masked.forward writes into its weight (clamp_)']
    """
    reasons: dict[int, str] = {}
    for module in model.modules():
        for conv, how in _written_by_forward(module).items():
            who = "its forward writes into its own" if conv is module else f"{_name(module)}.forward writes into its"
            reasons.setdefault(_key(conv), f"{who} weight ({listing(sorted(how))})")
        for hook in (*forward_pre_hooks(module), *forward_hooks(module)):
            search = _Search()
            search.follow(hook, [module])
            for conv, how in search.found.items():
                reasons.setdefault(
                    _key(conv), f"the hook {_name(hook)} writes into its weight ({listing(sorted(how))})"
                )
    convs = (module for module in model.modules() if isinstance(module, ConvNd))
    return {conv: reasons[_key(conv)] for conv in convs if _key(conv) in reasons}


def _key(conv: nn.Module) -> int:
    """What convs whose weights are tied have in common."""
    return id(parameters_of(conv).get("weight", conv))


def _name(thing: object) -> str:
    return str(getattr(thing, "__name__", type(thing).__name__))


def _written_by_forward(module: nn.Module) -> dict[nn.Module, set[str]]:
    search = _Search()
    if not any(isinstance(part, ConvNd) for part in module.modules()):
        return {}
    if "forward" in vars(module):
        search.follow(vars(module)["forward"], [])
    else:
        function, owner = _member(type(module).__mro__, "forward")
        search.follow(function, [module], owner=owner)
    if module in search.detached and module not in search.found:
        # Past autograd, which would refuse: of no use to a conv's own forward except for writing, in whatever way.
        search.found[module].add("weight.data")
    return search.found


class _Weight(NamedTuple):
    """The weight of a conv, or a view of it."""

    conv: nn.Module


class _Search:
    """What a function does to the convs among its arguments, itself and by what it calls; torch's own do nothing."""

    def __init__(self) -> None:
        self.found: dict[nn.Module, set[str]] = defaultdict(set)
        #: The convs whose ``weight.data`` is read.
        self.detached: set[nn.Module] = set()
        self._seen: set[object] = set()

    def follow(
        self, function: Any, arguments: Sequence[object], named: Mapping[str, object] = _NONE, owner: Any = None
    ) -> None:
        """Follow a function, called with these arguments (``None`` is unknown), of the class that defines it."""
        if isinstance(function, MethodType):
            arguments, function = [function.__self__, *arguments], function.__func__
        elif not isinstance(function, FunctionType):  # an object that can be called
            arguments, (function, owner) = [function, *arguments], _member(type(function).__mro__, "__call__")
        function = inspect.unwrap(function) if isinstance(function, FunctionType) else None
        if type(function) is not FunctionType or str(function.__module__).startswith("torch."):
            return
        code = function.__code__
        known = {**dict(zip(code.co_varnames[: code.co_argcount], arguments, strict=False)), **named}
        scope = _Scope(function, known, owner)
        state = [(name, value if isinstance(value, _Weight) else id(value)) for name, value in known.items()]
        if (function, *state) in self._seen:
            return
        self._seen.add((function, *state))
        done = effects(code)
        for write in done.writes:
            if isinstance(weight := scope.resolve(write.target.path), _Weight):
                self.found[weight.conv].add(write.how)
        for path in done.data:
            if isinstance(weight := scope.resolve(path), _Weight):
                self.detached.add(weight.conv)
        for call in done.calls:
            values = [scope.value(slot) for slot in call.arguments]
            self._follow_path(call.callee, scope, values, {name: scope.value(slot) for name, slot in call.keywords})
            for slot in call.arguments:  # functions handed on to be called, by activation checkpointing say
                if isinstance(slot, Value):
                    self._follow_path(slot.path, scope)

    def _follow_path(
        self, path: Path, scope: _Scope, arguments: Sequence[object] = (), named: Mapping[str, object] = _NONE
    ) -> None:
        """Follow what has this name, if it is a method of a module, or a function that gets a module or a weight."""
        *way, name = path
        if not isinstance(name, str):
            return
        if way == [OUTSIDE, "super()"]:
            receiver = next(iter(scope.known.values()), None)
            classes = type(receiver).__mro__
            start = classes.index(scope.owner) + 1 if scope.owner in classes else len(classes)
            function, owner = _member(classes[start:], name)
            self.follow(function, [receiver, *arguments], named, owner)
        elif isinstance(receiver := scope.resolve(way), nn.Module) and name not in vars(receiver):
            function, owner = _member(type(receiver).__mro__, name)
            if isinstance(function, staticmethod):
                self.follow(function.__func__, arguments, named, owner)
            elif isinstance(function, FunctionType):
                self.follow(function, [receiver, *arguments], named, owner)
        elif any(value is not None for value in (*arguments, *named.values())):
            function, owner = _member(receiver.__mro__, name) if isinstance(receiver, type) else (None, None)
            self.follow(function or scope.resolve(path), arguments, named, owner)


class _Scope(NamedTuple):
    """What the names in a function stand for."""

    function: Any
    #: Its arguments by name.
    known: Mapping[str, object]
    #: The class that defines it, ``None`` for none.
    owner: Any

    def value(self, slot: object) -> object:
        return self.resolve(slot.path) if isinstance(slot, Value) else None

    def resolve(self, path: Sequence[str | Item]) -> object:
        """What is to be found on that way, as far as no code must run for it, ``None`` if nothing is."""
        if not path or path == [OUTSIDE]:
            return None
        root, *way = path
        value = self._outside(way.pop(0)) if root == OUTSIDE else self.known.get(str(root))
        for element in way:
            value = _step(value, element)
        return value

    def _outside(self, name: str | Item) -> object:
        enclosing = dict(zip(self.function.__code__.co_freevars, self.function.__closure__ or (), strict=True))
        if name not in enclosing:
            return self.function.__globals__.get(str(name))
        try:
            return enclosing[str(name)].cell_contents
        except ValueError:  # not assigned yet
            return None


def _step(value: object, element: str | Item) -> object:
    if isinstance(value, _Weight):
        return value if _is_view(element) else None
    if isinstance(element, Item):
        try:
            return value[element.key] if type(value) in _CONTAINERS else None  # type: ignore[index]
        except (LookupError, TypeError):
            return None
    if isinstance(value, ConvNd) and element == "weight":
        return _Weight(value)
    if isinstance(value, nn.Module) and element in modules_of(value):
        return modules_of(value)[element]
    if isinstance(value, nn.Module | ModuleType):
        return vars(value).get(element)
    return None


def _member(classes: Sequence[type], name: str) -> tuple[Any, type | None]:
    """What the first of these classes that knows the name has under it, and the class."""
    return next(((vars(cls)[name], cls) for cls in classes if name in vars(cls)), (None, None))
