"""One run of a study in a process of its own: ``python -m convofconv.lab.studies.worker FOLDER PARENT``.

The folder holds ``job.json`` (the recipe, the code that began the run and the code that is to do it now); it gets what
every run leaves, or ``failure.json`` with the reason. A run that was killed goes on where it was.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import ConfigError, ConvOfConvError, listing
from ..files.atomic import write_atomic
from ..files.run_folder import RunFolder
from ..recipe.comparing import different_keys, plain_values
from ..recipe.recipe_files import recipe_of
from ..recipe.schema import Recipe
from ..training.run import run_fit
from .code_identity import code_identity

#: Why a run failed.
_FAILURE = "failure.json"
#: What a run's process prints, in its folder.
OUTPUT = "output.txt"
#: What a record takes over from ``results.json``; those of older code may lack some.
_TAKEN = (
    *("metric", "test", "validation", "best_epoch", "history", "parameters", "largest_difference_after_folding"),
    *("versions", "device", "seconds", "cpu_seconds"),
)
#: How names in the environment begin that launchers of several processes leave there, by which Lightning would go.
_LAUNCHERS = (
    *("SLURM_", "TORCHELASTIC_", "WORLD_SIZE", "RANK"),
    *("LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK"),
)


def begun_by(folder: Path, recipe: Recipe, code: str, accepted: Collection[str]) -> str | None:
    """The code that began the run which is to be resumed in a folder.

    Args:
        folder: of the run.
        recipe: of the run.
        code: identity of the code that is about to run.
        accepted: identities of other code whose runs may be resumed.

    Returns:
        Its identity; ``None`` where the folder is free, also of a run of other code or another recipe that has failed.

    Raises:
        ConfigError: a run of another recipe or code has come to a checkpoint there.
    """
    if not has_come_far(folder):
        return None
    job = folder / "job.json"
    theirs: dict[str, Any]
    theirs = json.loads(job.read_text(encoding="utf-8")) if job.exists() else {"recipe": {}, "code": "unknown"}
    wrong = different_keys(theirs["recipe"], plain_values(recipe))
    if not wrong and theirs["code"] in {code, *accepted}:
        return str(theirs["code"])
    if (folder / _FAILURE).is_file() and not RunFolder(folder).results.is_file():
        return None  # it is only asked for where failed runs are to be done again
    what = f"other settings: {listing(wrong)}" if wrong else f"other code ({theirs['code']}, this is {code})"
    accept = "" if wrong else "if the difference cannot change results, say why: --accept-code 'REASON'; otherwise "
    raise ConfigError(f"{folder} holds a run of {what}; {accept}choose another --runs, or remove the folder")


def write_job(folder: Path, recipe: Recipe, code: str, accepted: Collection[str]) -> str:
    """Write down what a worker shall run in a folder, where nothing stays of a run that is not resumed.

    Returns:
        Identity of the code that the run is recorded under: of the code that began it.

    Raises:
        ConfigError: as :func:`begun_by`, whose arguments these are; or somebody is at work there.
    """
    with RunFolder(folder).at_work(timeout=5):
        recorded = begun_by(folder, recipe, code, accepted)
        if recorded is None:
            _empty(folder)
            recorded = code
        (folder / _FAILURE).unlink(missing_ok=True)  # a process that dies at once must not leave the one before it
        values = {"recipe": plain_values(recipe), "code": recorded, "runs_on": code}
        write_atomic(folder / "job.json", (json.dumps(values, indent=2) + "\n").encode())
    return recorded


def has_come_far(folder: Path) -> bool:
    """Whether there is work in a folder that would be lost."""
    run = RunFolder(folder)
    return run.last.exists() or run.results.exists()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path != RunFolder(folder).lock:
            path.unlink()


def code_of(folder: Path) -> str:
    """Identity of the code that began a folder's run; ``"unknown"`` of one that no study has run."""
    job = folder / "job.json"
    return str(json.loads(job.read_text(encoding="utf-8"))["code"]) if job.is_file() else "unknown"


def run_job(folder: Path) -> None:
    """Do the run of a folder, or resume it; what fails is written down as ``failure.json``.

    Raises:
        ConfigError: there is no job in the folder.
    """
    if not (folder / "job.json").is_file():
        raise ConfigError(f"{folder} has no job.json: --runs must be a folder that all machines share")
    forget_launchers()
    failure = folder / _FAILURE
    # Whoever is at it already is finished with it, or dead, when the lock is free.
    with RunFolder(folder).at_work(timeout=-1):
        failure.unlink(missing_ok=True)
        if RunFolder(folder).results.is_file():
            return
        try:
            job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
            if job["runs_on"] != code_identity():
                raise ConfigError(
                    f"the study was started with code {job['runs_on']}, here is {code_identity()}: install the same on "
                    "every machine, and leave it alone while a study runs"
                )
            run_fit(recipe_of(job["recipe"]), folder, resume=True)
        except Exception as error:  # not what ends a process, a signal for instance: then it is started again
            known = isinstance(error, ConvOfConvError | OSError | MemoryError)
            reason = f"{'' if known else type(error).__name__ + ': '}{str(error) or type(error).__name__}"
            with (folder / OUTPUT).open("a", encoding="utf-8") as output:
                traceback.print_exc(file=output)
            write_atomic(failure, json.dumps({"reason": " ".join(reason.split())}).encode())


def forget_launchers() -> None:
    """Take out of the environment what launchers of several processes leave there: a run here is one process."""
    for name in [name for name in os.environ if name.startswith(_LAUNCHERS)]:
        del os.environ[name]


def outcome(folder: Path) -> Mapping[str, Any] | None:
    """What a record says of a finished or failed run, ``None`` if it is neither."""
    results, failure = RunFolder(folder).results, folder / _FAILURE
    if failure.is_file():
        return {"status": "failed", **json.loads(failure.read_text(encoding="utf-8"))}
    if not results.is_file():
        return None
    values = json.loads(results.read_text(encoding="utf-8"))
    taken = {key: values[key] for key in _TAKEN if key in values}
    if wrong := dict.fromkeys(_no_numbers(taken)):
        reason = f"no numbers in its results: {listing(wrong)}; remove {folder} to run it again"
        return {"status": "failed", "reason": reason}
    return {"status": "done", **taken}


def _no_numbers(values: Any, key: str = "") -> Iterator[str]:
    """Dotted keys of NaN and infinity, which no record holds."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _no_numbers(value, f"{key}.{name}".lstrip("."))
    elif isinstance(values, list):
        for value in values:
            yield from _no_numbers(value, key)
    elif isinstance(values, float) and not math.isfinite(values):
        yield key


def _die_with(parent: int) -> None:
    """End this process when the one that started it is gone, however and whenever it went."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_die_with, args=(int(sys.argv[2]),), daemon=True).start()
    run_job(Path(sys.argv[1]))
