"""Records of a study: one JSON line per run, only ever appended to, complete or not there."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from ...errors import ConfigError
from ..files.atomic import locked_folder

#: One line. A run's has ``kind`` "run", ``run`` (its name), ``network``, ``variant``, ``seed``, ``stage`` ("tuning" or
#: "final"), ``tuned`` (settings that are being tried), ``recipe`` (nested, complete), ``code`` (identity of what
#: computed it) and ``status``: "failed" with a ``reason``, or "done" with what ``results.json`` holds besides:
#: ``metric`` (name of the one that matters), ``test`` (``as_trained`` and ``folded``, numbers by metric),
#: ``validation`` (numbers of the best epoch), ``best_epoch``, ``history`` (numbers per epoch), ``parameters``
#: (``as_trained`` and ``folded``), ``largest_difference_after_folding``, ``versions``, ``seconds`` of training and
#: ``cpu_seconds`` that it took of its process, which what else the machine does changes least.
#: A line of ``kind`` "inspection" has the ``run`` that was looked into, the version of ``convofconv`` that did it, and
#: ``numbers`` by name of what was measured, see :data:`~convofconv.lab.inspect.measures.MEASURES`.
#: A line of ``kind`` "accept" says that results of ``code`` may stand beside those of ``beside``, and why (``reason``).
Record = Mapping[str, Any]


class Records:
    """The file of a study's records.

    Args:
        path: the file; made with the first record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Record]:
        """All records, in the order in which they were written.

        Raises:
            ConfigError: a line is damaged; the last one alone may be cut short, by a kill while it was written.
        """
        if not self.path.exists():
            return []
        *lines, _rest = self.path.read_bytes().split(b"\n")
        records = []
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                if record["kind"] == "run":
                    record["run"], record["status"]
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"{self.path}, line {number}: not a record ({error}); mend or remove it") from error
            records.append(record)
        return records

    def append(self, record: Record) -> None:
        """Write one more record; when this returns, it is on the disk."""
        line = json.dumps(record, sort_keys=True, allow_nan=False).encode() + b"\n"
        with self.path.open("ab") as file:
            self._cut_rest()
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _cut_rest(self) -> None:
        """Drop what a kill left of the last line."""
        content = self.path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(self.path, content.rfind(b"\n") + 1)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from writing, until the end of the block or of this process.

        Raises:
            ConfigError: somebody else does so already.
        """
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        with locked_folder(lock, timeout=0, taken=f"{self.path}: another coc study is writing to it; wait for its end"):
            yield


def inspections(records: Sequence[Record]) -> dict[str, Record]:
    """The last inspection of every run by the run's name."""
    return {record["run"]: record for record in records if record["kind"] == "inspection"}


def runs(records: Sequence[Record]) -> dict[str, Record]:
    """The last record of every run by its name: a run that failed once may have been done since."""
    return {record["run"]: record for record in records if record["kind"] == "run"}
