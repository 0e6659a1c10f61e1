"""The report of a study: Markdown, tables and figures, all of it from the records and the study's file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..files.atomic import writable_folder, write_atomic
from ..inspect.measures import MEASURES
from ..progress import duration
from .additive_model import AdditiveModel
from .analysis import CLOCKS, PLAIN, Analysis, Cell, Contrast, Network, analyse
from .csv_files import comparisons_csv, runs_csv
from .figures import ADJUSTED, CAPTIONS, draw, encode
from .formatting import NOTHING, between, count, p_is, points, probability, spread, summary_of
from .records import Record
from .statistics import Comparison, summarize
from .study import Settings, Study, Tuning


def write_report(study: Study, records: Sequence[Record], folder: Path) -> Path:
    """Write ``report.md``, ``runs.csv``, ``comparisons.csv`` and the figures, as PNG and SVG.

    The same records give the same bytes, whatever order they are in. A study that is not done yet has a report too,
    which says what is missing.

    Args:
        study: the study.
        records: what :meth:`Records.read` gives.
        folder: for the files, made if missing.

    Returns:
        The path of ``report.md``.

    Raises:
        ConfigError: the folder cannot be written to, or the records contradict each other.
    """
    analysis = analyse(study, records)
    writable_folder(folder)
    drawn = []
    for name in CAPTIONS:
        figure = draw(name, analysis)
        for ending in ("png", "svg"):
            path = folder / f"{name}.{ending}"
            if figure is None:
                path.unlink(missing_ok=True)  # of an earlier report
            else:
                write_atomic(path, encode(figure, ending))
        if figure is not None:
            drawn.append(name)
    write_atomic(folder / "runs.csv", runs_csv(analysis))
    write_atomic(folder / "comparisons.csv", comparisons_csv(analysis))
    report = folder / "report.md"
    write_atomic(report, markdown(analysis, drawn).encode())
    return report


def markdown(analysis: Analysis, figures: Sequence[str]) -> str:
    """The text of the report.

    Args:
        analysis: the numbers.
        figures: names of those that were drawn.
    """
    parts = [*_head(analysis), *_reading(analysis)]
    for network in analysis.networks:
        parts += _network(analysis.study, network)
    for name in figures:
        adjusted = f" {ADJUSTED}" if analysis.study.pooled and name in ("scores", "curves") else ""
        parts += [f"![{name}]({name}.png)", f"{CAPTIONS[name]}{adjusted} ([SVG]({name}.svg))"]
    parts += _origin(analysis)
    return "\n\n".join(parts) + "\n"


def _head(analysis: Analysis) -> Iterator[str]:
    study = analysis.study
    done, failed, missing = (analysis.count(status) for status in ("done", "failed", "missing"))
    yield f"# {study.title}"
    yield study.question
    yield f"**Budget `{study.budget}`**: {study.about}"
    if study.note:
        yield f"**Decided after results**: {study.note}"
    options = f"{shlex.quote(study.file or study.name)} --budget {study.budget}"
    yield f"Repeat it:\n\n```console\ncoc study run {options}\ncoc study report {options}\n```"
    state = f"{done} of {count(len(analysis.runs), 'run')} done, {failed} failed, {missing} missing"
    partial = " **This report is partial**: more runs may change it." if done < len(analysis.runs) else ""
    yield f"**State**: {state}.{partial}"
    if failed:
        lines = (
            f"- {run.network}, {run.variant}, seed {run.seed}"
            + (f", trying {_settings(run.tuned)}" if run.tuned else "")
            + f": {run.record['reason']}"
            for run in analysis.runs
            if run.record is not None and run.status == "failed"
        )
        yield "Failed runs, which no mean below includes:\n\n" + "\n".join(lines)
    if analysis.others:
        names = ", ".join(f"`{name}`" for name in analysis.others)
        yield f"Recorded, but no part of this study and not used: {names}."


def _reading(analysis: Analysis) -> Iterator[str]:
    yield "## How to read it"
    lines = [
        "Scores are those of the folded networks, in per cent, one per seed. Differences are in percentage points, "
        "paired by seed.",
        "± is the standard deviation over seeds, CI the 95 % confidence interval by Student's t.",
        *(_POOLED if analysis.study.pooled else _PAIRED),
        "Holm's method corrects p over all comparisons of one network with one baseline; below 5 % a difference counts "
        "as found, and p is bold. Every baseline of every network is corrected by itself, and intervals are not.",
        "What a comparison could have seen is the true difference that its corrected test finds with a probability of "
        "80 %, given the spread that was measured. A smaller one may be there.",
        "What training takes is compared between runs with the same version of torch, by CPU time where they were on "
        "CPUs, for other work on the machine slows the clock down, and on GPUs by the clock. That work moves CPU time "
        "too, by a tenth or two.",
    ]
    if any(network.paper for network in analysis.networks):
        lines.append(
            "The paper's figures were measured on a different scale: other data, often another network and a larger "
            "budget. Compare the sign and order of differences, not scores."
            + (f" They are {analysis.study.source}" if analysis.study.source else "")
        )
    yield "\n".join(f"- {line}" for line in lines)


_PAIRED = (
    "p is of the two-sided paired t-test; only seeds that are done for both count.",
    "An interval is where the mean over many seeds is likely to lie; a single new run scatters far more, and other "
    "data are another question.",
    "g_z is the mean difference over the standard deviation of the differences (Cohen's d_z) with Hedges' correction "
    "for small samples; two pairs are too few for it.",
)
_POOLED = (
    "p is of the two-sided t-test in one model of all runs of a network, score = variant + seed + noise, so that few "
    "seeds see more than they would in pairs. It takes a seed to move all variants alike, and all variants to scatter "
    "alike; the column *spread* has what each one's own runs do. Where those of a pair scatter more, that counts. A "
    "quiet variant is trusted too little, and several noisy ones, above all a noisy baseline, still somewhat too much.",
    "Differences are those of adjusted means: adjusted for seeds that a variant lacks. Their intervals leave out what "
    "a seed does to all variants, so they compare variants, and do not say where a mean over many seeds lies.",
    "g_z is the difference over the standard deviation of differences of single runs in the model, with Hedges' "
    "correction for small samples.",
)


def _network(study: Study, network: Network) -> Iterator[str]:
    yield f"## {network.label}"
    if network.metric is None:
        yield "No run is done yet."
        return
    yield " ".join([*_splits(study, network), *_training(study, network), *_floor(study, network)])
    yield _scores(network)
    if network.additive and network.additive.deviation:
        yield _noise(network.additive)
    if order := network.order():
        correlation = points(order.correlation, sign=True)
        yield (
            f"Order: Spearman's rank correlation of our means with the paper's is {correlation} ({order.variants} "
            f"variants, {p_is(order.p_value)}). Noise alone keeps it below 1."
        )
    for baseline in [baseline for baseline in study.against if baseline in network.cells]:
        family = [contrast for (_, other), contrast in network.contrasts.items() if other == baseline]
        if family:
            yield summary_of(network, baseline)
            yield _comparisons(family, bool(network.paper))
    yield from _inside(network)
    if study.tuning is not None:
        yield _tuning(study, network)


def _inside(network: Network) -> Iterator[str]:
    """A table per measure of what was found inside of the networks."""
    for measure, said in MEASURES.items():
        found = {name: summarize(list(cell.measured(measure).values())) for name, cell in network.cells.items()}
        if not any(summary.n for summary in found.values()):
            continue
        against = network.inside(measure, PLAIN)
        rows = []
        for name, summary in found.items():
            comparison = against.get(name, Comparison(0, None))
            difference = points(comparison.difference, sign=True)
            sure = between(comparison.interval, sign=True)
            row = [name, str(summary.n), spread(summary), between(summary.interval, sign=True), difference, sure]
            rows.append([*row, probability(comparison.p_value)])
        yield f"### {network.label}, inside: {measure.replace('_', ' ')}"
        yield f"{said[0].upper()}{said[1:]}{'' if 'pixels' in said else ', in per cent'}; p is not corrected."
        yield _table(["variant", "n", "mean ± sd", "95 % CI", f"− {PLAIN}", "95 % CI", "p"], rows)


def _splits(study: Study, network: Network) -> Iterator[str]:
    """Which images scores are of; a network's runs all have the same, or they would not stand beside each other."""
    used = [run.result["recipe"]["data"] for cell in network.cells.values() for run in cell.runs if run.result]
    if used and used[0]["test_split"]:
        yield f"Scored on the split `{used[0]['test_split']}`; the epoch was chosen on `{used[0]['val_split']}`."
    elif used:
        chose = "the epoch and the tuned settings" if study.tuning else "the epoch"
        yield (
            f"Scored on the split `{used[0]['val_split']}`, which chose {chose} too. That flatters, most of all scores "
            "that change much from epoch to epoch."
        )


#: What decides how far training goes, in the order of the report.
_REPORTED = ("optimizer", "lr", "schedule", "warmup_steps", "batch", "epochs", "weight_decay")


def _training(study: Study, network: Network) -> Iterator[str]:
    """How the runs were trained, as far as all of them were trained alike."""
    tuned = study.tuning.grid if study.tuning else {}
    keys = [key for key in (f"training.{name}" for name in _REPORTED) if key not in tuned]
    settings = [values for cell in network.cells.values() for values in cell.trained_with(keys)]
    alike = {
        key: value
        for key, value in (settings[0] if settings else {}).items()
        if value is not None and all(other[key] == value for other in settings)
    }
    if alike:
        yield f"Trained with {_settings(alike)}."


def _floor(study: Study, network: Network) -> Iterator[str]:
    if floor := study.floor_of(network.label):
        yield f"The same answer everywhere scores {points(floor)}."


def _noise(additive: AdditiveModel) -> str:
    noise, freedom = points(additive.deviation), additive.freedom
    said = f"Runs scatter by {noise} points around variant + seed ({freedom} degrees of freedom)."
    if found := additive.widest():
        name, chance = found
        said += (
            f" {name} stands out most, by {points(additive.spreads[name])} points; {p_is(chance)} if all scatter alike."
        )
    return said


def _scores(network: Network) -> str:
    """A row per variant: the metric that matters, what training takes, the other metrics, the paper's figure."""
    additive, metrics = network.additive, max((cell.metrics for cell in network.cells.values()), key=len)
    heading = ["variant", "n", f"{network.metric}, mean ± sd"]
    heading += ["adjusted mean (95 % CI)", "spread"] if additive else ["95 % CI"]
    heading += [*metrics[1:], f"{CLOCKS[network.clock]}, × {PLAIN}", *(["paper"] if network.paper else [])]
    rows = []
    for name, cell in network.cells.items():
        mean = network.mean(name)
        row = [name, _runs(cell), spread(cell.summary())]
        if additive:
            row.append(points(mean.mean) + (f" ({between(mean.interval)})" if mean.interval else ""))
            row.append(points(additive.spreads.get(name)))
        else:
            row.append(between(mean.interval))
        row += [spread(cell.summary(metric)) for metric in metrics[1:]]
        row.append(spread(network.cost(name)))
        rows.append(row + ([points(network.paper.get(name))] if network.paper else []))
    return _table(heading, rows)


def _comparisons(family: Sequence[Contrast], paper: bool) -> str:
    """A row per comparison with one baseline."""
    heading = ["variant", "common seeds", f"− {family[0].baseline}", "95 % CI", "p", "p (Holm)"]
    heading += ["could have seen", "g_z"]
    rows = []
    for contrast in family:
        comparison = contrast.comparison
        corrected = probability(contrast.p_holm)
        row = [contrast.variant, str(comparison.pairs), points(comparison.difference, sign=True)]
        row += [between(comparison.interval, sign=True), probability(comparison.p_value)]
        row += [f"**{corrected}**" if contrast.found else corrected, points(contrast.detectable)]
        row.append(points(comparison.g_z, sign=True))
        rows.append(row + ([points(contrast.paper, sign=True)] if paper else []))
    return _table([*heading, *(["paper"] if paper else [])], rows)


def _runs(cell: Cell) -> str:
    """How many seeds are behind a row, and what became of the others."""
    statuses = [run.status for run in cell.runs]
    other = [f"{statuses.count(status)} {status}" for status in ("failed", "missing") if status in statuses]
    return str(statuses.count("done")) + (f" ({', '.join(other)})" if other else "")


def _tuning(study: Study, network: Network) -> str:
    assert study.tuning is not None
    tried = list(study.tuning.points())
    rows = []
    for name, cell in network.cells.items():
        chosen = "; ".join(_settings(values) for values in cell.trained_with(list(study.tuning.grid)))
        scores = [spread(network.tuning_scores(name, point)) for point in tried]
        rows.append([name, *scores, chosen or "not yet"])
    seeds = study.tuning.seeds
    of = f"mean ± sd over seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"one run each, of seed {seeds[0]}"
    luck = "" if len(seeds) > 1 else f"\n\n{_BY_ONE_RUN}"
    apart = f"; with {_settings(study.tuning.settings)}" if study.tuning.settings else ""
    return (
        f"Tuning: the validation metric of every setting ({of}{apart}), and what the runs above were trained with:\n\n"
        + _table(["variant", *map(_settings, tried), "trained with"], rows)
        + luck
        + _edges(study.tuning, network)
        + _better(study.tuning, network)
    )


_BY_ONE_RUN = (
    "Settings were chosen by one run each: which of two is better is luck where their scores lie closer together than "
    "runs scatter. Intervals and p-values know nothing of that: a difference between variants that were trained with "
    "different settings may come from the settings."
)


def _edges(tuning: Tuning, network: Network) -> str:
    """Which variants have chosen the least or the most of what was tried."""
    found = []
    for key, tried in tuning.grid.items():
        if len(set(tried)) < 2 or not all(isinstance(value, int | float) for value in tried):
            continue
        for end in (min(tried), max(tried)):
            names = [name for name, cell in network.cells.items() if {key: end} in cell.trained_with([key])]
            if names:
                found.append(f"{_settings({key: end})} ({', '.join(names)})")
    if not found:
        return ""
    return f"\n\nAt the edge of what was tried, so that better settings may lie beyond it: {'; '.join(found)}."


def _better(tuning: Tuning, network: Network) -> str:
    """Which variants are compared with other settings than they would choose now: what was chosen once stays."""
    found: dict[str, list[str]] = {}
    for name, cell in network.cells.items():
        scores = {_settings(point): network.tuning_scores(name, point) for point in tuning.points()}
        # A point with a failed run is not chosen.
        means = {
            point: one.mean for point, one in scores.items() if one.mean is not None and one.n == len(tuning.seeds)
        }
        ours = [means[point] for one in cell.trained_with(list(tuning.grid)) if (point := _settings(one)) in means]
        if ours and max(ours) < max(means.values()):
            found.setdefault(max(means, key=lambda point: means[point]), []).append(name)
    if not found:
        return ""
    listed = "; ".join(f"{settings} ({', '.join(names)})" for settings, names in found.items())
    return (
        "\n\nWhat variants were compared with first stays. Better by this table than what these were trained with: "
        f"{listed}."
    )


def _origin(analysis: Analysis) -> Iterator[str]:
    yield "## Where the numbers come from"
    recorded = count(analysis.count("done"), "run")
    yield (
        f"{duration(analysis.seconds)} of training in {recorded}. Every run is a row of [runs.csv](runs.csv), every "
        "comparison one of [comparisons.csv](comparisons.csv)."
    )
    lines = [f"- code `{code}`: {count(number, 'run')}" for code, number in analysis.identities("code").items()]
    for code, number in analysis.identities("start_code").items():
        lines.append(f"- started from networks of code `{code}`: {count(number, 'run')}")
    for versions, number in analysis.identities("versions").items():
        named = ", ".join(f"{key} {value}" for key, value in json.loads(versions).items() if value is not None)
        lines.append(f"- {named}: {count(number, 'run')}")
    devices = analysis.identities("device")
    for device, number in devices.items():
        lines.append(f"- computed on {device}: {count(number, 'run')}")
    if devices and (unknown := sum(bool(run.result) and "device" not in run.result for run in analysis.runs)):
        lines.append(f"- by older code, that did not record what it computed on: {count(unknown, 'run')}")
    for accept in analysis.accepted:
        lines.append(
            f"- results of code `{accept['code']}` stand beside those of `{accept['beside']}`: {accept['reason']}"
        )
    if lines:
        yield "\n".join(dict.fromkeys(lines))  # a reason is given anew each time that a study is gone on with


def _settings(values: Settings) -> str:
    """Settings as ``key=value``, without the section."""
    return ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in values.items()) or NOTHING


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
