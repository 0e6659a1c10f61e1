"""How images are varied for training and prepared for evaluation, together with their masks where there are any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..recipe.schema import DataRecipe, MaskResize
from .decoding import VOID

#: Takes a tv_tensors.Image and a label or a tv_tensors.Mask; gives a tensor and the label or a tensor.
Transform = Callable[..., tuple[Tensor, Any]]


class ExactMask(tv_tensors.Mask):  # type: ignore[misc]
    """A mask that is resized by the pixels nearest to the middles of the new ones (nearest-exact), as images are.

    torchvision takes those at their beginnings, half a pixel before.
    """


def _resize_exactly(mask: Tensor, size: list[int], max_size: int | None = None, **_: Any) -> Tensor:
    exact = v2.InterpolationMode.NEAREST_EXACT
    pixels = mask.as_subclass(Tensor)
    resized = v2.functional.resize_image(pixels[None] if mask.ndim < 3 else pixels, size, exact, max_size)
    wrapped: Tensor = tv_tensors.wrap(resized[0] if mask.ndim < 3 else resized, like=mask)
    return wrapped


def _crop_and_resize_exactly(
    mask: Tensor, top: int, left: int, height: int, width: int, size: list[int], **_: Any
) -> Tensor:
    return _resize_exactly(v2.functional.crop(mask, top, left, height, width), size)


v2.functional.register_kernel("resize", ExactMask)(_resize_exactly)
v2.functional.register_kernel("resized_crop", ExactMask)(_crop_and_resize_exactly)


class ResizeMasks(nn.Module):
    """Decide how the masks of an item are resized by what follows.

    Args:
        how: a recipe's ``mask_resize``.
    """

    def __init__(self, how: MaskResize) -> None:
        super().__init__()
        self.kind: type[Tensor] = ExactMask if how == "nearest-exact" else tv_tensors.Mask

    def forward(self, image: Tensor, target: Any) -> tuple[Tensor, Any]:
        """Give the mask, or those among an item's objects, the type that says so."""
        if isinstance(target, dict):
            return image, {key: self.forward(image, value)[1] for key, value in target.items()}
        return image, target.as_subclass(self.kind) if isinstance(target, tv_tensors.Mask) else target


class RandomResize(nn.Module):
    """Resize to a shorter side, times a random factor; masks by their nearest pixels.

    Args:
        shorter: length of the shorter side; 0 for an image's own.
        scale: the factor is drawn evenly between these two.
    """

    def __init__(self, shorter: int, scale: tuple[float, float]) -> None:
        super().__init__()
        self.shorter, self.scale = shorter, scale

    def forward(self, image: Tensor, target: Any) -> tuple[Tensor, Any]:
        """Resize an image, and its target if it is a mask."""
        height, width = image.shape[-2:]
        factor = torch.empty(()).uniform_(*self.scale).item() * (self.shorter or min(height, width))
        # One pixel would be too small for torch, which stops with an internal error.
        size = [max(2, round(side * factor / min(height, width))) for side in (height, width)]
        if isinstance(target, tv_tensors.Mask):
            target = v2.functional.resize(target, size)
        return v2.functional.resize(image, size, antialias=True), target


def training_transform(recipe: DataRecipe, outside: int | Sequence[int] = 0) -> Transform:
    """The variations that the recipe asks for, in the order of its keys, then normalisation.

    Args:
        recipe: of the data.
        outside: colour of what lies outside of an image; in its mask that is void.
    """
    fill = {tv_tensors.Image: outside, tv_tensors.Mask: VOID, ExactMask: VOID}
    steps: list[Any] = [ResizeMasks(recipe.mask_resize)]
    if recipe.resize or recipe.scale != (1.0, 1.0):
        steps.append(RandomResize(recipe.resize, recipe.scale))
    if recipe.padding:
        steps.append(v2.Pad(recipe.padding, fill))
    if recipe.random_resized_crop:
        steps.append(v2.RandomResizedCrop(recipe.crop, antialias=True))
    else:
        steps.append(v2.RandomCrop(recipe.crop, pad_if_needed=True, fill=fill))
    if recipe.flip:
        steps.append(v2.RandomHorizontalFlip())
    if recipe.photometric:
        steps += _photometric()
    return _prepared(recipe, steps)


def evaluation_transform(recipe: DataRecipe) -> Transform:
    """Resizing, a centre crop where there is one, and normalisation.

    A mask is resized with its image, so that ``eval_resize`` also decides at what size segmentation is measured.
    """
    steps: list[Any] = [ResizeMasks(recipe.mask_resize)]
    if recipe.eval_resize:
        steps.append(v2.Resize(recipe.eval_resize, antialias=True))
    if recipe.eval_crop:
        steps.append(v2.CenterCrop(recipe.eval_crop))
    return _prepared(recipe, steps)


def _photometric() -> list[Any]:
    """Each of the four in every second image, as strong as in SSD (without its swap of channels)."""
    changes = ({"brightness": 0.125}, {"contrast": 0.5}, {"saturation": 0.5}, {"hue": 0.05})
    return [v2.RandomApply([v2.ColorJitter(**change)], p=0.5) for change in changes]


def _prepared(recipe: DataRecipe, steps: list[Any]) -> Transform:
    numbers = {tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, ExactMask: torch.int64, "others": None}
    ends = [v2.ToDtype(numbers, scale=True), v2.Normalize(recipe.mean, recipe.std), v2.ToPureTensor()]
    transform: Transform = v2.Compose([*steps, *ends])
    return transform
