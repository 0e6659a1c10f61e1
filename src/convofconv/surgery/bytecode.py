"""What a function does with the values that it reads, followed through its bytecode.

At run time Python says which instruction of which function reads an attribute, but not what becomes of the value, and
the source is not always there. So the instructions are followed, over variables, branches and loops: a value is known
as long as it is an attribute, an item or a view of something that has a name. No handler of an exception is followed.

Instructions differ between versions of Python. What a name does not say, :func:`dis.stack_effect` does.
"""

from __future__ import annotations

import dis
import functools
import re
import sys
from collections.abc import Hashable
from types import CodeType
from typing import NamedTuple, cast

from torch import nn

#: The first element of the path of what a function finds outside itself, and that of something without a name.
OUTSIDE, SOMETHING = "", "?"
#: An attribute that ``getattr`` reads by a name which is no constant.
UNNAMED = "*"
#: Attributes of a tensor that share its values, and methods whose result does.
VIEW_ATTRIBUTES = frozenset({"data", "T", "mT"})
_VIEW_METHODS = frozenset(
    {"detach", "flatten", "narrow", "permute", "ravel", "requires_grad_", "reshape", "select", "squeeze", "swapaxes"}
    | {"t", "transpose", "unflatten", "unsqueeze", "view", "view_as"}
)
_INITIALISERS = frozenset(name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_"))
#: What ends in an underscore, as torch's in-place methods do, and leaves the values alone.
_NO_WRITERS = frozenset({"requires_grad_", "share_memory_", "detach_"})

_JUMPS = frozenset({*dis.hasjrel, *dis.hasjabs})
_ENDS = ("RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE")
_NOTHING = ("CACHE", "EXTENDED_ARG", "NOP", "NOT_TAKEN", "PRECALL", "RESUME")
#: So long is a path at most, and so many instructions are followed: loops make paths grow, branches multiply states.
_LONGEST, _MOST = 10, 10_000


class Item(NamedTuple):
    """An item of something; its key is ``...`` where it is no constant."""

    key: Hashable = ...


Path = tuple[str | Item, ...]


class Value(NamedTuple):
    """A value by the way to it, ``("self", "conv", "weight")``."""

    path: Path
    #: The offset of the instruction that read a weight on that way, -1 for none.
    origin: int = -1
    #: Whether this is the result of an augmented assignment, ``x *= 2``, that is not stored yet.
    updated: bool = False


class Constant(NamedTuple):
    """A constant of the function."""

    value: Hashable


class _Null(NamedTuple):
    """What a call has on the stack besides what is called and its arguments."""


Slot = Value | Constant | _Null | None


class Write(NamedTuple):
    """A change of a value, and what makes it."""

    target: Value
    how: str


class Call(NamedTuple):
    """A call of something that has a name."""

    callee: Path
    arguments: tuple[Slot, ...]
    keywords: tuple[tuple[str, Slot], ...]


class Effects(NamedTuple):
    """What a function does with the values it reads; paths begin with the name of an argument, or :data:`OUTSIDE`."""

    writes: frozenset[Write]
    calls: frozenset[Call]
    #: The ways to every ``.data``.
    data: frozenset[Path]


@functools.lru_cache(maxsize=4096)
def effects(code: CodeType) -> Effects:
    """What a function does with the values it reads.

    Examples:
        >>> def clip(conv):
        ...     kernel = conv.weight
        ...     kernel.data.clamp_(-1, 1)
        >>> [(write.target.path, write.how) for write in effects(clip.__code__).writes]
        [(('conv', 'weight', 'data'), 'clamp_')]
    """
    run = _Run(code)
    run.follow()
    return Effects(frozenset(run.writes), frozenset(run.calls), frozenset(run.data))


def instruction_at(code: CodeType, last: int) -> int:
    """The offset of the instruction that a frame's ``f_lasti`` belongs to, which may be in front of it or behind."""
    in_front = {step.offset: step.opname in ("EXTENDED_ARG", "PRECALL") for step in dis.get_instructions(code)}
    start = max((offset for offset in in_front if offset <= last), default=0)  # behind it are only its caches
    return next(offset for offset in in_front if offset >= start and not in_front[offset])


class _Run:
    """A function run on paths in place of values."""

    def __init__(self, code: CodeType) -> None:
        self.code = code
        self.writes: set[Write] = set()
        self.calls: set[Call] = set()
        self.data: set[Path] = set()
        self.stack: list[Slot] = []
        self.variables: dict[str, Value] = {}
        self.keywords: tuple[str, ...] = ()  # of the call that is coming, where an instruction of its own says them

    def follow(self) -> None:
        steps = list(dis.get_instructions(self.code))
        places = {step.offset: place for place, step in enumerate(steps)}
        arguments = self.code.co_varnames[: self.code.co_argcount + self.code.co_kwonlyargcount]
        left: list[tuple[int, list[Slot], dict[str, Value]]]
        left = [(0, [], {name: Value((name,)) for name in arguments})]
        seen: set[Hashable] = set()
        followed = 0
        while left and followed < _MOST:
            place, self.stack, self.variables = left.pop()
            while place < len(steps) and followed < _MOST:
                step = steps[place]
                followed += 1
                if step.is_jump_target:
                    state = (place, tuple(self.stack), frozenset(self.variables.items()))
                    if state in seen:
                        break
                    seen.add(state)
                place += 1
                if step.opname in _ENDS:
                    break
                if step.opcode in _JUMPS and not step.opname.startswith("SETUP_"):
                    stack = self.stack.copy()
                    self._shift(step, jump=True)
                    target = places[step.argval]
                    if re.match("JUMP(?!_IF)", step.opname):
                        place = target
                    else:
                        left.append((target, self.stack, self.variables.copy()))
                        self.stack = stack
                        self._shift(step, jump=False)
                else:
                    self._do(step)

    def _pop(self, count: int = 1) -> list[Slot]:
        """The topmost slots, the deepest first."""
        slots: list[Slot] = [None] * (count - len(self.stack)) + self.stack[max(0, len(self.stack) - count) :]
        del self.stack[max(0, len(self.stack) - count) :]
        return slots

    def _shift(self, step: dis.Instruction, jump: bool = False) -> None:
        """Make the stack as high as it is behind an instruction."""
        effect = dis.stack_effect(step.opcode, step.arg, jump=jump)
        self._pop(max(0, -effect))
        self.stack += [None] * max(0, effect)

    def _do(self, step: dis.Instruction) -> None:
        name, stack = step.opname, self.stack
        if name in _NOTHING:
            return
        if accesses := re.findall("(LOAD|STORE)_(?:FAST|NAME|GLOBAL|DEREF)", name):
            names = step.argval if isinstance(step.argval, tuple) else (step.argval,)
            for access, variable in zip(accesses, names, strict=True):
                if access == "LOAD":
                    self._load(variable, step)
                else:
                    self._store(variable)
        elif name == "PUSH_NULL":
            stack.append(_Null())
        elif name in ("LOAD_CONST", "LOAD_SMALL_INT"):
            stack.append(Constant(step.argval))
        elif name in ("LOAD_ATTR", "LOAD_METHOD"):
            (owner,) = self._pop()
            self._push_attribute(owner, step, popped=1)
        elif name == "LOAD_SUPER_ATTR":
            self._pop(3)
            self._push_attribute(Value((OUTSIDE, "super()")), step, popped=3)
        elif name in ("IMPORT_NAME", "IMPORT_FROM"):
            self._pop(2 if name == "IMPORT_NAME" else 0)
            stack.append(Value((OUTSIDE, step.argval)))
        elif name == "STORE_ATTR":
            _, owner = self._pop(2)
            self._change(self._attribute(owner, step.argval, -1), f"{step.argval} = ...")
        elif name in ("STORE_SUBSCR", "STORE_SLICE"):
            _, owner, *_ = self._pop(3 if name == "STORE_SUBSCR" else 4)
            self._change_item(owner)
        elif name == "BINARY_SUBSCR" or (name == "BINARY_OP" and step.argrepr == "[]"):
            owner, key = self._pop(2)
            stack.append(_item(owner, key))
        elif name == "BINARY_SLICE":
            owner, *_ = self._pop(3)
            stack.append(_item(owner, None))
        elif name.startswith("INPLACE_") or (name == "BINARY_OP" and step.argrepr.endswith("=")):
            left, _ = self._pop(2)
            stack.append(left._replace(updated=True) if isinstance(left, Value) else None)
        elif name in ("CALL", "CALL_KW", "CALL_METHOD", "CALL_FUNCTION", "CALL_FUNCTION_KW"):
            self._call(step)
        elif name == "KW_NAMES":
            self.keywords = self.code.co_consts[cast(int, step.arg)]
        elif name in ("COPY", "DUP_TOP", "DUP_TOP_TWO"):
            count = 2 if name == "DUP_TOP_TWO" else 1
            depth = cast(int, step.arg) if name == "COPY" else count
            slots = self._pop(depth)
            stack += [*slots, *slots[:count]]
        elif name == "SWAP":
            slots = self._pop(cast(int, step.arg))
            stack += [slots[-1], *slots[1:-1], slots[0]]
        elif name.startswith("ROT_"):
            slots = self._pop({"ROT_TWO": 2, "ROT_THREE": 3, "ROT_FOUR": 4}.get(name, step.arg or 0))
            stack += [slots[-1], *slots[:-1]]
        else:
            before = len(stack)
            self._shift(step)
            takes_nothing = name.startswith("LOAD_") or (name.startswith("BUILD_") and not step.arg)
            gives_nothing = name.startswith(("POP_", "STORE_", "DELETE_", "END_", "SETUP_"))
            if stack and not (takes_nothing or gives_nothing):
                changed = max(0, min(before, len(stack)) - 1)
                stack[changed:] = [None] * (len(stack) - changed)

    def _load(self, variable: str, step: dis.Instruction) -> None:
        known: Slot = self.variables.get(variable)
        if known is None and "FAST" not in step.opname:
            known = Value((OUTSIDE, variable))
        pair = [known, _Null()] if sys.version_info >= (3, 13) else [_Null(), known]
        self.stack += pair if "GLOBAL" in step.opname and dis.stack_effect(step.opcode, step.arg) > 1 else [known]

    def _store(self, variable: str) -> None:
        (value,) = self._pop()
        if isinstance(value, Value) and value.updated:
            value = value._replace(updated=False)
            self._change(value, "an augmented assignment")
        if isinstance(value, Value):
            self.variables[variable] = value
        else:
            self.variables.pop(variable, None)

    def _push_attribute(self, owner: Slot, step: dis.Instruction, popped: int) -> None:
        """Push an attribute, and where the instruction prepares a call what belongs to that."""
        self.stack.append(self._attribute(owner, step.argval, step.offset))
        if dis.stack_effect(step.opcode, step.arg) > 1 - popped:
            self.stack.append(_Null())

    def _attribute(self, owner: Slot, name: str, offset: int) -> Value | None:
        is_weight = name in ("weight", UNNAMED)
        if not isinstance(owner, Value):
            return Value((SOMETHING, name), offset) if is_weight else None
        if len(owner.path) >= _LONGEST:
            return None
        value = Value((*owner.path, name), offset if is_weight else owner.origin)
        if name == "data":
            self.data.add(value.path)
        return value

    def _change(self, target: Slot, how: str) -> None:
        if isinstance(target, Value):
            self.writes.add(Write(target, how))

    def _change_item(self, owner: Slot) -> None:
        if isinstance(owner, Value):
            name = next((name for name in reversed(owner.path) if isinstance(name, str)), "")
            self._change(owner, f"{name}[...] = ...")

    def _call(self, step: dis.Instruction) -> None:
        keywords, self.keywords = self.keywords, ()
        if step.opname.endswith("_KW"):
            (names,) = self._pop()
            keywords = cast("tuple[str, ...]", names.value) if isinstance(names, Constant) else ()
        arguments = self._pop(step.arg or 0)
        slots = self._pop(1 if step.opname.startswith("CALL_FUNCTION") else 2)
        callee = next((slot for slot in slots if isinstance(slot, Value)), None)
        named = dict(zip(keywords, arguments[len(arguments) - len(keywords) :], strict=True))
        self.stack.append(self._result(callee, arguments[: len(arguments) - len(keywords)], named, step.offset))

    def _result(self, callee: Value | None, arguments: list[Slot], named: dict[str, Slot], offset: int) -> Slot:
        self._change(named.get("out"), "out=...")
        if callee is None or not isinstance(name := callee.path[-1], str):
            return None
        if callee.path[0] == OUTSIDE and len(callee.path) == 2:
            constant = arguments[1].value if len(arguments) > 1 and isinstance(arguments[1], Constant) else None
            if name == "getattr" and len(arguments) > 1:
                return self._attribute(arguments[0], constant if isinstance(constant, str) else UNNAMED, offset)
            if name == "setattr" and isinstance(constant, str):
                self._change(self._attribute(arguments[0], constant, -1), f"{constant} = ...")
                return None
            if name == "super":
                return Value((OUTSIDE, "super()"))
        self.calls.add(Call(callee.path, tuple(arguments), tuple(named.items())))
        receiver = callee._replace(path=callee.path[:-1])
        if re.fullmatch(r"[a-z]\w*[a-z\d]_", name) and name not in _NO_WRITERS:
            if _changes_first_argument(callee.path):
                receiver = cast(Value, arguments[0] if arguments else named.get("tensor"))
            self._change(receiver, name)
            return receiver
        return receiver if name in _VIEW_METHODS else None


def _item(owner: Slot, key: Slot) -> Value | None:
    if not isinstance(owner, Value) or len(owner.path) >= _LONGEST:
        return None
    return owner._replace(path=(*owner.path, Item(key.value if isinstance(key, Constant) else ...)))


def _changes_first_argument(callee: Path) -> bool:
    """Whether what ends in an underscore is a function, which changes its argument, and no method of a tensor."""
    if callee[0] != OUTSIDE:
        return False
    initialises = callee[-1] in _INITIALISERS and not {"weight", "data"}.intersection(callee)
    return initialises or len(callee) == 2 or callee[1] == "torch"
