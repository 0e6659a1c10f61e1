"""Files that are either complete or not there, and YAML files of keys and values."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ConfigError

#: How files end that are not complete yet.
_PART = ".part"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to that takes the place of ``path`` once it is complete, and is removed if it is not.

    Raises:
        OSError: the folder cannot be written to.
    """
    # In the same folder, for os.replace is atomic within one file system only.
    part = path.with_name(f".{path.name}.{os.getpid()}{_PART}")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what killed processes have left of :func:`replacing`, in a folder that nobody else writes to now."""
    for part in folder.glob(f".*{_PART}"):
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

    class Loader(yaml.SafeLoader):
        """Refuses a key that stands there twice, of which the first would be lost."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            if twice := [key for place, key in enumerate(keys) if key in keys[:place] and key != "<<"]:
                raise yaml.YAMLError(f"{twice[0]} stands there twice, the second time in line {node.end_mark.line}")
            return super().construct_mapping(node, deep)

    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: {what} has keys and values, this is a {type(values).__name__}")
    return values
