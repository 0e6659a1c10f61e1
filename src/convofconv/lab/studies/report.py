"""The report of a study: Markdown, tables and figures, all of it from the records and the study's file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..files import writable_folder, write_atomic
from .analysis import CLOCKS, PLAIN, Analysis, Cell, Network, analyse
from .figures import CAPTIONS, draw, encode
from .records import Record
from .study import Study
from .tables import comparisons_csv, runs_csv
from .wording import NOTHING, between, count, duration, finding, points, probability, spread, summary_of


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
        parts += [f"![{name}]({name}.png)", f"{CAPTIONS[name]} ([SVG]({name}.svg))"]
    parts += _origin(analysis)
    return "\n\n".join(parts) + "\n"


def _head(analysis: Analysis) -> Iterator[str]:
    study = analysis.study
    done, failed, missing = (analysis.count(status) for status in ("done", "failed", "missing"))
    yield f"# {study.title}"
    yield study.question
    yield f"**Budget `{study.budget}`**: {study.about}"
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
        "paired by seed: only seeds that are done for both count.",
        "± is the standard deviation over seeds, CI the 95 % confidence interval by Student's t. An interval is where "
        "the mean over many seeds is likely to lie; a single new run scatters far more, and other data are another "
        "question.",
        "p is of the two-sided paired t-test, corrected by Holm's method over all comparisons of one network with one "
        "baseline; below 5 % a difference counts as found, and p is bold. Intervals are not corrected.",
        "g_z is the mean difference over the standard deviation of the differences (Cohen's d_z) with Hedges' "
        "correction for small samples; two pairs are too few for it.",
        "What a comparison could have seen is the true difference that its corrected test finds with a probability of "
        "80 %, given the spread that was measured. A smaller one may be there.",
        "What training takes is compared by CPU time where the runs were on CPUs, for other work on the machine slows "
        "the clock down; on GPUs by the clock.",
    ]
    if any(network.paper for network in analysis.networks):
        lines.append(
            "The paper's figures were measured on a different scale: other data, often another network and a larger "
            "budget. Compare the sign and order of differences, not scores."
        )
    yield "\n".join(f"- {line}" for line in lines)


def _network(study: Study, network: Network) -> Iterator[str]:
    yield f"## {network.label}"
    if network.metric is None:
        yield "No run is done yet."
        return
    yield from _splits(network)
    baselines = [baseline for baseline in study.against if baseline in network.cells]
    yield _scores(network, baselines)
    for baseline in baselines:
        family = [contrast for (_, other), contrast in network.contrasts.items() if other == baseline]
        if family:
            yield summary_of(network, baseline)
        if lines := [f"- {finding(contrast)}" for contrast in family if contrast.comparison.pairs]:
            yield "\n".join(lines)
    yield _secondary(network)
    if study.tuning is not None:
        yield _tuning(study, network)


def _splits(network: Network) -> Iterator[str]:
    """Which pictures scores are of; a network's runs all have the same, or they would not stand beside each other."""
    used = [run.result["recipe"]["data"] for cell in network.cells.values() for run in cell.runs if run.result]
    if used and used[0]["test_split"]:
        yield f"Scored on the split `{used[0]['test_split']}`; the epoch was chosen on `{used[0]['val_split']}`."
    elif used:
        yield (
            f"Scored on the split `{used[0]['val_split']}`, which chose the epoch too. That flatters, most of all "
            "scores that change much from epoch to epoch."
        )


def _scores(network: Network, baselines: Sequence[str]) -> str:
    heading = ["variant", "n", f"{network.metric}, mean ± sd", "95 % CI"]
    for baseline in baselines:
        heading += [f"− {baseline} (95 % CI)", "p (Holm)", "g_z"]
    heading += ["paper", *(f"paper − {baseline}" for baseline in baselines)] if network.paper else []
    rows = []
    for name, cell in network.cells.items():
        row = [name, _runs(cell), spread(cell.summary()), between(cell.summary().interval)]
        contrasts = [network.contrasts.get((name, baseline)) for baseline in baselines]
        for contrast in contrasts:
            if contrast is None:
                row += [""] * 3
                continue
            comparison = contrast.comparison
            sure = f" ({between(comparison.interval, sign=True)})" if comparison.interval else ""
            p = probability(contrast.p_holm)
            row += [points(comparison.difference, sign=True) + sure, f"**{p}**" if contrast.found else p]
            row.append(points(comparison.g_z, sign=True))
        if network.paper:
            row.append(points(network.paper.get(name)))
            row += [points(contrast.paper, sign=True) if contrast else "" for contrast in contrasts]
        rows.append(row)
    return _table(heading, rows)


def _runs(cell: Cell) -> str:
    """How many seeds are behind a row, and what became of the others."""
    statuses = [run.status for run in cell.runs]
    other = [f"{statuses.count(status)} {status}" for status in ("failed", "missing") if status in statuses]
    return str(statuses.count("done")) + (f" ({', '.join(other)})" if other else "")


def _secondary(network: Network) -> str:
    metrics = max((cell.metrics for cell in network.cells.values()), key=len)
    rows = [
        [
            name,
            *(spread(cell.summary(metric)) for metric in metrics),
            spread(network.cost(name)),
        ]
        for name, cell in network.cells.items()
    ]
    table = _table(["variant", *metrics, f"{CLOCKS[network.clock]}, × {PLAIN}"], rows)
    return f"All metrics and the training time, mean ± sd:\n\n{table}"


def _tuning(study: Study, network: Network) -> str:
    assert study.tuning is not None
    tried = list(study.tuning.points())
    rows = []
    for name, cell in network.cells.items():
        chosen = "; ".join(_settings(values) for values in cell.trained_with(list(study.tuning.grid)))
        scores = [spread(network.tuning_scores(name, point)) for point in tried]
        rows.append([name, *scores, chosen or "not yet"])
    seeds = ", ".join(map(str, study.tuning.seeds))
    return (
        f"Tuning: the validation metric of every setting (mean ± sd over seeds {seeds}), and what the runs above were "
        "trained with:\n\n" + _table(["variant", *map(_settings, tried), "chosen"], rows)
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
    for device, number in analysis.identities("device").items():
        lines.append(f"- computed on {device}: {count(number, 'run')}")
    for accept in analysis.accepted:
        lines.append(
            f"- results of code `{accept['code']}` stand beside those of `{accept['beside']}`: {accept['reason']}"
        )
    if lines:
        yield "\n".join(dict.fromkeys(lines))  # a reason is given anew each time that a study is gone on with


def _settings(values: object) -> str:
    """Settings as ``key=value``, without the section."""
    assert isinstance(values, dict)
    return ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in values.items()) or NOTHING


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
