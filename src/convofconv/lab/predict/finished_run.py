"""The network of a finished run, folded and ready to be asked, wherever the run was trained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from torch import nn

from ...errors import ConfigError, listing
from ..files.run_folder import RunFolder
from ..files.state_dicts import load_weights, read_state_dict
from ..models.network import build_network
from ..recipe.schema import Recipe
from ..training.run_network import recipe_to_build


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A network that was trained, and what its answers mean.

    Args:
        recipe: of the run, but for what belongs to its training alone.
        classes: names of the classes.
        categories: what the data set itself calls every class; empty where it has no numbers of its own.
        network: plain, in evaluation mode.
        device: where it computes.
    """

    recipe: Recipe
    classes: tuple[str, ...]
    categories: tuple[int | None, ...]
    network: nn.Module
    device: torch.device

    def category(self, label: int) -> int:
        """The data set's own number of a label, the label itself if it has none."""
        own = self.categories[label] if self.categories else None
        return label if own is None else own


def load_finished(path: Path, device: torch.device) -> FinishedRun:
    """Build the network of the run in ``path`` and load its folded weights; the data set need not be there.

    Raises:
        ConfigError: there is no finished run, or what is there does not fit together.
    """
    folder = RunFolder(path)
    if missing := [file.name for file in (folder.results, folder.model) if not file.is_file()]:
        finish = f", or finish the run: coc fit {path} --resume" if folder.recipe.is_file() else ""
        raise ConfigError(
            f"{path} holds no finished run, there is no {listing(missing)}; give the folder that coc fit wrote{finish}"
        )
    try:
        results = json.loads(folder.results.read_text(encoding="utf-8"))
        recipe = dataclasses.replace(recipe_to_build(results["recipe"], path), method="plain")
        classes, categories = tuple(results["classes"]), tuple(results.get("categories") or ())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{folder.results}: not the results of a run of this version ({reason})") from error
    network = build_network(recipe, len(classes))
    state_dict = read_state_dict(folder.model, network.state_dict().keys())
    load_weights(network, state_dict, f"{folder.model}: not the network of {folder.results.name}")
    if wrong := [name for name, value in network.state_dict().items() if not value.isfinite().all()]:
        # A detector would just find nothing.
        raise ConfigError(f"{folder.model}: weights that are no numbers, in {listing(wrong)}; train the network anew")
    return FinishedRun(recipe, classes, categories, network.to(device).eval(), device)
