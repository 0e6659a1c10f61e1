"""What ``coc summary``, ``coc fold`` and ``coc verify`` do."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import convert, convert_like, reparameterize, summary, verify
from ..errors import ConfigError, SurgeryError
from ..surgery.state_dict import is_converted
from .files.averages import Which
from .files.state_dicts import check_writable, find_weights, load_weights, write_state_dict
from .found_by_name import find_task
from .models.architectures import build_architecture
from .models.detector import before_selection, takes_list
from .tasks import Task
from .training.run_network import build_network_of, checkpoint_of, read_recipe_of, run_at


def run_summary(
    arch: str, options: Mapping[str, Any], method: str | None, preset: str | None, where: Sequence[str]
) -> None:
    """Convert an architecture, or take the network of a run, and print what that does to every conv."""
    named = arch.startswith(("timm/", "torchvision/")) or ":" in arch
    if not named and "/" in arch and not Path(arch).exists():
        raise ConfigError(f"{arch}: there is no such folder; ARCH is that of a run, timm/NAME, or another architecture")
    if not named and Path(arch).is_dir() and (run := run_at(Path(arch))):
        given = {"--method": method, "--preset": preset, "--where": where, "--options": options}
        if decided := [option for option, value in given.items() if value]:
            raise ConfigError(
                f"{arch} is a run, whose recipe says how it was converted; leave out {', '.join(decided)}"
            )
        print(summary(build_network_of(read_recipe_of(run), plain=False)))
        return
    try:
        with torch.device("meta"):  # shapes are all that is asked for
            model = build_architecture(arch, options)
    except ConfigError:  # some constructors compute with the values of tensors, which are none there
        model = build_architecture(arch, options)
    try:
        convert(model, method or "coc", preset or "poster", list(where) or None)
    except SurgeryError:
        if not summary(model).converted:  # a network of CoC layers has its maps already
            raise
    print(summary(model))


def run_fold(checkpoint: Path, arch: str | None, options: Mapping[str, Any], out: Path, weights: Which) -> None:
    """Fold a converted network's checkpoint into one of the plain architecture."""
    check_writable(out)
    network = _network(checkpoint, arch, options)
    file = _file(checkpoint)
    if out.exists() and file.exists() and out.samefile(file):
        raise ConfigError(f"{out} is the checkpoint itself; give another --out")
    model, converted = network.load(file, weights)
    if not converted:
        raise ConfigError(f"{file}: this is a plain network already, there is nothing to fold")
    folded = len(summary(model).converted)
    plain = reparameterize(model, inplace=True)
    write_state_dict(out, plain.state_dict())
    print(f"{out}: {folded} convs folded; loads strictly into {network.name}")


def run_verify(
    checkpoint: Path,
    folded: Path | None,
    arch: str | None,
    options: Mapping[str, Any],
    shape: Sequence[int] | None,
    tolerance: float,
    weights: Which,
) -> None:
    """Compare two checkpoints of one architecture on a random input.

    Raises:
        VerificationError: their outputs differ by more than ``tolerance``.
        ConfigError: an input of that shape does not fit the architecture.
    """
    if shape and min(shape) < 1:
        raise ConfigError(f"--shape needs sides of at least 1, got {' '.join(map(str, shape))}")
    network = _network(checkpoint, arch, options)
    shape = shape or network.shape
    file, folded_file = _file(checkpoint), _folded_file(checkpoint, folded)
    model, _ = network.load(file, weights)
    plain, _ = network.load(folded_file, weights)
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    # Before detectors choose boxes: in noise they find nothing, or what a rounding error decides.
    if network.task is not None:
        inputs, model, plain = network.task.noise(x), network.task.compared(model), network.task.compared(plain)
    else:
        inputs = list(x.sigmoid()) if takes_list(model) else x
        model, plain = before_selection(model), before_selection(plain)
    try:
        with torch.no_grad():
            plain.eval()(inputs)
    except (RuntimeError, ValueError, AssertionError) as error:  # from wherever in the architecture
        raise ConfigError(f"--shape {' '.join(map(str, shape))} does not fit {network.name}: {error}") from error
    difference = verify(model, plain, inputs, tolerance)
    print(f"the outputs differ by {difference:.3g} of their largest entry, within the tolerance of {tolerance:.3g}")


@dataclasses.dataclass(frozen=True)
class _Network:
    """What checkpoints are of.

    Args:
        name: for messages.
        build: makes it with random weights, plain except for CoC layers.
        shape: of an input that it takes.
        hint: what to do where a checkpoint does not fit.
        chosen: whether it was not said which files it is loaded from.
        task: that it was trained for; ``None`` for an architecture.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: Sequence[int] = (2, 3, 224, 224)
    hint: str = ""
    chosen: bool = False
    task: Task | None = None

    def load(self, file: Path, weights: Which) -> tuple[nn.Module, bool]:
        """The network with the weights in a file, and whether it is converted there."""
        model = self.build()
        found = find_weights(file, model, weights)
        if found.note or self.chosen:
            print(f"from {file}" + (f": {found.note}" if found.note else ""))
        converted = is_converted(found.state)
        # One of CoC layers has maps from the start: a folded checkpoint is of the network without them.
        complaint = f"{file}: does not fit {self.name}"
        try:
            model = convert_like(model, found.state) if converted else reparameterize(model, inplace=True)
        except SurgeryError as error:
            raise SurgeryError(f"{complaint}: {error}") from error
        load_weights(model, found.state, complaint, self.hint)
        return model, converted


def _network(checkpoint: Path, arch: str | None, options: Mapping[str, Any]) -> _Network:
    """The architecture, or without one the network of the run that a checkpoint is of."""
    if arch is not None:
        hint = f" (--options takes the network's arguments, num_classes for example; here {dict(options) or 'none'})"
        return _Network(arch, functools.partial(build_architecture, arch, options), hint=hint)
    run = run_at(checkpoint)
    if run is None:
        absent = "" if checkpoint.exists() else ", in fact there is no such file"
        raise ConfigError(
            f"--arch is missing: {checkpoint} is neither the folder of a run nor a file in one{absent}. Give the "
            "network, --arch timm/resnet50 for example"
        )
    if options:
        raise ConfigError(f"--options are arguments of --arch; the network of {run.path} has those of its recipe")
    recipe = read_recipe_of(run)
    build = functools.partial(build_network_of, recipe, plain=True)
    task = find_task(recipe.task)
    data = recipe.data
    size = (data.eval_resize,) * 2 if data.eval_resize and "data.crop" not in task.keys else data.crop
    name = f"the network of {run.path}"
    return _Network(name, build, (2, 3, *size), chosen=checkpoint.is_dir(), task=task)


def _file(checkpoint: Path) -> Path:
    run = run_at(checkpoint) if checkpoint.is_dir() else None
    return checkpoint_of(run) if run else checkpoint


def _folded_file(checkpoint: Path, folded: Path | None) -> Path:
    path = folded or checkpoint
    run = run_at(path) if path.is_dir() else None
    if run is None:
        if folded is None:
            raise ConfigError("FOLDED is missing: the checkpoint that should compute the same")
        return folded
    if not run.model.is_file():
        raise ConfigError(
            f"{path}: there is no {run.model.name} yet; finish the run, coc fit {path} --resume, or give FOLDED, which "
            f"coc fold {path} --out FOLDED writes"
        )
    return run.model
