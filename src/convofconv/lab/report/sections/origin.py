"""Where the numbers come from: folders, commands and versions."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ..parts.section import Section
from ..parts.tables import NOTHING, table
from ..reported_runs import ReportedRun

#: Digits of a commit that are shown, as git does.
_COMMIT = 10


def section(runs: Sequence[ReportedRun]) -> Section:
    """A row per run."""
    versions = list(dict.fromkeys(key for run in runs for key in run.results["versions"]))
    rows = [
        [run.name, str(run.folder.path), _command(run), *(_version(run, name) for name in versions)] for run in runs
    ]
    numbers = {
        run.name: {
            "folder": str(run.folder.path),
            "command": run.results.get("command"),
            "versions": dict(run.results["versions"]),
        }
        for run in runs
    }
    heading = ["run", "folder", "command", *(name.replace("_", " ") for name in versions)]
    return Section("Origin", table("Folders, commands and versions", heading, rows, texts=True), numbers)


def _command(run: ReportedRun) -> str:
    """As it was typed; a script's whole path says nothing that its name does not."""
    words = [str(word) for word in run.results.get("command") or []]
    return shlex.join([Path(words[0]).name, *words[1:]]) if words else NOTHING


def _version(run: ReportedRun, name: str) -> str:
    found = str(run.results["versions"].get(name) or NOTHING)
    return found[:_COMMIT] if name == "git_commit" else found
