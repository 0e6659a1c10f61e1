"""From a study and its records to numbers: scores, costs and comparisons of every network and variant."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...errors import ConfigError
from .additive_model import AdditiveModel
from .records import Record, inspections, runs
from .statistics import ALPHA, Comparison, Summary, compare, detectable_difference, holm, rank_correlation, summarize
from .study import Settings, Study

#: The variant that costs are relative to, and that figures draw a line for.
PLAIN = "plain"
#: Stands for a variant of which nothing but chance makes a measure what it is: 0 by the measure's definition.
CHANCE = "chance"
#: Of how many variants an order says something.
ORDERED = 10
#: Training times in records: of the run's process, which leaves out what a GPU does, and by the clock, which other work
#: on the machine slows down.
CLOCKS = {"cpu_seconds": "CPU time", "seconds": "time"}


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run that the study has, and its record once there is one."""

    network: str
    variant: str
    seed: int
    stage: str
    tuned: Settings
    record: Record | None
    inspection: Record | None = None

    @property
    def status(self) -> str:
        """``"done"``, ``"failed"`` or ``"missing"``."""
        return "missing" if self.record is None else str(self.record["status"])

    @property
    def result(self) -> Record:
        """The record of a run that is done; empty for others."""
        return self.record if self.record is not None and self.status == "done" else {}


@dataclasses.dataclass(frozen=True)
class Cell:
    """The runs of one network and variant that are compared, in the order of their seeds."""

    network: str
    variant: str
    metric: str | None
    runs: tuple[PlannedRun, ...]

    @property
    def results(self) -> dict[int, Record]:
        """Records of the runs that are done, by seed."""
        return {run.seed: run.result for run in self.runs if run.result}

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics, the one that matters first."""
        names = {name for result in self.results.values() for name in result["test"]["folded"]}
        return tuple(sorted(names, key=lambda name: (name != self.metric, name)))

    def scores(self, metric: str | None = None) -> dict[int, float]:
        """What the folded networks reached on the test split by seed, in %; by default in the metric that matters."""
        name = metric or self.metric
        found = ((seed, result["test"]["folded"]) for seed, result in self.results.items())
        return {seed: float(metrics[name]) for seed, metrics in found if name in metrics}  # older code may lack some

    def measured(self, measure: str) -> dict[int, float]:
        """What was found inside of the networks by seed, where it could be measured."""
        found = ((run.seed, run.inspection["numbers"].get(measure)) for run in self.runs if run.inspection)
        return {seed: float(value) for seed, value in found if value is not None}

    def summary(self, metric: str | None = None) -> Summary:
        """Of the scores."""
        return summarize(list(self.scores(metric).values()))

    def relative_time(self, baseline: Cell, clock: str) -> Summary:
        """Training time as a multiple of the baseline's, paired by seed, of runs with the same version of torch."""
        pairs = [(result, baseline.results[seed]) for seed, result in self.results.items() if seed in baseline.results]
        alike = [pair for pair in pairs if pair[0]["versions"]["torch"] == pair[1]["versions"]["torch"]]
        return summarize([mine[clock] / theirs[clock] for mine, theirs in alike])

    def learning(self, baseline: Cell | None = None) -> dict[int, Summary]:
        """The validation metric by epoch over the seeds, or what it differs from a baseline's by, paired by seed."""
        mine, theirs = self._histories(), baseline._histories() if baseline else None
        epochs: dict[int, list[float]] = {}
        for (seed, epoch), value in mine.items():
            if theirs is None:
                epochs.setdefault(epoch, []).append(value)
            elif (seed, epoch) in theirs:
                epochs.setdefault(epoch, []).append(value - theirs[seed, epoch])
        return {epoch: summarize(epochs[epoch]) for epoch in sorted(epochs)}

    def _histories(self) -> dict[tuple[int, int], float]:
        """The validation metric by seed and epoch."""
        return {
            (seed, int(epoch["epoch"])): float(epoch[self.metric])
            for seed, result in self.results.items()
            for epoch in result["history"]
        }

    def trained_with(self, keys: Sequence[str]) -> list[dict[str, Any]]:
        """The different values of some dotted keys in the recipes of the runs that are compared, normally one."""
        found: list[dict[str, Any]] = []
        for run in self.runs:
            if run.record is not None and run.record["recipe"]:  # a run that could not be planned has none
                values = {key: _value(run.record["recipe"], key) for key in keys}
                found += [values] if values not in found else []
        return found


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A comparison within its family, all comparisons of one network with one baseline.

    Args:
        variant: what is compared.
        baseline: what it is compared with.
        comparison: the numbers.
        p_holm: p-value after Holm's correction over the family.
        family: how many comparisons that is, those without a test left out.
        paper: the paper's own difference, ``None`` if it has none.
    """

    variant: str
    baseline: str
    comparison: Comparison
    p_holm: float | None
    family: int
    paper: float | None

    @property
    def found(self) -> bool:
        """Whether the difference is significant after the correction."""
        return self.p_holm is not None and self.p_holm < ALPHA

    @property
    def detectable(self) -> float | None:
        """The true difference that this comparison, corrected, would have found with 80 % power; ``None`` untested."""
        error, freedom = self.comparison.error, self.comparison.freedom
        return detectable_difference(error, freedom, self.family) if self.p_holm is not None and error else None


@dataclasses.dataclass(frozen=True)
class Order:
    """How far our order of variants is the paper's: Spearman's rank correlation of so many means, and its p-value."""

    variants: int
    correlation: float
    p_value: float


@dataclasses.dataclass(frozen=True)
class Network:
    """Everything about one network, variants and comparisons in the order of the study.

    ``additive`` is the one model of all its runs, where the study takes one.
    """

    label: str
    metric: str | None
    cells: Mapping[str, Cell]
    contrasts: Mapping[tuple[str, str], Contrast]
    tuning: tuple[PlannedRun, ...]
    paper: Mapping[str, float]
    additive: AdditiveModel | None

    @property
    def clock(self) -> str:
        """Which of :data:`CLOCKS` measures training: CPU time where all runs were on a CPU and recorded it."""
        results = [result for cell in self.cells.values() for result in cell.results.values()]
        on_cpu = all(result.get("device", "cpu") == "cpu" and "cpu_seconds" in result for result in results)
        return "cpu_seconds" if on_cpu else "seconds"

    def cost(self, variant: str) -> Summary:
        """Training time of a variant as a multiple of plain's; empty without plain."""
        plain = self.cells.get(PLAIN)
        return self.cells[variant].relative_time(plain, self.clock) if plain else summarize([])

    def comparisons(self, baseline: str) -> dict[str, Comparison]:
        """Every other variant against this one, uncorrected."""
        return _comparisons(self.cells, baseline, self.additive)

    def inside(self, measure: str, baseline: str) -> dict[str, Comparison]:
        """Every other variant against this one in what was found inside of the networks, uncorrected.

        Against :data:`CHANCE`, it is every variant itself against 0, what chance gives.
        """
        theirs = self.cells[baseline].measured(measure) if baseline in self.cells else {}
        found = {name: cell.measured(measure) for name, cell in self.cells.items() if name != baseline}
        if baseline == CHANCE:
            return {name: compare(values, dict.fromkeys(values, 0.0)) for name, values in found.items()}
        return {name: compare(values, theirs) for name, values in found.items()}

    def mean(self, variant: str) -> Summary:
        """Of the scores; in one model of all runs, adjusted for seeds that the variant lacks."""
        return self.additive.mean(variant) if self.additive else self.cells[variant].summary()

    def gain(self, variant: str) -> Comparison:
        """A variant against plain; empty without plain, and of plain itself."""
        return self.comparisons(PLAIN).get(variant, Comparison(0, None))

    def order(self) -> Order | None:
        """How far our order of the variants is the paper's; ``None`` for fewer than :data:`ORDERED` of them."""
        means = {name: self.mean(name).mean for name in self.cells if name in self.paper}
        ours = {name: mean for name, mean in means.items() if mean is not None}
        theirs = [self.paper[name] for name in ours]
        found = rank_correlation(list(ours.values()), theirs) if len(ours) >= ORDERED else None
        return Order(len(ours), *found) if found else None

    def tuning_scores(self, variant: str, point: Settings) -> Summary:
        """The validation metric of a variant's runs that tried these settings."""
        ours = [run.result for run in self.tuning if run.variant == variant and run.tuned == point and run.result]
        return summarize([result["validation"][result["metric"]] for result in ours])


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A study with what its records say.

    Args:
        study: the study.
        networks: in the order of the study.
        runs: every run of the study, done or not, in the order of the study.
        others: names of recorded runs that the study does not have.
        accepted: lines of ``kind`` "accept".
    """

    study: Study
    networks: tuple[Network, ...]
    runs: tuple[PlannedRun, ...]
    others: tuple[str, ...]
    accepted: tuple[Record, ...]

    def count(self, status: str) -> int:
        """How many runs are ``"done"``, ``"failed"`` or ``"missing"``."""
        return sum(run.status == status for run in self.runs)

    @property
    def seconds(self) -> float:
        """Training time of all runs that are done."""
        return float(sum(run.result["seconds"] for run in self.runs if run.result))

    def identities(self, key: str) -> Counter[str]:
        """How many runs have which ``code``, ``start_code``, ``versions`` or ``device``, in the order of the study."""
        return Counter(_text(run.record[key]) for run in self.runs if run.record is not None and key in run.record)


def analyse(study: Study, records: Sequence[Record]) -> Analysis:
    """Put the records in their places in the study.

    The order of the records does not matter, except for a run that has several, or two codes with several reasons why
    their results may stand side by side: the last one counts.

    Raises:
        ConfigError: runs of one network have different metrics.
    """
    recorded = {_place(record): record for record in runs(records).values()}
    planned = tuple(_planned(study, recorded, inspections(records)))
    used = {id(run.record) for run in planned}
    others = sorted(record["run"] for record in recorded.values() if id(record) not in used)
    accepts = [record for record in records if record["kind"] == "accept"]
    reasons = {(record["code"], record["beside"]): record["reason"] for record in accepts}
    codes = {run.record["code"] for run in planned if run.record is not None}
    pairs = sorted(pair for pair in reasons if codes.issuperset(pair))
    accepted = [{"code": code, "beside": beside, "reason": str(reasons[code, beside])} for code, beside in pairs]
    networks = tuple(_network(study, label, planned) for label in study.networks)
    return Analysis(study, networks, planned, tuple(others), tuple(accepted))


def _place(record: Record) -> tuple[Any, ...]:
    tried = record["tuned"] if record["stage"] == "tuning" else {}
    return (*(record[key] for key in ("network", "variant", "seed", "stage")), _text(tried))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _planned(
    study: Study, recorded: Mapping[tuple[Any, ...], Record], inspected: Mapping[str, Record]
) -> Iterator[PlannedRun]:
    for network, variant in study.cells:
        stages = [("tuning", point, study.tuning.seeds) for point in study.tuning.points()] if study.tuning else []
        for stage, tuned, seeds in [*stages, ("final", {}, study.seeds[variant])]:
            for seed in seeds:
                place = (network, variant, seed, stage)
                record = recorded.get((*place, _text(tuned)))
                yield PlannedRun(*place, tuned, record, inspected.get(record["run"]) if record else None)


def _network(study: Study, label: str, planned: Sequence[PlannedRun]) -> Network:
    ours = [run for run in planned if run.network == label]
    metrics = list(dict.fromkeys(run.result["metric"] for run in ours if run.result))
    if len(metrics) > 1:
        raise ConfigError(f"{study.name}: the runs of {label} have different metrics, {' and '.join(metrics)}")
    metric = metrics[0] if metrics else None
    final = [run for run in ours if run.stage == "final"]
    cells = {
        variant: Cell(label, variant, metric, tuple(run for run in final if run.variant == variant))
        for variant in study.variants_of(label)
    }
    rows = study.paper_of(label).items()
    paper = {variant: float(row[metric]) for variant, row in rows if metric is not None and metric in row}
    additive = AdditiveModel({name: cell.scores() for name, cell in cells.items()}) if study.pooled else None
    contrasts = {
        (contrast.variant, contrast.baseline): contrast
        for baseline in study.against
        if baseline in cells
        for contrast in _family(_comparisons(cells, baseline, additive), baseline, paper)
    }
    tuning = tuple(run for run in ours if run.stage == "tuning")
    return Network(label, metric, cells, contrasts, tuning, paper, additive)


def _comparisons(cells: Mapping[str, Cell], baseline: str, additive: AdditiveModel | None) -> dict[str, Comparison]:
    if additive:
        return additive.compare(baseline)
    theirs = cells[baseline].scores() if baseline in cells else {}
    return {name: compare(cell.scores(), theirs) for name, cell in cells.items() if name != baseline}


def _family(comparisons: Mapping[str, Comparison], baseline: str, paper: Mapping[str, float]) -> Iterator[Contrast]:
    corrected = holm([comparison.p_value for comparison in comparisons.values()])
    family = sum(p is not None for p in corrected)
    for (variant, comparison), p_holm in zip(comparisons.items(), corrected, strict=True):
        yield Contrast(variant, baseline, comparison, p_holm, family, difference_in(paper, variant, baseline))


def difference_in(paper: Mapping[str, float], variant: str, baseline: str) -> float | None:
    """The paper's difference between two variants, ``None`` if it does not have both."""
    return paper[variant] - paper[baseline] if {variant, baseline} <= set(paper) else None


def _value(recipe: Mapping[str, Any], key: str) -> Any:
    """What a recipe has under a dotted key."""
    value: Any = recipe
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
