"""The networks that are looked into, side by side: runs, checkpoints of an architecture, or an architecture itself."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import ConfigError, listing
from ...surgery.conversion import convert
from ...surgery.state_dict import convert_like, is_converted
from ..files.run_folder import RunFolder
from ..files.state_dicts import find_weights, load_weights
from ..models.architectures import build_architecture
from ..predict.finished_run import load_run
from ..recipe.comparing import plain_values
from ..recipe.schema import Recipe
from ..recipe.variant_labels import shortest_names, variant_labels


@dataclasses.dataclass(frozen=True)
class NamedNetworks:
    """Networks by name; those that differ in their seed alone have one name.

    Args:
        by_name: in the order in which they were given, in evaluation mode.
        recipe: of the first run, which decides how images are prepared; ``None`` for an architecture.
        classes: names of the classes; none are known of an architecture.
    """

    by_name: Mapping[str, tuple[nn.Module, ...]]
    recipe: Recipe | None = None
    classes: tuple[str, ...] = ()

    @property
    def first(self) -> nn.Module:
        """The first of all."""
        return next(iter(self.by_name.values()))[0]

    @property
    def one_of_each(self) -> dict[str, nn.Module]:
        """The first of each name."""
        return {name: networks[0] for name, networks in self.by_name.items()}


def networks_of_runs(folders: Sequence[Path]) -> NamedNetworks:
    """Load runs as they were trained, with their kernel maps.

    Raises:
        ConfigError: a folder holds no finished run or is given twice, or the runs are of different tasks or classes.
    """
    real = [os.path.realpath(folder) for folder in folders]
    if twice := [str(folder) for folder, one in zip(folders, real, strict=True) if real.count(one) > 1]:
        raise ConfigError(f"the same run is given twice: {listing(dict.fromkeys(twice))}; name every run once")
    for place in map(RunFolder, folders):
        place.check_finished(place.results)
    names = shortest_names([Path(one) for one in real])
    runs = {name: load_run(folder, folded=False) for name, folder in zip(names, folders, strict=True)}
    first = next(iter(runs.values()))
    for name, run in runs.items():
        for what, theirs, ours in (
            ("task", run.recipe.task, first.recipe.task),
            ("classes", run.classes, first.classes),
        ):
            if theirs != ours:
                raise ConfigError(
                    f"{name}: runs are looked at side by side where they have the same {what}; it differs from that of "
                    f"{names[0]}"
                )
    recipes = {name: {**plain_values(run.recipe), "data": {}} for name, run in runs.items()}
    by_name: dict[str, tuple[nn.Module, ...]] = {}
    for name, label in variant_labels(recipes).items():
        by_name[label] = (*by_name.get(label, ()), runs[name].network)
    return NamedNetworks(by_name, first.recipe, first.classes)


def networks_of_architecture(
    arch: str, options: Mapping[str, Any], checkpoints: Sequence[Path], method: str | None, preset: str | None
) -> NamedNetworks:
    """Build an architecture and load its checkpoints; without any, take it with the weights that it is built with.

    Args:
        arch: ``timm/NAME``, ``torchvision/NAME`` or ``module:function``.
        options: arguments of its constructor, ``pretrained`` for example.
        checkpoints: converted, folded or plain ones.
        method: to convert it with where there is no checkpoint, beside the plain network.
        preset: of the association.

    Raises:
        ConfigError: it cannot be built, or a checkpoint cannot be read, does not fit, or holds what is no number.
    """
    if checkpoints and (method or preset):
        raise ConfigError("--method and --preset are for an architecture without checkpoints, which say it themselves")
    if not checkpoints:
        network = _built(arch, options)
        if method is None:
            return NamedNetworks({arch: (network.eval(),)})
        converted = convert(_built(arch, options), method, preset or "poster")
        return NamedNetworks({arch: (network.eval(),), f"{arch}, {method}": (converted.eval(),)})
    names = shortest_names([Path(os.path.realpath(file)) for file in checkpoints])
    loaded = {}
    for name, file in zip(names, checkpoints, strict=True):
        network = _built(arch, options)
        state = find_weights(file, network, "average").state
        if wrong := [key for key, value in state.items() if torch.is_tensor(value) and not value.isfinite().all()]:
            raise ConfigError(f"{file}: weights that are no numbers, in {listing(wrong)}; the training has diverged")
        if is_converted(state):
            network = convert_like(network, state)
        load_weights(network, state, f"{file}: does not fit {arch}", "")
        loaded[name] = (network.eval(),)
    return NamedNetworks(loaded)


def _built(arch: str, options: Mapping[str, Any]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same random weights, plain and converted
        return build_architecture(arch, options)
