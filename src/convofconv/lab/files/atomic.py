"""Files that are either complete or not there, and YAML files of keys and values."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, Timeout

from ...errors import ConfigError

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


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """As :func:`writable_folder`; of the folders that this makes, those that stay empty are removed in the end."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        yield writable_folder(path)
    finally:
        for folder in made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


@contextmanager
def locked_folder(lock: BaseFileLock, timeout: float, taken: str, passing: Collection[str] = ()) -> Iterator[None]:
    """Make the folder of a lock's file and hold the lock; if nothing comes of it, the folder is removed in the end.

    Args:
        lock: its file lies in the folder, and stays there.
        timeout: seconds to wait for whoever holds it; -1 for as long as it takes.
        taken: what the error says when somebody else holds it.
        passing: names of files and folders that are nothing by themselves, and do not keep a folder that this has made.

    Raises:
        ConfigError: somebody else holds the lock, or the folder cannot be written to.
    """
    file = Path(lock.lock_file)
    is_new = not file.parent.exists()
    with new_folder(file.parent) as folder:
        try:
            lock.acquire(timeout)
        except Timeout as error:
            raise ConfigError(taken) from error
        try:
            yield
        finally:
            if is_new and {path.name for path in folder.iterdir()} <= {file.name, *passing}:
                for path in folder.iterdir():
                    with suppress(OSError):  # Windows keeps the lock's file while it is held, and so the folder
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
            lock.release()


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
