"""``coc demo``: train a small network plain and with kernel maps, fold, compare; a table, figures, all numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from matplotlib.figure import Figure
from torch import nn

from ... import __version__
from ..files.atomic import locked_folder, new_folder, write_atomic
from ..files.run_folder import RunFolder, read_values
from ..files.state_dicts import load_weights, read_state_dict
from ..models.network import build_network
from ..progress import Remaining, duration, print_line, progress_bar
from ..recipe.schema import MachineRecipe, ModelRecipe, Recipe, TrainingRecipe
from ..studies.analysis import Analysis, analyse
from ..studies.code_identity import code_identity
from ..studies.figures import draw, encode
from ..studies.study import Study
from ..training.run import run_fit
from .chosen_images import ChosenImages, write_images
from .kernel_figure import draw_kernels
from .result_table import Row, table
from .settings import DemoSettings
from .small_resnet import small_resnet
from .step_time import step_seconds

_BATCH = 64
#: By seed and method, what the run's ``results.json`` holds.
_Results = Mapping[tuple[int, str], Mapping[str, Any]]


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
        # Once the demo is finished, its runs are removed: the next one trains anew.
        work = out / ".unfinished"
        with locked_folder(FileLock(work / ".lock"), 0, taken, passing=["settings.json", "images"]):
            try:
                rows = _run(settings, out, work)
            except KeyboardInterrupt:
                print("the same coc demo resumes", file=sys.stderr)
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
    _clear(settings, work)
    images = write_images(settings, work / "images")
    print_line(f"{images}; epochs: {settings.epochs}")
    print_line(
        f"{len(settings.methods) * settings.seeds} networks to train, {len(settings.methods)} with each of "
        f"{settings.seeds} seeds: {', '.join(settings.methods)}; on the CPU, threads: {settings.threads}; into {out}"
    )
    results = _train_all(settings, images, work)
    analysis = _analyse(settings, images, results)
    rows = _rows(settings, images, results, analysis)
    trained = {method: _trained(settings, images, work, method) for method in settings.methods}
    figures = {
        "curves.png": draw("learning", analysis),
        "scores.png": draw("scores", analysis),
        "kernels.png": draw_kernels(trained),
    }
    write_atomic(out / "results.json", _record(settings, images, rows, results))
    _write_figures(figures, out)
    written = ", ".join(["results.json", *(name for name, figure in figures.items() if figure)])
    print(f"\n{table(rows)}\n")
    noise = (
        "Differences within the deviations (±) are noise" if settings.seeds > 1 else "One seed does not show the noise"
    )
    print(f"{noise}: a demo this small shows how it works, not how much it helps.")
    print(f"{time.perf_counter() - start:.0f} s. In {out}: {written}")
    return rows


def _clear(settings: DemoSettings, work: Path) -> None:
    """Remove the images, and the runs of a demo of other settings or other code."""
    identity = json.dumps({**dataclasses.asdict(settings), "code": code_identity()}, default=str).encode()
    begun = work / "settings.json"
    others = not begun.is_file() or begun.read_bytes() != identity
    for folder in ("images", "runs") if others else ("images",):
        shutil.rmtree(work / folder, ignore_errors=True)
    write_atomic(begun, identity)


def _recipe(settings: DemoSettings, images: ChosenImages, method: str, seed: int) -> Recipe:
    return Recipe(
        method=method,
        data=images.recipe,
        model=ModelRecipe(f"{small_resnet.__module__}:{small_resnet.__name__}"),
        training=TrainingRecipe(
            epochs=settings.epochs,
            batch=min(_BATCH, images.train),
            eval_batch=500,
            nesterov=True,
            weight_decay=5e-4,
            seed=seed,
        ),
        machine=MachineRecipe("cpu", threads=settings.threads),
    )


def _folder(work: Path, method: str, seed: int) -> RunFolder:
    return RunFolder(work / "runs" / f"{method}-seed{seed}")


def _train_all(settings: DemoSettings, images: ChosenImages, work: Path) -> _Results:
    """Do all runs, one after the other; those that are done already are not done again."""
    plan = [(seed, method) for seed in range(settings.seeds) for method in settings.methods]
    done = sum(_folder(work, method, seed).results.is_file() for seed, method in plan)
    remaining = Remaining(len(plan), done)
    results = {}
    with progress_bar(len(plan) * settings.epochs, "training") as bar:
        for number, (seed, method) in enumerate(plan, 1):
            folder = _folder(work, method, seed)
            if not folder.results.is_file():
                with contextlib.redirect_stdout(_EpochsOf(folder, bar, f"seed {seed}, {method}")):
                    run_fit(_recipe(settings, images, method, seed), folder.path, resume=True)
            bar.update(number * settings.epochs - bar.n)
            result = results[seed, method] = read_values(folder.results)
            line = f"seed {seed}  {method:<10}{_accuracy(result):6.2f} %  {result['seconds']:.1f} s"
            left = f", {duration(remaining.seconds(number) or 0.0)} left" if number < len(plan) else ""
            print_line(f"{line}  {number} of {len(plan)} done{left}")
    return results


class _EpochsOf(io.StringIO):
    """Takes what a run prints, and moves the bar of all runs by the epochs that this one has done."""

    def __init__(self, folder: RunFolder, bar: Any, what: str) -> None:
        super().__init__()
        self._folder, self._bar, self._what, self._before = folder, bar, what, bar.n

    def write(self, text: str) -> int:
        if self._folder.log.is_file():
            done = self._folder.log.read_bytes().count(b"\n") - 1
            self._bar.set_postfix_str(self._what, refresh=False)
            self._bar.update(self._before + done - self._bar.n)
        return len(text)


def _accuracy(result: Mapping[str, Any]) -> float:
    """After the last epoch, for the best one is chosen by the test images themselves."""
    return float(result["history"][-1][result["metric"]])


def _analyse(settings: DemoSettings, images: ChosenImages, results: _Results) -> Analysis:
    """The runs as those of a study of one network."""
    study = Study(
        name="demo",
        budget="demo",
        title="Demo",
        question="",
        about="",
        networks={images.name: {}},
        variants={method: {} for method in settings.methods},
        seeds={method: tuple(range(settings.seeds)) for method in settings.methods},
        against=("plain",),
    )
    records = []
    for (seed, method), result in results.items():
        place = {"network": images.name, "variant": method, "seed": seed, "stage": "final", "tuned": {}}
        own = {"kind": "run", "run": f"{method}/seed{seed}", "status": "done", "code": code_identity(), **place}
        records.append({**result, **own, "test": {"folded": {result["metric"]: _accuracy(result)}}})
    return analyse(study, records)


def _rows(settings: DemoSettings, images: ChosenImages, results: _Results, analysis: Analysis) -> list[Row]:
    # Times are relative to the plain network, whether it is among the methods or not.
    methods = dict.fromkeys(["plain", *settings.methods])
    networks = {name: build_network(_recipe(settings, images, name, 0), len(images.classes)) for name in methods}
    batch = min(_BATCH, images.train)
    labels = torch.randint(len(images.classes), (batch,))
    seconds = step_seconds(networks, torch.randn(batch, 3, *images.recipe.crop), labels)
    rows = []
    for method, cell in analysis.networks[0].cells.items():
        own = [results[seed, method] for seed in range(settings.seeds)]
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


def _trained(settings: DemoSettings, images: ChosenImages, work: Path, method: str) -> nn.Module:
    """The network of the first seed as it was trained."""
    network = build_network(_recipe(settings, images, method, 0), len(images.classes))
    folder = _folder(work, method, 0)
    file = folder.converted if folder.converted.is_file() else folder.model
    load_weights(network, read_state_dict(file, network.state_dict().keys()), f"{file}: not this network")
    return network


def _record(settings: DemoSettings, images: ChosenImages, rows: list[Row], results: _Results) -> bytes:
    """Everything that was set and measured, as JSON."""
    record = {
        "convofconv": __version__,
        "torch": torch.__version__,
        "settings": dataclasses.asdict(settings),
        "data": {
            "name": images.name,
            "classes": images.classes,
            "shape": (3, *images.recipe.crop),
            "train_images": images.train,
            "test_images": images.test,
        },
        "methods": [dataclasses.asdict(row) for row in rows],
        "runs": [{"method": method, "seed": seed, **result} for (seed, method), result in results.items()],
    }
    return json.dumps(record, indent=2, default=str).encode()


def _write_figures(figures: Mapping[str, Figure | None], out: Path) -> None:
    for name, figure in figures.items():
        if figure is None:  # no layer is associated: the figure of an earlier demo would not belong to these results
            (out / name).unlink(missing_ok=True)
        else:
            write_atomic(out / name, encode(figure, "png"))
