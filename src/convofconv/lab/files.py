"""Files that are either complete or not there, and YAML files of keys and values."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ConfigError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to that takes the place of ``path`` once it is complete, and is removed if it is not.

    Raises:
        OSError: the folder cannot be written to.
    """
    # In the same folder, for os.replace is atomic within one file system only.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that a kill at any moment leaves the old file or the new one, never a part.

    Raises:
        OSError: the folder cannot be written to.
    """
    with replacing(path) as part:
        part.write_bytes(content)


def writable_folder(path: Path) -> Path:
    """Make the folder ``path`` if it is missing, and check that files can be made in it.

    Raises:
        ConfigError: it cannot be made, or not be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise ConfigError(f"{path}: no results can be written there ({error.strerror})") from error
    return path


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Read a YAML file of keys and values.

    Args:
        path: the file.
        what: it should be, "a recipe" for example, for messages.

    Raises:
        ConfigError: it is something else, or not readable.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: {what} has keys and values, this is a {type(values).__name__}")
    return values
