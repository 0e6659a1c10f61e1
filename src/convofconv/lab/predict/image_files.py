"""Which images are meant by files, folders and patterns, and what is written about each is called."""

from __future__ import annotations

import glob
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from ...errors import ConfigError
from ..data.visible import LEFTOVERS, files_below


def image_paths(given: Sequence[str], out: Path) -> list[Path]:
    """Files as they are given, images in and below folders, and those that patterns match; sorted, each once.

    Hidden files and folders are passed over, and so is what lies in ``out`` if that is below the folder searched.

    Args:
        given: paths, or patterns with ``*``, ``?``, ``[...]`` and ``**`` for any folders.
        out: the folder that results are written into.

    Raises:
        ConfigError: one of them leads to no image.
    """
    found: dict[str, Path] = {}
    for one in given:
        images = _search(one, out.resolve())
        if not images:
            what = "no images in this folder" if Path(one).is_dir() else "no such image, and no pattern of any"
            raise ConfigError(f"{one}: {what} (files that are searched for end in {', '.join(IMG_EXTENSIONS)})")
        for path in images:
            found.setdefault(os.path.abspath(path), path)
    if not found:
        raise ConfigError("no images are given; name files, folders or patterns behind RUN")
    return sorted(found.values())


def output_names(images: Sequence[Path]) -> list[str]:
    """A name for each image, no two alike: its path below the folder common to all of them, without ending.

    Where names would be alike otherwise, the ending stays (``a.jpg``), then they are numbered (``a.jpg-2``).
    """
    if not images:
        return []
    absolute = [Path(os.path.abspath(path)) for path in images]
    common = os.path.commonpath([path.parent for path in absolute])
    relative = [path.relative_to(common) for path in absolute]
    stems = Counter(path.with_suffix("").as_posix().lower() for path in relative)
    taken: set[str] = set()
    names = []
    for path in relative:
        stem, full = path.with_suffix("").as_posix(), path.as_posix()
        first = stem if stems[stem.lower()] == 1 else full
        for name in itertools.chain([first, full], (f"{full}-{number}" for number in itertools.count(2))):
            # On some systems a.png and A.png are the same file; the mask of a is a.mask.png.
            own = {name.lower(), f"{name.lower()}.mask"}
            if not own & taken:
                break
        taken |= own
        names.append(name)
    return names


def _search(given: str, out: Path) -> list[Path]:
    path = Path(given)
    if path.is_file():
        return [path]
    if path.is_dir():
        base, found = path, list(_images([path]))
    else:
        fixed = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
        # Names with a dot match no pattern; those without, only where the pattern has them.
        matches = map(Path, glob.glob(given, recursive=True))
        base, found = Path(*fixed), list(_images(m for m in matches if not LEFTOVERS & {*m.parts} - {*path.parts}))
    if base.resolve() in out.parents:
        found = [image for image in found if out not in image.resolve().parents]
    return found


def _images(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from _images(map(Path, files_below(path)))
        elif path.suffix.lower() in IMG_EXTENSIONS:
            yield path
