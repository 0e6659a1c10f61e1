"""Images as the networks take them, and as they are shown: of one size, so that they make a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from ...errors import ConfigError
from ..data.decoding import open_image
from ..models.detector import takes_list
from ..predict.image_files import image_paths
from ..recipe.schema import Recipe
from .input_images import input_channels, own_size


@dataclasses.dataclass(frozen=True)
class PreparedImages:
    """A batch of images.

    Args:
        inputs: what the networks are given.
        shown: the same from 0 to 1.
        files: where they are from.

    Shape:
        - inputs: ``(number, channels, height, width)``
        - shown: ``(number, 1 or 3, height, width)``
    """

    inputs: Tensor
    shown: Tensor
    files: tuple[Path, ...]


def prepare_images(
    given: Sequence[str], network: nn.Module, recipe: Recipe | None, out: Path, most: int = 6
) -> PreparedImages:
    """Decode images and prepare them as the networks' recipe evaluates.

    A classifier's are cut to one size, that of its training; others' are scaled to the size of the first.

    Args:
        given: files, folders and patterns.
        network: that they are for.
        recipe: of the run; without one they are normalised and cut as timm's networks say, others' as on ImageNet.
        out: the folder that results are written into, which is not searched.
        most: how many are taken, spread over all that are found.

    Raises:
        ConfigError: there are no images, one cannot be decoded, or the network takes neither grey nor RGB ones.
    """
    channels = input_channels(network)
    if channels not in (1, 3):
        raise ConfigError(
            f"--images: the network takes images of {channels} channels; files have 1 or 3. Leave --images out"
        )
    found = image_paths(given, out)
    files = tuple(found[number * len(found) // min(most, len(found))] for number in range(min(most, len(found))))
    size = _size(network, recipe)
    tensors = []
    for file in files:
        image = open_image(file, upright=True)
        try:
            tensors.append(_at_size(image, size, cut=recipe is None or recipe.task == "classification"))
        except ValueError as error:
            raise ConfigError(f"{file}: cannot be scaled to {size} pixels ({error})") from error
        size = size or (image.height, image.width)
    shown = torch.stack(tensors)
    if channels == 1:
        shown = F.rgb_to_grayscale(shown)
    if takes_list(network):
        return PreparedImages(shown, shown, files)  # a detector normalises by itself
    mean, std = _normalisation(network, recipe)
    return PreparedImages(F.normalize(shown, list(mean)[:channels], list(std)[:channels]), shown, files)


def _size(network: nn.Module, recipe: Recipe | None) -> tuple[int, int] | None:
    """Height and width that images get; ``None`` for those of the first one."""
    if recipe is None:
        return None if takes_list(network) else (own_size(network),) * 2
    data = recipe.data
    if recipe.task == "classification":
        return (data.eval_crop,) * 2 if data.eval_crop else data.crop
    return None


def _at_size(image: Image.Image, size: tuple[int, int] | None, cut: bool) -> Tensor:
    tensor: Tensor = F.to_dtype(F.to_image(image), torch.float32, scale=True).as_subclass(Tensor)
    if size is None:
        return tensor
    if not cut:
        scaled: Tensor = F.resize(tensor, list(size), antialias=True)
        return scaled
    scale = max(size[0] / image.height, size[1] / image.width)
    sides = [max(size[0], round(image.height * scale)), max(size[1], round(image.width * scale))]
    cropped: Tensor = F.center_crop(F.resize(tensor, sides, antialias=True), list(size))
    return cropped


def _normalisation(network: nn.Module, recipe: Recipe | None) -> tuple[Sequence[float], Sequence[float]]:
    if recipe is not None:
        return recipe.data.mean, recipe.data.std
    config = resolve_model_data_config(network)
    return config["mean"], config["std"]
