"""How far work has come: a bar on a terminal, and lines that are there at once, wherever they go."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm


def watched() -> bool:
    """Whether somebody looks at the output."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def progress_bar(total: int, what: str) -> Any:
    """A tqdm bar that disappears when it is closed; its ``disable`` says whether somebody looks at it."""
    return tqdm(total=total, desc=what, disable=not watched(), leave=False, dynamic_ncols=True)


def print_line(line: str, log: Path | None = None) -> None:
    """Print a line at once, above the bar where there is one, and add it to the file ``log`` with the time."""
    tqdm.write(line)
    sys.stdout.flush()  # a pipe or a file would keep it until there are many
    if log is not None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")


class Remaining:
    """How long the rest of some work takes, by the time that its parts have taken since this was made.

    Args:
        total: number of parts.
        done: of those that are done already.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self.total, self._before, self._start = total, done, time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since this was made."""
        return time.monotonic() - self._start

    def seconds(self, done: int) -> float | None:
        """What the rest takes when ``done`` parts are done; ``None`` if none was since this was made."""
        if done <= self._before:
            return None
        return self.elapsed / (done - self._before) * max(0, self.total - done)


def duration(seconds: float) -> str:
    """A time in its two largest units.

    Examples:
        >>> duration(42), duration(59.7), duration(754), duration(12345)
        ('42 s', '1 min 0 s', '12 min 34 s', '3 h 26 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return "{} min {} s".format(*divmod(whole, 60))
    return "{} h {} min".format(*divmod(round(seconds / 60), 60))
