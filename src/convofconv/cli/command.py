"""What a sub-command of ``coc`` is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


@dataclasses.dataclass(frozen=True)
class Command:
    """A sub-command: its line in ``coc --help``, its own help, its options and what it does with them."""

    summary: str
    description: str
    add_options: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], None]


@dataclasses.dataclass(frozen=True)
class Group:
    """A sub-command that has sub-commands."""

    summary: str
    description: str
    commands: Mapping[str, Command]
