"""The end of a run: fold the best network, check that it computes the same, evaluate it, write the results."""

from __future__ import annotations

import copy
import csv
import functools
import io
import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from matplotlib.figure import Figure
from torch import nn

from ... import __version__
from ...maps.registered import convs, kernel_maps
from ...surgery.folding import reparameterize
from ...verification import verify
from ..files.atomic import write_atomic
from ..files.run_folder import RunFolder
from ..files.state_dicts import write_state_dict
from ..plots import whole_epochs
from ..progress import print_line
from ..recipe.comparing import plain_values
from .module import DivergedError, Training
from .run_checkpoints import read_checkpoint
from .run_data import RunData

#: Largest relative difference between a trained network's logits and the folded one's, in float32.
_TOLERANCE = 1e-4


def finish(trainer: Trainer, training: Training, data: RunData, folder: RunFolder) -> None:
    """Evaluate the best network as it was trained and folded, and write networks and results.

    Raises:
        VerificationError: the folded network computes something else.
        DivergedError: the best network's outputs are no numbers.
    """
    seconds, cpu_seconds = training.spent
    checkpoint = read_checkpoint(folder.best)
    main, until_best = training.metrics.main, checkpoint["history"]
    if trainer.is_global_zero:
        print_line(f"the best epoch, {len(until_best)}, is folded and evaluated", folder.printed)
    training.load_state_dict(checkpoint["state_dict"])
    device = trainer.strategy.root_device
    training.to(device)  # back from the CPU, where Lightning leaves it at the end of training
    best = training.evaluated
    converted = any(kernel_maps(conv) for _, conv in convs(best))
    plain = copy.deepcopy(best)
    if converted:
        plain = reparameterize(plain, inplace=True)
    # Of one image, twice: norms over small maps refuse a single one.
    images = training.task.batch([data.sets.val[0][0].to(training.device)] * 2)
    as_trained, folded = training.task.compared(best), training.task.compared(plain)
    _check_finite(as_trained, images)
    difference = verify(as_trained, folded, images, tolerance=_TOLERANCE) if converted else 0.0
    before = _evaluate(trainer, training, data)
    training.average, training.network = None, plain
    after = _evaluate(trainer, training, data) if converted else before
    if not trainer.is_global_zero:
        return
    write_state_dict(folder.model, plain.state_dict())
    if converted:
        write_state_dict(folder.converted, best.state_dict())
    results = {
        "recipe": plain_values(training.recipe),
        "classes": list(data.sets.classes),
        "categories": list(data.sets.categories),
        "metric": main,
        # As the network's own checkpoint has them: after a kill and a resume another epoch might have become the best.
        "best_epoch": len(until_best),
        "validation": until_best[-1],
        "test": {"as_trained": before, "folded": after},
        "test_by_class": {name: [v if v == v else None for v in values] for name, values in training.by_class.items()},
        "largest_difference_after_folding": difference,
        "parameters": {"as_trained": _count(best), "folded": _count(plain)},
        "history": training.history,
        "versions": versions(),
        "command": sys.argv,
        "device": device.type,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }
    write_atomic(folder.results, (json.dumps(results, indent=2) + "\n").encode())
    value = after[main]
    epochs = f"best epoch {len(until_best)} of {len(training.history)}"
    print_line(f"{main} {value:.2f} % (folded; {epochs}): {folder.results}", folder.printed)
    if training.remark:
        print_line(training.remark, folder.printed)


@torch.no_grad()
def _check_finite(network: nn.Module, images: Any) -> None:
    found = network.eval()(images)
    if not all(output.isfinite().all() for output in (found if isinstance(found, list) else [found])):
        raise DivergedError(
            "the best epoch's network puts out what is no number in evaluation, though its training loss was one: the "
            "running statistics of batch norm lag behind. Train for more steps, or with a smaller training.lr"
        )


def _evaluate(trainer: Trainer, training: Training, data: RunData) -> dict[str, float]:
    (values,) = trainer.test(training, datamodule=data, verbose=False)
    return {name.removeprefix("test/"): value for name, value in values.items()}


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def versions() -> dict[str, str | None]:
    """Of what a result may depend on; the commit is ``None`` where this package is in no git repository."""
    import lightning

    return {
        "convofconv": __version__,
        "git_commit": _git_commit(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
    }


def _git_commit() -> str | None:
    """The commit of this code, where it runs from a clone and is not merely installed somewhere in a repository."""
    here = Path(__file__)
    git = functools.partial(subprocess.run, cwd=here.parent, capture_output=True, text=True, check=True)
    try:
        git(["git", "ls-files", "--error-unmatch", here.name])
        return str(git(["git", "rev-parse", "HEAD"]).stdout.strip())
    except (OSError, subprocess.CalledProcessError):
        return None


def write_history(folder: RunFolder, history: Sequence[Mapping[str, float]], main: str) -> None:
    """Write the epochs' numbers as a table and as curves."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]))
    writer.writeheader()
    writer.writerows(history)
    write_atomic(folder.log, text.getvalue().encode())
    write_atomic(folder.curves, _curves(history, main))


def _curves(history: Sequence[Mapping[str, float]], main: str) -> bytes:
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes: Any = figure.subplots(1, 2)
    epochs = [epoch["epoch"] for epoch in history]
    axes[0].plot(epochs, [epoch["loss"] for epoch in history], marker="o", markersize=3)
    axes[0].set(title="training loss", xlabel="epoch")
    for name in [name for name in history[0] if name not in ("epoch", "step", "lr", "loss")]:
        thick = 2 if name == main else 1
        axes[1].plot(epochs, [epoch[name] for epoch in history], marker="o", markersize=3, lw=thick, label=name)
    axes[1].set(title="validation, %", xlabel="epoch")
    axes[1].legend()
    for one in axes:
        one.grid(alpha=0.3)
        whole_epochs(one)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return png.getvalue()
