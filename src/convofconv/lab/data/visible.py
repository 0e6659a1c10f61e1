"""Which files and folders are looked at wherever a folder is searched: not hidden ones, nor what systems leave."""

from __future__ import annotations

import os
from pathlib import Path

#: What macOS puts into archives, network storage beside images, and systems on disks; others begin with a dot, such as
#: macOS's resource forks (``._0.jpg``) and ``.ipynb_checkpoints``.
LEFTOVERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over.

    Examples:
        >>> [name for name in ("0.jpg", "._0.jpg", ".ipynb_checkpoints", "__MACOSX") if not is_hidden(name)]
        ['0.jpg']
    """
    return name.startswith(".") or name in LEFTOVERS


def folders_in(folder: Path) -> list[str]:
    """Names of the visible folders in ``folder``, sorted; none if there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # which need not ask about every file
        return sorted(entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name))


def files_below(folder: Path, follow_links: bool = False) -> list[str]:
    """Paths of the visible files in and below ``folder``, in the order of torchvision's ``make_dataset``.

    None if there is no such folder.

    Args:
        folder: is searched, also if it is hidden itself.
        follow_links: search linked folders too.

    Raises:
        OSError: a folder may not be read.
    """

    def refuse(error: OSError) -> None:
        raise error  # os.walk would pass silently over it

    if not folder.is_dir():
        return []
    found: list[tuple[str, str]] = []
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=follow_links):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [(place, name) for name in files if not is_hidden(name)]
    return [os.path.join(*one) for one in sorted(found)]
