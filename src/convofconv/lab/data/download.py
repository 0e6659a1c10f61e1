"""Data that may be fetched is fetched once, however many processes need it."""

from __future__ import annotations

from collections.abc import Callable

from filelock import FileLock

from ...errors import ConfigError
from ..recipe.schema import DataRecipe


def fetch_unless_there(recipe: DataRecipe, there: Callable[[], object], fetch: Callable[[], object]) -> None:
    """Fetch data if it may be and is missing: one of several processes does, the others wait for it.

    Args:
        recipe: whether it may be fetched, and where to.
        there: whether it is there.
        fetch: does it.

    Raises:
        ConfigError: it cannot be fetched.
    """
    if not recipe.download:
        return
    assert recipe.root is not None  # a recipe without one is refused
    refusal = f"data.download: {recipe.name} could not be fetched into {recipe.root}"
    lock = FileLock(recipe.root / ".download.lock")
    try:
        recipe.root.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        if there():  # in a folder that is only to be read
            return
        raise ConfigError(f"{refusal} ({error})") from error
    try:
        if not there():
            fetch()
    except Exception as error:  # of the network, the disk, or a wrong checksum
        raise ConfigError(f"{refusal} ({error})") from error
    finally:
        lock.release()
