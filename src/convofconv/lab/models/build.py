"""The network of a recipe: built, given weights, and converted."""

from __future__ import annotations

import torch
from torch import nn

from ...selection import Selection
from ...surgery import convert
from ..recipe import Recipe
from .classifier import build_classifier
from .fcn import build_fcn
from .weights import load_run, read_run


def build_network(recipe: Recipe, classes: int) -> nn.Module:
    """Build the network of a recipe; every method starts from the same plain network, decided by the seed.

    Weights from a run of the same method and preset are its basic kernels and kernel maps. Those from any other run are
    its folded kernels, which a method that keeps a network's function starts from.

    Args:
        recipe: of the run.
        classes: number of classes in the data.

    Shape:
        - input: ``(batch, 3, height, width)``
        - output: ``(batch, classes)``, for segmentation ``(batch, classes, height, width)``

    Raises:
        ConfigError: the network cannot be built as asked, or the weights are not to be had or do not fit.
        SurgeryError: the method finds nothing to convert in it.
    """
    torch.manual_seed(recipe.training.seed)
    build = build_fcn if recipe.task == "segmentation" else build_classifier
    network = build(recipe.model, classes)
    weights = None if recipe.model.weights in ("", "timm") else read_run(recipe, network)
    if weights and not weights.converted:
        load_run(network, weights, classes)
    if recipe.method != "plain":
        only_backbone = recipe.task == "segmentation" and recipe.model.convert == "backbone"
        where = Selection(pointwise=recipe.model.pointwise, include=["backbone.*"] if only_backbone else [])
        # On the whole network, so that kernels are kept and computed together over all of its forward.
        convert(network, recipe.method, recipe.config, where)
    if weights and weights.converted:
        load_run(network, weights, classes)
    return network
