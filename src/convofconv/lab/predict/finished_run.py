"""The network of a finished run, folded and ready to be asked, wherever the run was trained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_image

from ...errors import ConfigError, listing
from ..data.transforms import evaluation_transform
from ..files.run_folder import RunFolder
from ..files.state_dicts import load_weights, read_state_dict
from ..models.network import build_network
from ..recipe.schema import Recipe
from ..training.run_network import recipe_to_build


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A network that was trained, and what its answers mean.

    Args:
        recipe: of the run, except for what belongs to its training alone.
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

    def refuse_strips(self, image: Image.Image) -> None:
        """Refuse an image that takes all memory when its shorter side, of one pixel say, is resized for evaluation.

        Raises:
            ConfigError: the message says how it would be resized.
        """
        data = self.recipe.data
        growth = data.eval_resize / min(image.size) if data.eval_resize else 1.0
        if data.longest:
            growth = min(growth, data.longest / max(image.size))
        limit = Image.MAX_IMAGE_PIXELS or float("inf")
        if image.width * image.height * growth**2 > limit:
            raise ConfigError(
                f"{image.width}×{image.height} pixels are too many when the shorter side is {data.eval_resize} "
                "(data.eval_resize); cut the image"
            )

    def outputs(self, image: Image.Image) -> Tensor:
        """What the network puts out for the image as it is prepared when the run is evaluated, in a batch of one.

        Raises:
            ConfigError: the image is such a strip, or what is put out is no number.
        """
        self.refuse_strips(image)
        prepared, _ = evaluation_transform(self.recipe.data)(to_image(image), 0)
        outputs: Tensor = self.network(prepared[None].to(self.device))
        if not outputs.isfinite().all():
            raise ConfigError("the network puts out what is no number for this image")
        return outputs


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
