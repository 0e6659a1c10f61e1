"""``coc demo``: train a small network plain and with kernel maps, fold, compare; a table, figures, all numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock

from ..files.atomic import locked_folder, new_folder, write_atomic
from ..progress import print_line
from ..recipe.schema import Recipe
from ..studies.analysis import Analysis, analyse
from ..studies.code_identity import code_identity
from ..studies.figures import draw, encode
from ..studies.study import Study
from .demo_runs import DemoRuns, Results, last_accuracy
from .kernel_figure import draw_kernels
from .result_table import Row, table
from .settings import DemoSettings
from .step_time import step_seconds


def run_demo(settings: DemoSettings) -> list[Row]:
    """Train, fold and verify as the settings say, print the table, and write the files to ``settings.out``.

    The same settings give the same accuracies on the same machine's CPU; the times differ. After an interruption the
    same settings resume.

    Returns:
        The rows of the table.

    Raises:
        ConfigError: a setting is wrong, the data cannot be read, or ``settings.out`` not be written to.
        VerificationError: a folded network puts out something else than the one it was folded from.
    """
    for method in settings.methods:
        Recipe(method=method)  # refuses what is no method
    taken = f"{settings.out}: another coc demo is at work there; wait for it, or choose another --out"
    with new_folder(settings.out) as out, _threads(settings.threads):
        # It is removed at the end: only an interrupted demo resumes, and another one trains anew.
        work = out / ".unfinished"
        with locked_folder(FileLock(work / ".lock"), 0, taken, passing=["settings.json", "images"]):
            try:
                rows = _run(settings, out, work)
            except KeyboardInterrupt:
                print("the same coc demo command resumes", file=sys.stderr)
                raise
        shutil.rmtree(work)
    return rows


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(settings: DemoSettings, out: Path, work: Path) -> list[Row]:
    start = time.perf_counter()
    runs = DemoRuns(settings, work)
    print_line(f"{runs.images}; epochs: {settings.epochs}")
    print_line(
        f"{len(runs.plan)} networks to train, {len(settings.methods)} with each of {settings.seeds} seeds: "
        f"{', '.join(settings.methods)}; on the CPU, threads: {settings.threads}; into {out}"
    )
    results = runs.train()
    analysis = _analyse(runs, results)
    rows = _rows(runs, results, analysis)
    figures = {
        "curves.png": draw("learning", analysis),
        "scores.png": draw("scores", analysis),
        "kernels.png": draw_kernels({method: runs.trained_network(method) for method in settings.methods}),
    }
    record = {
        "settings": dataclasses.asdict(settings),
        "data": dataclasses.asdict(runs.images),
        "methods": [dataclasses.asdict(row) for row in rows],
        "runs": [{"method": method, "seed": seed, **result} for (seed, method), result in results.items()],
    }
    write_atomic(out / "results.json", json.dumps(record, indent=2, default=str).encode())
    for name, figure in figures.items():
        if figure is None:  # no layer is associated: the figure of an earlier demo would not belong to these results
            (out / name).unlink(missing_ok=True)
        else:
            write_atomic(out / name, encode(figure, "png"))
    written = ", ".join(["results.json", *(name for name, figure in figures.items() if figure)])
    print(f"\n{table(rows)}\n")
    noise = (
        "Differences within the deviations (±) are noise" if settings.seeds > 1 else "One seed does not show the noise"
    )
    print(f"{noise}: a demo this small shows how it works, not how much it helps.")
    print(f"{time.perf_counter() - start:.0f} s. In {out}: {written}")
    return rows


def _analyse(runs: DemoRuns, results: Results) -> Analysis:
    """The runs as those of a study of one network."""
    settings, network = runs.settings, runs.images.name
    study = Study(
        *("demo", "demo", "Demo"),
        question="",
        about="",
        networks={network: {}},
        variants={method: {} for method in settings.methods},
        seeds=dict.fromkeys(settings.methods, tuple(range(settings.seeds))),
        against=("plain",),
    )
    records = []
    for (seed, method), result in results.items():
        place = {"network": network, "variant": method, "seed": seed, "stage": "final", "tuned": {}}
        own = {"kind": "run", "run": f"{method}/seed{seed}", "status": "done", "code": code_identity(), **place}
        records.append({**result, **own, "test": {"folded": {result["metric"]: last_accuracy(result)}}})
    return analyse(study, records)


def _rows(runs: DemoRuns, results: Results, analysis: Analysis) -> list[Row]:
    # Times are relative to the plain network, whether it is among the methods or not.
    networks = {method: runs.network(method) for method in dict.fromkeys(["plain", *runs.settings.methods])}
    labels = torch.randint(len(runs.images.classes), (runs.batch,))
    seconds = step_seconds(networks, torch.randn(runs.batch, 3, *runs.images.recipe.crop), labels)
    rows = []
    for method, cell in analysis.networks[0].cells.items():
        own = [result for (_, name), result in results.items() if name == method]
        rows.append(
            Row(
                method,
                accuracy=cell.summary(),
                trained_parameters=own[0]["parameters"]["as_trained"],
                deployed_parameters=own[0]["parameters"]["folded"],
                step_seconds=seconds[method],
                relative_step_time=seconds[method] / seconds["plain"],
                largest_difference=max(result["largest_difference_after_folding"] for result in own),
            )
        )
    return rows
