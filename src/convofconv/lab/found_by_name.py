"""What is found by the name of its file: the lab's tasks and data sources.

A new one is a new file in its room; nothing else lists it. A recipe asks here, so that it depends on no task and no
source: they depend on it.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tasks import Task


def names_in(room: str) -> tuple[str, ...]:
    """Names of all files of a room, sorted; none of them is imported.

    Args:
        room: a package of the lab, ``tasks`` for example.
    """
    package = importlib.import_module(f"{__package__}.{room}")
    return tuple(sorted(module.name for module in pkgutil.iter_modules(package.__path__)))


def find(room: str, name: str) -> ModuleType:
    """Import a file of a room.

    Args:
        room: a package of the lab.
        name: one of :func:`names_in`.
    """
    return importlib.import_module(f"{__package__}.{room}.{name}")


def find_task(name: str) -> Task:
    """The object of a task.

    Args:
        name: a recipe's ``task``.
    """
    task: Task = find("tasks", name).TASK
    return task
