"""Which functions write into ``conv.weight``, told from their bytecode.

The weight of a converted conv is computed, so a write into it changes a temporary and is lost. Nothing in the tensor
could tell; the function that asks for the weight can, by what it does with it.
"""

from __future__ import annotations

import dis
import re
from collections.abc import Iterator
from types import CodeType
from typing import NamedTuple

from torch import nn

_INITIALISERS = frozenset(name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_"))
_WRITERS = _INITIALISERS | {"copy_", "fill_", "zero_"}
#: What ends in an underscore, as torch's in-place methods do, and leaves the values alone.
_NO_WRITERS = frozenset({"requires_grad_", "share_memory_", "detach_"})


def writers(code: CodeType) -> list[str]:
    """What a function may write into ``conv.weight`` with: initialisers anywhere, the others right behind it."""
    found = set(_WRITERS.intersection(code.co_names))
    return sorted(found.union(*(use.writers for use in _uses_of_weight(code))))


def writers_in_forward(cls: type[nn.Module]) -> list[str]:
    """What a conv's forward, and the methods that it calls, may write into the conv's own weight with."""
    found: set[str] = set()
    past_autograd = False
    left, seen = ["forward", "_conv_forward"], {"weight"}
    while left:
        seen.add(name := left.pop())
        method = getattr(cls, name, None)
        code = getattr(method, "__code__", None)
        if code is None or getattr(method, "__module__", "").startswith("torch.nn.modules."):
            continue
        for use in _uses_of_weight(code):
            found |= use.writers
            past_autograd |= use.through_data
        if any(step.opname == "STORE_ATTR" and step.argval == "weight" for step in dis.get_instructions(code)):
            found.add("weight = ...")
        left += [called for called in code.co_names if called not in seen]
    # Past autograd, which would refuse: of no use to a forward but for writing, in whatever way.
    return sorted(found) or ["weight.data"] * past_autograd


class _Use(NamedTuple):
    """What a function does with a weight that it reads."""

    through_data: bool
    writers: set[str]


def _uses_of_weight(code: CodeType) -> Iterator[_Use]:
    steps = [(step.opname, step.argval) for step in dis.get_instructions(code)]
    for place, (_, name) in enumerate(steps):
        if name != "weight":
            continue
        (operation, used), *behind = [*steps[place + 1 : place + 4], ("", None)]
        if augmented := operation in ("COPY", "DUP_TOP") and bool(behind):  # weight.data *= ...: read, then stored
            (operation, used), *behind = behind
        through_data = operation == "LOAD_ATTR" and used == "data"
        if through_data and behind:
            (operation, used), *behind = behind
        found = set()
        if (operation == "STORE_ATTR" and used == "data") or (through_data and augmented):
            found.add("data = ...")
        elif isinstance(used, str) and re.fullmatch(r"[a-z]\w*[a-z]_", used) and used not in _NO_WRITERS:
            found.add(used)
        yield _Use(through_data, found)
