"""Data and network of a run, each known to fit the other before anything is trained."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from ...errors import ConfigError
from ..data.build_data import EvaluationData, Size
from ..files.run_folder import RunFolder
from ..files.state_dicts import load_weights, read_state_dict
from ..found_by_name import find_task
from ..models.network import build_network
from ..recipe.schema import Recipe
from .module import Training
from .run_data import RunData


def prepare(recipe: Recipe, resumed: bool = False) -> tuple[Training, RunData]:
    """What is trained, and on what.

    Args:
        recipe: what decides the result.
        resumed: whether a checkpoint of the run will give the network its weights.

    Raises:
        ConfigError: data or network are not to be had, or do not fit each other.
    """
    sets = find_task(recipe.task).build_data(recipe.data, recipe.training.seed)
    network = _network(recipe, len(sets.classes), sets.evaluated_sizes, sets.trained_size, resumed)
    return Training(recipe, network, sets.classes), RunData(recipe, sets)


def prepare_evaluation(recipe: Recipe, data: EvaluationData, folder: RunFolder) -> Training:
    """The folded network of a finished run, to be evaluated.

    Args:
        recipe: of a plain network.
        data: what it is evaluated on.
        folder: of the run.

    Raises:
        ConfigError: the folder holds the weights of another network.
    """
    network = _network(recipe, len(data.classes), data.sizes)
    state_dict = read_state_dict(folder.model, network.state_dict().keys())
    load_weights(network, state_dict, f"{folder.model}: not the network of {folder.recipe.name}")
    return Training(recipe, network, data.classes)


def _network(
    recipe: Recipe, classes: int, evaluated: Sequence[Size], trained: Size | None = None, resumed: bool = False
) -> nn.Module:
    """The network, once it is known to take the sizes that it is evaluated and trained with."""
    if recipe.machine.threads:
        torch.set_num_threads(recipe.machine.threads)
    network, task = build_network(recipe, classes, resumed), find_task(recipe.task)
    for height, width in dict.fromkeys([trained, *evaluated] if trained else evaluated):
        _check_takes(network, height, width)
        task.check_outputs(network, recipe, classes, height, width)
    at_once = recipe.machine.devices * recipe.machine.nodes * recipe.training.accumulate
    if trained and recipe.training.batch == at_once:
        _check_learns_from_one(network, *trained)
    if recipe.training.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if recipe.training.compile:
        task.compile(network)
    return network


@torch.no_grad()
def _check_takes(network: nn.Module, height: int, width: int) -> None:
    """Some networks take one size alone, or none below that of their strides."""
    try:
        with torch.random.fork_rng(devices=[]):
            network.eval()(torch.zeros(2, 3, height, width))  # norms over small maps refuse a single one
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"model.backbone: the network cannot take images of {height}×{width} pixels ({reason}). Their size is "
            "data.crop in training, and follows from data.eval_resize and data.eval_crop in evaluation; without "
            "data.eval_crop it is that of each file"
        ) from error
    network.train()


@torch.no_grad()
def _check_learns_from_one(network: nn.Module, height: int, width: int) -> None:
    """Batch norm takes no statistics of a single image's map of 1×1."""
    try:
        with torch.random.fork_rng(devices=[]):
            copy.deepcopy(network).train()(torch.zeros(1, 3, height, width))
    except ValueError as error:
        raise ConfigError(
            f"training.batch: the network cannot learn from one image of {height}×{width} pixels at a time "
            f"({error}); take more for every process and accumulated batch, or a larger data.crop"
        ) from error
