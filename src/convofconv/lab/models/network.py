"""The network of a recipe: built, given weights, and converted."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from ...errors import ConfigError
from ...maps import SpatialAssociation
from ...surgery.conversion import convert, maps_for
from ...surgery.selection import Selection
from ..found_by_name import find_task
from ..recipe.schema import Recipe
from .backbones import check_normalisation
from .run_weights import load_run, necks, read_run


def build_network(recipe: Recipe, classes: int, begun: bool = False) -> nn.Module:
    """Build the network of a recipe; every method starts from the same plain network of its task, decided by the seed.

    Weights from a run of the same method and preset are its basic kernels and kernel maps. Those from any other run are
    its folded kernels, which a method that keeps a network's function starts from.

    Args:
        recipe: of the run.
        classes: number of classes in the data.
        begun: whether a checkpoint of the run will give it all its weights, so that none are looked for.

    Raises:
        ConfigError: the network cannot be built as asked, or the weights are not to be had or do not fit.
        SurgeryError: the method finds nothing to convert in it.
    """
    task = find_task(recipe.task)
    torch.manual_seed(recipe.training.seed)
    start = _without_weights(recipe) if begun else recipe
    if start.model.weights == "timm":
        check_normalisation(recipe.model, recipe.data)
    network = task.build_network(start, classes)
    weights = None if start.model.weights in ("", "timm") else read_run(recipe, network)
    if start.model.freeze_norm and not (weights and weights.converted):
        _check_kernels_stay(recipe)
    if weights and not weights.converted:
        load_run(network, weights, task.backbone, classes)
    if recipe.method != "plain":
        prefix, exclude = "", list[str]()
        if recipe.model.convert == "backbone":
            prefix, exclude = task.backbone, necks(network)
        where = Selection(pointwise=recipe.model.pointwise, include=[f"{prefix}*"] if prefix else [], exclude=exclude)
        # On the whole network, so that kernels are kept and computed together over all of its forward.
        convert(network, recipe.method, recipe.config, where)
    if weights and weights.converted:
        load_run(network, weights, task.backbone, classes)
    if recipe.model.freeze_norm:
        _freeze_norms(network.get_submodule(task.backbone.rstrip(".")))
    return network


def _without_weights(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, weights="", freeze_norm=False))


def _check_kernels_stay(recipe: Recipe) -> None:
    """Refuse to freeze norms behind kernels other than those whose statistics they hold."""
    maps = [] if recipe.method == "plain" else maps_for(recipe.method, recipe.config)
    drawn = SpatialAssociation in maps and recipe.config.init == "kaiming"
    if drawn or any(kernel_map.changes_scale for kernel_map in maps):
        raise ConfigError(
            f"model.freeze_norm: {recipe.method} (preset {recipe.preset}) changes pretrained kernels, and frozen norms "
            "cannot adapt to that; take a run of the same method and preset as model.weights, or set "
            "model.freeze_norm to false"
        )


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that does in training what it does in evaluation.

    Others' frozen norms compute in float32 under autocast, and have other keys.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class FrozenBatchNormAct2d(FrozenBatchNorm2d, BatchNormAct2d):  # type: ignore[misc]
    """The same with an activation in it."""

    def forward(self, x: Tensor) -> Any:
        own: Any = self
        return own.act(own.drop(super().forward(x)))


def _freeze_norms(backbone: nn.Module) -> None:
    """Let a backbone's batch norms neither learn nor look at batches."""
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        raise ConfigError("model.freeze_norm: the backbone has no batch norms; leave it out")
    for norm in norms:
        norm.__class__ = FrozenBatchNormAct2d if isinstance(norm, BatchNormAct2d) else FrozenBatchNorm2d
        for parameter in norm.parameters(recurse=False):
            parameter.requires_grad_(False)
