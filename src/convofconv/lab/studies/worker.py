"""One run of a study in a process of its own: ``python -m convofconv.lab.studies.worker FOLDER``.

The folder holds ``job.json`` (the recipe, and the code that it is for); it gets what every run leaves, or
``failure.json`` with the reason. A run that was killed goes on where it was.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from ...errors import ConvOfConvError
from ..files import writable_folder, write_atomic
from ..recipe import Recipe
from ..runs.fit import run_fit
from ..runs.folder import RunFolder, different_keys, plain_values, recipe_of

#: What a record takes over from ``results.json``; those of older code may lack some.
_TAKEN = (
    "metric",
    "test",
    "validation",
    "best_epoch",
    "history",
    "parameters",
    "largest_difference_after_folding",
    "versions",
    "device",
    "seconds",
    "cpu_seconds",
)


def write_job(folder: Path, recipe: Recipe, code: str, accepted: Collection[str]) -> str:
    """Write down what a worker shall run in a folder; what is left there of another recipe or code is removed.

    Args:
        folder: of the run.
        recipe: of the run.
        code: identity of the code that is about to run.
        accepted: identities of other code whose runs may be gone on with.

    Returns:
        Identity of the code that the run is recorded under: of the code that began it.
    """
    values, job = plain_values(recipe), folder / "job.json"
    if job.exists():
        theirs = json.loads(job.read_text(encoding="utf-8"))
        if not different_keys(theirs["recipe"], values) and theirs["code"] in {code, *accepted}:
            code = theirs["code"]
        else:
            shutil.rmtree(folder)
    writable_folder(folder)
    write_atomic(job, (json.dumps({"recipe": values, "code": code}, indent=2) + "\n").encode())
    return code


def read_job(folder: Path) -> Recipe:
    """The recipe that :func:`write_job` wrote."""
    values = json.loads((folder / "job.json").read_text(encoding="utf-8"))["recipe"]
    return recipe_of(values)


def run_job(folder: Path) -> None:
    """Do the run of a folder, or go on with it; what fails is written down as ``failure.json``."""
    failure = folder / "failure.json"
    # Whoever is at it already is finished with it, or dead, when the lock is free.
    with FileLock(folder / ".lock"):
        failure.unlink(missing_ok=True)
        if RunFolder(folder).results.is_file():
            return
        try:
            run_fit(read_job(folder), folder, resume=True)
        except (Exception, SystemExit) as error:
            known = isinstance(error, ConvOfConvError | OSError | MemoryError)
            reason = f"{'' if known else type(error).__name__ + ': '}{error or type(error).__name__}"
            write_atomic(failure, json.dumps({"reason": " ".join(reason.split())}).encode())


def outcome(folder: Path) -> Mapping[str, Any] | None:
    """What a record says of a finished or failed run, ``None`` if it is neither."""
    results, failure = RunFolder(folder).results, folder / "failure.json"
    if failure.is_file():
        return {"status": "failed", **json.loads(failure.read_text(encoding="utf-8"))}
    if not results.is_file():
        return None
    values = json.loads(results.read_text(encoding="utf-8"))
    return {"status": "done", **{key: values[key] for key in _TAKEN if key in values}}


def _die_with(parent: int) -> None:
    """End this process when the one that started it is gone, however it went."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    run_job(Path(sys.argv[1]))
