"""``coc demo``: train a small network plain and with kernel maps, fold, compare; a table, two figures, all numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ... import Config, ConfigError, __version__
from ...surgery.conversion import maps_for
from ..files.atomic import new_folder, write_atomic
from ..progress import Remaining, duration, print_line, progress_bar
from .data import Data, load_data
from .figures import curves, kernels
from .settings import DemoSettings
from .table import Row, summarize, table
from .training import Run, build, step_seconds, train


def run_demo(settings: DemoSettings) -> list[Row]:
    """Train, fold and verify as the settings say, print the table, and write the files to ``settings.out``.

    The same settings give the same accuracies on the same machine's CPU; the times differ.

    Returns:
        The rows of the table.

    Raises:
        ConfigError: a setting is wrong, the data cannot be read, or ``settings.out`` not be written to.
        VerificationError: a folded network puts out something else than the one it was folded from.
    """
    _check_methods(settings.methods)
    with new_folder(settings.out) as out, _threads(settings.threads):
        return _run(settings, out)


def _run(settings: DemoSettings, out: Path) -> list[Row]:
    start = time.perf_counter()
    data = load_data(settings)
    print_line(f"{data}; epochs: {settings.epochs}")
    print_line(
        f"{len(settings.methods) * settings.seeds} networks to train, {len(settings.methods)} with each of "
        f"{settings.seeds} seeds: {', '.join(settings.methods)}; on the CPU, threads: {settings.threads}; into {out}"
    )
    runs, models = _train_all(settings, data)
    # Times are relative to the plain network, whether it is among the methods or not.
    timed = {"plain": build("plain", data.shape[0], len(data.classes), seed=0), **models}
    rows = summarize(runs, step_seconds(timed, data))
    files = {
        "results.json": _record(settings, data, rows, runs),
        "curves.png": curves(runs, data.name),
        "kernels.png": kernels(models),
    }
    for name, content in files.items():
        if content is None:  # no layer is associated: the figure of an earlier run would not belong to these results
            (out / name).unlink(missing_ok=True)
        else:
            write_atomic(out / name, content)
    written = ", ".join(name for name, content in files.items() if content is not None)
    print(f"\n{table(rows, settings.seeds)}\n")
    noise = (
        "Differences within the deviations (±) are noise" if settings.seeds > 1 else "One seed does not show the noise"
    )
    print(f"{noise}: a demo this small shows how it works, not how much it helps.")
    print(f"{time.perf_counter() - start:.0f} s. In {out}: {written}")
    return rows


def _check_methods(methods: Sequence[str]) -> None:
    try:
        for method in methods:
            if method != "plain":
                maps_for(method, Config())
    except ConfigError as error:
        raise ConfigError(f"{error}; or plain") from error


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train_all(settings: DemoSettings, data: Data) -> tuple[list[Run], dict[str, nn.Module]]:
    """The records of all trainings, and the networks of the first seed by method."""
    runs: list[Run] = []
    models: dict[str, nn.Module] = {}
    work = [(seed, method) for seed in range(settings.seeds) for method in settings.methods]
    remaining = Remaining(len(work))
    with progress_bar(len(work) * settings.epochs, "training") as bar:
        for number, (seed, method) in enumerate(work, 1):
            after_epoch = functools.partial(_show, bar, f"seed {seed}, {method}")
            run, model = train(method, seed, data, settings.epochs, after_epoch)
            runs.append(run)
            models.setdefault(method, model)
            line = f"seed {seed}  {method:<10}{100 * run.accuracy[-1]:6.2f} %  {run.seconds:.1f} s"
            left = duration(remaining.seconds(number) or 0.0)
            print_line(f"{line}  {number} of {len(work)} done{f', {left} left' if number < len(work) else ''}")
    return runs, models


def _show(bar: Any, what: str, loss: float, accuracy: float) -> None:
    """An epoch more on the bar."""
    bar.set_postfix_str(f"{what}, loss {loss:.3f}, accuracy {100 * accuracy:.1f} %", refresh=False)
    bar.update()


def _record(settings: DemoSettings, data: Data, rows: Sequence[Row], runs: Sequence[Run]) -> bytes:
    """Everything that was set and measured, as JSON."""
    record = {
        "convofconv": __version__,
        "torch": torch.__version__,
        "settings": dataclasses.asdict(settings),
        "seeds": list(range(settings.seeds)),
        "data": {
            "name": data.name,
            "classes": data.classes,
            "shape": data.shape,
            "train_images": len(data.train),
            "test_images": len(data.test),
        },
        "methods": [dataclasses.asdict(row) for row in rows],
        "runs": [dataclasses.asdict(run) for run in runs],
    }
    return json.dumps(record, indent=2, default=str).encode()
