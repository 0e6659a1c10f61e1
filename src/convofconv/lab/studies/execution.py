"""``coc study run``: what is not done yet is done, and every run leaves one record."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ...errors import ConfigError, listing
from ..files.run_folder import RunFolder
from ..progress import Remaining, duration, print_line, progress_bar
from ..recipe.schema import Recipe
from ..training.finish import versions
from .code_identity import code_identity
from .local_workers import LocalWorkers, Outcome
from .plan import Job, NotYet, accepted_code, check_records, names_of_runs, pending, plan
from .records import Records, runs
from .study import Study
from .worker import begun_by, code_of, has_come_far, write_job


class Workers(Protocol):
    """Whatever does runs: processes of this machine, or a cluster."""

    def run(self, folders: Sequence[Path], tick: Callable[[], None]) -> Iterator[Outcome]:
        """Do the runs of these folders, and give each one's outcome when it is there."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Where and how a study is run; none of it decides a result.

    Args:
        results: folder for records and reports.
        runs: folder for the runs' checkpoints and networks.
        data: folder that takes the place of ``data`` in the recipes' ``data.root``, and is the same for all workers,
            wherever they were started.
        workers: runs at a time on this machine.
        threads: CPU threads per run.
        data_workers: processes per run that read images; ``None`` for as many as the recipe has.
        address: of a Ray cluster; empty for this machine alone.
        gpus: GPUs per run on the cluster, fractions allowed.
        only: patterns of names of runs, with ``*`` for any text; empty for all.
        dry_run: only report which runs would be done.
        retry_failed: run again what failed.
        accept_code: why results of other code may stand beside new ones; empty for a refusal.
    """

    results: Path = Path("results")
    runs: Path = Path("runs/studies")
    data: Path = Path("data")
    workers: int = 1
    threads: int = 1
    data_workers: int | None = None
    address: str = ""
    gpus: float = 0.0
    only: Sequence[str] = ()
    dry_run: bool = False
    retry_failed: bool = False
    accept_code: str = ""

    def __post_init__(self) -> None:
        for name in ("workers", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if self.data_workers is not None and self.data_workers < 0:
            raise ConfigError(f"--data-workers must be at least 0, got {self.data_workers}")
        if self.gpus < 0:
            raise ConfigError(f"--gpus must be at least 0, got {self.gpus}")
        if self.gpus and not self.address:
            raise ConfigError("--gpus is for a cluster (--address); on one machine every worker takes a GPU of its own")

    @property
    def machine(self) -> dict[str, int]:
        """Settings of every run's recipe that suit this machine."""
        return {
            "machine.threads": self.threads,
            **({} if self.data_workers is None else {"data.workers": self.data_workers}),
        }

    @property
    def folders(self) -> list[tuple[str, str]]:
        """What stands for this machine's folders in a record, and their paths, the longest first."""
        folders = {"{runs}": self.runs, "{results}": self.results, "{data}": self.data}
        paths = [
            (name, str(path))
            for name, folder in folders.items()
            for path in dict.fromkeys((folder.absolute(), folder.resolve()))
        ]
        return sorted(paths, key=lambda item: len(item[1]), reverse=True)


def study_folder(study: Study, results: Path) -> Path:
    """Where a study's records and reports are."""
    return results / f"{study.name}-{study.budget}"


def records_of(study: Study, results: Path) -> Records:
    """The records of a study."""
    return Records(study_folder(study, results) / "records.jsonl")


def run_study(study: Study, options: RunOptions) -> None:
    """Do every run of a study that has no record yet, and record it.

    Raises:
        ConfigError: no run can be started, or one does not belong to the records that are there, and nothing was run;
            or, at the end, runs have failed.
    """
    records = records_of(study, options.results)
    with records.locked() if not options.dry_run else contextlib.nullcontext():
        if options.accept_code and not options.dry_run:
            _accept(study, records, options)
        tried: set[str] = set()
        workers: Workers | None = None
        # Again, for the runs that are compared are known only when those that tune are done.
        while todo := _to_do(study, options, records, tried):
            if options.dry_run:
                print("\n".join(f"{job.name}  {job.folder(options.runs)}" for job, _ in todo))
                return
            tried.update(job.name for job, _ in todo)
            workers = workers or _workers(options)
            _run_all(study, todo, options, records, workers)
        names, wanted = set(names_of_runs(study)), _wanted(study, options.only)
        done = {name: record for name, record in runs(records.read()).items() if name in names}
    failed = [
        f"{name}: {_with_folders(record['reason'], options)}"
        for name, record in done.items()
        if record["status"] == "failed"
    ]
    print(f"{len(done) - len(failed)} of {len(names)} runs done, {len(failed)} failed: {records.path}")
    if failed:
        print("\n".join(f"  {line}" for line in failed))
    if again := [name for name in wanted if name in done and done[name]["status"] == "failed"]:
        raise ConfigError(f"{study.name}: {len(again)} of its runs failed; --retry-failed does them again")


def _accept(study: Study, records: Records, options: RunOptions) -> None:
    """Write down that runs of other code are accepted, those of the records and those that have only begun."""
    read, own = records.read(), code_identity()
    others = {record["code"] for record in runs(read).values()}
    folders = [job.folder(options.runs) for job in plan(study, read)]
    others |= {code_of(folder) for folder in folders if has_come_far(folder)}
    for code in sorted(others - {own, "unknown"} - accepted_code(read, own)):
        records.append({"kind": "accept", "code": code, "beside": own, "reason": options.accept_code})


def _wanted(study: Study, only: Sequence[str]) -> set[str]:
    names = names_of_runs(study)
    found = {pattern: fnmatch.filter(names, pattern) for pattern in only or ["*"]}
    if wrong := [pattern for pattern, matching in found.items() if not matching]:
        raise ConfigError(f"--only: no run is called like {listing(wrong)}; {names[0]} is one, --dry-run lists them")
    return {name for matching in found.values() for name in matching}


def _to_do(study: Study, options: RunOptions, records: Records, tried: set[str]) -> list[tuple[Job, Recipe]]:
    """The runs that are to be done, with their recipes; a run whose recipe is impossible is recorded as failed.

    A run that has to wait for another study is neither done nor recorded.
    """
    read = records.read()
    jobs = plan(study, read)
    recipes: dict[str, Recipe] = {}
    impossible: dict[str, ConfigError] = {}
    for job in jobs:
        try:
            recipes[job.name] = job.build_recipe(options.runs, options.data, options.machine)
        except ConfigError as error:
            impossible[job.name] = error
    if not recipes and jobs:
        raise ConfigError(f"{study.name}: no run is possible. {jobs[0].name}: {impossible[jobs[0].name]}")
    values = {job.name: job.values(recipes[job.name]) for job in jobs if job.name in recipes}
    check_records(records.path, values, read, code_identity())
    todo = []
    wanted = _wanted(study, options.only)
    for job in pending(jobs, values, read, options.retry_failed):
        if job.name in tried or job.name not in wanted:
            continue
        if job.name in recipes:
            todo.append((job, recipes[job.name]))
            continue
        tried.add(job.name)
        reason = impossible[job.name]
        if isinstance(reason, NotYet):
            print(f"left out {job.name}: {reason}")
            continue
        print(f"impossible: {job.name}: {reason}")
        failure = {"status": "failed", "reason": _without_folders(str(reason), options)}
        known = runs(read).get(job.name, {}).get("reason") == failure["reason"]
        if not options.dry_run and (options.retry_failed or not known):
            records.append(_record(job, {}, code_identity(), failure))
    return todo


def _workers(options: RunOptions) -> Workers:
    if not options.address:
        return LocalWorkers(options.workers)
    from .ray_workers import RayWorkers

    return RayWorkers(options.address, options.threads, options.gpus)


def _run_all(
    study: Study, todo: Sequence[tuple[Job, Recipe]], options: RunOptions, records: Records, workers: Workers
) -> None:
    by_folder = {job.folder(options.runs): (job, recipe) for job, recipe in todo}
    accepted = accepted_code(records.read(), code_identity())
    for folder, (_, recipe) in by_folder.items():
        begun_by(folder, recipe, code_identity(), accepted)  # refuses, before any folder is written to
    codes = {folder: write_job(folder, recipe, code_identity(), accepted) for folder, (_, recipe) in by_folder.items()}
    where = f"on {options.address}" if options.address else f"{options.workers} at a time"
    print_line(f"{study.name}, {study.budget}: {len(todo)} of {len(names_of_runs(study))} runs to do, {where}")
    with _Progress(study.name, by_folder) as progress:
        for number, (folder, outcome) in enumerate(workers.run(list(by_folder), progress.update), 1):
            job, recipe = by_folder[folder]
            begun = {"start_code": code_of(start)} if (start := job.start(options.runs)) else {}
            reason = {"reason": _without_folders(outcome["reason"], options)} if "reason" in outcome else {}
            records.append(_record(job, job.values(recipe), codes[folder], {**begun, **outcome, **reason}))
            progress.update()
            print_line(f"[{number}/{len(todo)}] {job.name}: {_line(outcome)}{progress.left()}")


def _record(job: Job, recipe: Mapping[str, Any], code: str, outcome: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": "run",
        "run": job.name,
        "network": job.network,
        "variant": job.variant,
        "seed": job.seed,
        "stage": job.stage,
        "tuned": dict(job.tuned),
        "recipe": recipe,
        "code": code,
        "versions": versions(),
        **outcome,
    }


def _without_folders(reason: str, options: RunOptions) -> str:
    """A reason as it is recorded: records are published, and mean the same on every machine."""
    for name, path in options.folders:
        reason = reason.replace(path, name)
    return reason


def _with_folders(reason: str, options: RunOptions) -> str:
    """A recorded reason as it is reported on this machine."""
    for name, path in options.folders:
        reason = reason.replace(name, path)
    return reason


def _line(outcome: Mapping[str, Any]) -> str:
    if outcome["status"] == "failed":
        return f"failed, {outcome['reason']}"
    metric = outcome["metric"]
    return f"{metric} {outcome['test']['folded'][metric]:.2f} % in {duration(outcome['seconds'])}"


class _Progress:
    """A bar over the epochs of all runs on a terminal, elsewhere a line for each run that begins."""

    def __init__(self, name: str, jobs: Mapping[Path, tuple[Job, Recipe]]) -> None:
        self._names = {folder: job.name for folder, (job, _) in jobs.items()}
        self._printed = {folder: _size(folder) for folder in jobs}  # of those that have not begun
        self._bar = progress_bar(sum(recipe.training.epochs for _, recipe in jobs.values()), f"{name}, epochs")

    def __enter__(self) -> _Progress:
        self._remaining = Remaining(self._bar.total, self._done())
        self._bar.update(self._done())
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _done(self) -> int:
        return sum(epochs_done(RunFolder(folder)) for folder in self._names)

    def update(self) -> None:
        """Look into the runs' folders."""
        if not self._bar.disable:
            self._bar.update(self._done() - self._bar.n)
            return
        for folder in [folder for folder, before in self._printed.items() if _size(folder) > before]:
            del self._printed[folder]
            begun = len(self._names) - len(self._printed)
            print_line(f"{self._names[folder]} begins, {begun} of {len(self._names)}{self.left()}")

    def left(self) -> str:
        """The time that is left, by the epochs that were done since the start; nothing where none was."""
        seconds = self._remaining.seconds(self._done())
        return f"; {duration(seconds)} left" if seconds else ""


def _size(folder: Path) -> int:
    """Of what a run has printed, which grows when it begins or is resumed."""
    printed = RunFolder(folder).printed
    return printed.stat().st_size if printed.is_file() else 0


def epochs_done(folder: RunFolder) -> int:
    """Epochs that a run has done: lines of its table, without the heading."""
    return folder.log.read_bytes().count(b"\n") - 1 if folder.log.is_file() else 0
