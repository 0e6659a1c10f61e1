"""From a study to its runs: which there are, with which recipe, and which of them are still to be done."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ConfigError, listing
from ..files.run_folder import RunFolder
from ..models.run_weights import finished_run
from ..recipe.comparing import different_keys, plain_values
from ..recipe.recipe_files import flat, recipe_from
from ..recipe.schema import Recipe
from .records import Record, runs
from .study import Settings, Study

#: Stands in a setting for the folder of all runs, so that a network can start from another study's run.
_RUNS = "{runs}"


class NotYet(ConfigError):
    """A run that will be possible when another study has been run."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a study.

    Args:
        study: name of the study.
        budget: of the study.
        network: label of the network.
        variant: name of the variant.
        seed: of the run.
        recipe: name of the recipe.
        settings: over the recipe, by dotted key.
        tuned: settings that this run tries; empty for a run that is compared.
    """

    study: str
    budget: str
    network: str
    variant: str
    seed: int
    recipe: str
    settings: Settings
    tuned: Settings = dataclasses.field(default_factory=dict)

    @property
    def stage(self) -> str:
        """Whether the run chooses settings or is compared."""
        return "tuning" if self.tuned else "final"

    @property
    def name(self) -> str:
        """The run's name in records, and its folder."""
        tried = [f"{key.rpartition('.')[2]}={value}" for key, value in self.tuned.items()]
        return "/".join([self.network, self.variant, *tried, f"seed{self.seed}"])

    def folder(self, runs_folder: Path) -> Path:
        """Folder of the run."""
        return runs_folder / f"{self.study}-{self.budget}" / self.name

    def build_recipe(self, runs_folder: Path, data: Path | None = None, machine: Settings | None = None) -> Recipe:
        """The run's recipe on this machine.

        Args:
            runs_folder: where runs have their folders.
            data: folder that takes the place of ``data`` in the recipe's ``data.root``.
            machine: settings that suit this machine and decide no result.

        Raises:
            NotYet: the run that this one starts from is not there.
            ConfigError: a setting is impossible, or the data is missing.
        """
        settings = {**self.settings, **(machine or {}), "training.seed": self.seed}
        if start := self.start(runs_folder):
            if not RunFolder(start).results.is_file():
                raise NotYet(
                    f"it starts from the run in {start}, which is not there: run its study first, with these --runs "
                    "(and with other --results, if its records are there and only its networks are gone)"
                )
            settings["model.weights"] = str(start.resolve())
        recipe = recipe_from(self.recipe, settings, data)
        if recipe.model.weights not in ("", "timm"):
            finished_run(recipe.model.weights)  # which a worker would find out behind its data
        return recipe

    def start(self, runs_folder: Path) -> Path | None:
        """Folder of the run, of another study, whose network this one starts from; ``None`` if there is no such run."""
        weights = self._weights()
        return runs_folder / Path(weights).relative_to(_RUNS) if _RUNS in weights else None

    def _weights(self) -> str:
        weights = str(self.settings.get("model.weights", ""))
        return weights.replace("{variant}", self.variant).replace("{seed}", str(self.seed))

    def values(self, recipe: Recipe) -> dict[str, Any]:
        """The recipe for the record: plain values, that name no folder of this machine."""
        values = plain_values(recipe)
        values["data"]["root"] = None
        if _RUNS in (weights := self._weights()):
            values["model"]["weights"] = weights
        return values


def plan(study: Study, records: Sequence[Record]) -> list[Job]:
    """The runs that can be done now; what tuning has to choose first comes before what is compared.

    One seed after the other, so that a study cut short has compared all variants, with fewer seeds.
    """
    jobs = list(_tuning_jobs(study))
    chosen = choose_settings(study, records)
    for seed in range(max(max(seeds) for seeds in study.seeds.values()) + 1):
        for network, variant in study.cells:
            if seed in study.seeds[variant] and (network, variant) in chosen:
                jobs.append(_job(study, network, variant, seed, chosen[network, variant]))
    return jobs


def _tuning_jobs(study: Study) -> Iterator[Job]:
    if study.tuning:
        for seed, (network, variant) in itertools.product(study.tuning.seeds, study.cells):
            for point in study.tuning.points():
                job = _job(study, network, variant, seed, {**study.tuning.settings, **point})
                yield dataclasses.replace(job, tuned=point)


def _job(study: Study, network: str, variant: str, seed: int, more: Settings) -> Job:
    settings = {**study.settings(network, variant), **more}
    return Job(study.name, study.budget, network, variant, seed, study.networks[network]["recipe"], settings)


def names_of_runs(study: Study) -> list[str]:
    """Names of all runs of the whole study, those included that wait for tuning."""
    compared = [_job(study, *cell, seed, {}).name for cell in study.cells for seed in study.seeds[cell[1]]]
    return [*(job.name for job in _tuning_jobs(study)), *compared]


def choose_settings(study: Study, records: Sequence[Record]) -> dict[tuple[str, str], Settings]:
    """The tuned settings of every network and variant whose tuning is complete: the best mean validation metric.

    A point with a failed run, of a rate that diverges for example, is not chosen; of equal ones the first is. A network
    and variant of which every point failed is left out. What runs were compared with stays, even if a point that failed
    then has been done since.
    """
    if study.tuning is None:
        return {cell: {} for cell in study.cells}
    done = runs(records)
    chosen: dict[tuple[str, str], Settings] = {}
    for network, variant in study.cells:
        points = list(study.tuning.points())
        compared = (_job(study, network, variant, seed, {}).name for seed in study.seeds[variant])
        recipes = [flat(done[name]["recipe"]) for name in compared if name in done and done[name]["recipe"]]
        if kept := [point for point in points if recipes and point.items() <= recipes[0].items()]:
            chosen[network, variant] = kept[0]
            continue
        jobs = [job for job in _tuning_jobs(study) if (job.network, job.variant) == (network, variant)]
        if not all(job.name in done for job in jobs):
            continue
        scores: list[tuple[float, Settings]] = []
        for point in points:
            ours = [done[job.name] for job in jobs if job.tuned == point]
            if all(record["status"] == "done" for record in ours):
                scores.append((statistics.fmean(r["validation"][r["metric"]] for r in ours), point))
        if scores:
            chosen[network, variant] = max(scores, key=lambda score: score[0])[1]
    return chosen


def pending(
    jobs: Sequence[Job], recipes: Mapping[str, Any], records: Sequence[Record], retry_failed: bool
) -> list[Job]:
    """The runs that have no record yet, or only one of a failure if that is to be tried again.

    A failure of another recipe than now is none of this run: the recipe has been mended. One that was impossible has no
    recipe in its record, and is none either.
    """
    finished = set()
    for name, record in runs(records).items():
        mended = not record["recipe"] or (name in recipes and different_keys(record["recipe"], recipes[name]))
        if record["status"] == "done" or (record["status"] == "failed" and not mended and not retry_failed):
            finished.add(name)
    return [job for job in jobs if job.name not in finished]


def accepted_code(records: Sequence[Record], code: str) -> set[str]:
    """Identities of other code whose results were said to belong beside those of ``code``."""
    return {record["code"] for record in records if record["kind"] == "accept" and record["beside"] == code}


def check_records(path: Path, recipes: Mapping[str, Any], records: Sequence[Record], code: str) -> None:
    """Refuse to add to records that other code or other settings have made.

    Args:
        path: of the records, for messages.
        recipes: plain values of the recipe of every planned run, by its name.
        records: those that are there.
        code: identity of the code that would add to them.

    Raises:
        ConfigError: they do not belong together; the message says what differs and what to do.
    """
    accepted = accepted_code(records, code)
    for name, record in runs(records).items():
        if record["status"] != "done":
            continue
        if name in recipes and (wrong := different_keys(record["recipe"], recipes[name])):
            raise ConfigError(
                f"{path}: {name} was run with other settings: {listing(wrong)}; "
                "choose another --results, or move the file away to start anew"
            )
        if record["code"] not in accepted | {code}:
            raise ConfigError(
                f"{path}: {name} was run by other code ({record['code']} at commit {record['versions']['git_commit']}, "
                f"this is {code}). If the difference cannot change results, say why: --accept-code 'REASON'; "
                "otherwise choose another --results, or move the file away to start anew"
            )
