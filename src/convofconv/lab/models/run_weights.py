"""Weights from a finished run: chosen, read, and loaded into another network by the names that it has for them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from ...errors import ConfigError, listing
from ..files.run_folder import RunFolder
from ..files.state_dicts import load_weights, read_state_dict
from ..found_by_name import find_task, names_in
from ..recipe.schema import Recipe
from .backbones import same_architecture


@dataclasses.dataclass(frozen=True)
class RunWeights:
    """The weights of a finished run.

    Args:
        file: what they were read from.
        state: the state dict, by the names that the run's network has.
        converted: whether it holds basic kernels and kernel maps; otherwise it is a plain network's.
    """

    file: Path
    state: Mapping[str, Tensor]
    converted: bool


def finished_run(weights: str) -> RunFolder:
    """The run that ``model.weights`` names.

    Raises:
        ConfigError: there is none, or it is not finished.
    """
    folder = RunFolder(Path(weights))
    if not folder.results.is_file():
        raise ConfigError(
            f'model.weights must be empty, "timm" or the folder of a finished run; in {folder.path} there is no '
            f"{folder.results.name}"
        )
    return folder


def read_run(recipe: Recipe, network: nn.Module) -> RunWeights:
    """Read the weights of the run that ``recipe.model.weights`` names: with kernel maps if both have the same ones.

    Args:
        recipe: of the new run.
        network: its network, still plain, by whose names the weights are recognised.

    Raises:
        ConfigError: that folder holds no finished run, or one of another backbone.
    """
    folder = finished_run(recipe.model.weights)
    try:
        theirs = json.loads(folder.results.read_text(encoding="utf-8"))["recipe"]
        method, preset, backbone = theirs["method"], theirs["preset"], theirs["model"]["backbone"]
        association, pointwise = theirs.get("association", {}), theirs["model"].get("pointwise", False)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"model.weights: {folder.results} names no recipe ({error!r})") from error
    if not same_architecture(backbone, recipe.model.backbone):
        raise ConfigError(
            f"model.weights: the run in {folder.path} has the backbone {backbone}, not {recipe.model.backbone}"
        )
    if theirs["model"].get("small_images", False) != recipe.model.small_images:
        raise ConfigError(f"model.weights: the run in {folder.path} has another stem, see model.small_images")
    if (task := theirs.get("task")) not in (None, recipe.task) and not _is_backbone(task):
        raise ConfigError(
            f"model.weights: the run in {folder.path} is one of {task}; {recipe.task} can start from its own kind and "
            "from classification"
        )
    conversion = recipe.method, recipe.preset, recipe.association, recipe.model.pointwise
    converted = method != "plain" and (method, preset, association, pointwise) == conversion
    file = folder.converted if converted else folder.model
    names = (name for key in network.state_dict() for name in _names_in_run(key))
    return RunWeights(file, read_state_dict(file, names), converted)


def _is_backbone(task: str) -> bool:
    """Whether networks of a task are a backbone as a whole, as classifiers are."""
    return task in names_in("tasks") and not find_task(task).backbone


def necks(network: nn.Module) -> list[str]:
    """Patterns of what an HRNet widens its branches with for classification, the neck in the paper's library."""
    return [f"{name}.*" for name in ("incre_modules", "downsamp_modules", "final_layer") if hasattr(network, name)]


def load_run(network: nn.Module, weights: RunWeights, prefix: str, classes: int) -> None:
    """Load the weights of a run: into the backbone of a network for another task, or into a whole classifier.

    The last layer of a classifier keeps its random weights if the run had another number of classes.

    Args:
        network: plain, or converted as the run's network was, see ``weights.converted``.
        weights: from :func:`read_run`.
        prefix: what the names of the network's backbone begin with.
        classes: number of classes of ``network``.

    Raises:
        ConfigError: something in the network finds no weights, or ones that do not fit; the message names it.
    """
    wanted = [key for key in network.state_dict() if key.startswith(prefix)]
    found = {key: name for key in wanted for name in _names_in_run(key) if name in weights.state}
    if missing := [key for key in wanted if key not in found]:
        raise ConfigError(f"{weights.file}: nothing in it for {listing(missing)}; it has {listing(weights.state)}")
    values = {key: weights.state[name] for key, name in found.items()}
    if not prefix:
        for key in list(_of_other_classes(network, values, classes)):
            del values[key]
    complaint = f"{weights.file}: does not fit this network"
    load_weights(network, values, complaint, hint=" (were model.options others?)", strict=False)


def _names_in_run(key: str) -> list[str]:
    """What an entry of a network may be called in a run: the same, or as in the classifier that a backbone is part of.

    timm's feature networks take over a classifier's modules as they are, hold it whole (``model.``, ``body.``), or join
    the first two parts of its names (``stages.0.conv`` becomes ``stages_0.conv``).
    """
    bare = re.sub(r"^backbone\.(model\.|body\.)*", "", key)
    first, dot, rest = bare.partition(".")
    parted = [f"{first[:i]}.{first[i + 1 :]}{dot}{rest}" for i, letter in enumerate(first) if letter == "_"]
    return [*parted, bare, key]  # the last one that is there counts


def _of_other_classes(network: nn.Module, values: Mapping[str, Tensor], classes: int) -> Iterable[str]:
    """Entries of layers that put out the classes, and in the run as many others."""
    own = network.state_dict()
    for name, module in network.named_modules():
        if getattr(module, "out_features", getattr(module, "out_channels", None)) == classes:
            for key in (f"{name}.weight", f"{name}.bias"):
                if key in values and values[key].shape[0] != classes and values[key].shape[1:] == own[key].shape[1:]:
                    yield key
