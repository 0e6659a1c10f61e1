"""What the paper claims of the inside of networks (C9, C10, C11) as a few numbers per run.

Each kernel measure is what a layer has more than its null, the mean over layers: 0 where nothing but chance and the
association itself is at work. A plain network is looked at in the same way, through associations at the identity.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ...errors import ConfigError
from ...surgery.conversion import convert
from .annotated_shares import annotated_shares
from .effective_field import effective_field
from .kernel_grids import association_of, find_conv, layers_with_kernels
from .kernel_nulls import CLAIMED, NullTest, claim_tests
from .object_shares import ObjectShare


@dataclasses.dataclass(frozen=True)
class What:
    """What of a run is looked into.

    Args:
        layer: whose effective receptive field and activation maps are measured.
        object_size: side of objects in pixels, √area, above which they count as large; 0 where none are annotated.
        images: on whose objects activation maps are measured, at most.
        draws: of the null.

    Raises:
        ConfigError: a value is impossible.
    """

    layer: str
    object_size: float = 0.0
    images: int = 50
    draws: int = 99

    def __post_init__(self) -> None:
        if not self.layer:
            raise ConfigError("inspect.layer is missing: the layer whose field and maps are measured")
        if self.object_size < 0 or self.images < 1 or self.draws < 1:
            raise ConfigError(
                f"inspect: object_size must not be negative, images and draws be at least 1; got {self.object_size}, "
                f"{self.images} and {self.draws}"
            )


def run_numbers(network: nn.Module, what: What, items: Iterable[tuple[Any, Any]] = ()) -> dict[str, float | None]:
    """Everything that :data:`~.measures.MEASURES` names, of one trained network.

    Args:
        network: as it was trained, in evaluation mode.
        what: is looked into.
        items: images with annotated objects, see :func:`~.annotated_shares.annotated_shares`.

    Returns:
        Numbers by name, in per cent, the field's in pixels; ``None`` where one is not defined.

    Raises:
        ConfigError: the network has no such layer, or no kernels to look at.
    """
    numbers: dict[str, float | None] = kernel_numbers(network, what.draws)
    numbers["field"] = effective_field(network, what.layer).size
    if what.object_size:
        shares = annotated_shares(network, items, what.layer).shares
        large = [share for share in shares if share.size > what.object_size]
        small = [share for share in shares if share.size <= what.object_size]
        numbers |= {"large_objects": _beyond_chance(large), "small_objects": _beyond_chance(small)}
    return numbers


def kernel_numbers(network: nn.Module, draws: int = 99, seed: int = 0) -> dict[str, float | None]:
    """The kernel measures of a network against permuted basic kernels, as means over its associated layers.

    A plain network's layers are those that :func:`convofconv.convert` would associate.

    Args:
        network: converted or plain.
        draws: of the null.
        seed: of the draws.

    Raises:
        ConfigError: there are no kernels to look at.

    Examples:
        >>> numbers = kernel_numbers(convert(nn.Sequential(nn.Conv2d(3, 16, 3))), draws=9)
        >>> sorted(numbers)[:3], numbers["energy"]
        (['energy', 'energy_observed', 'energy_z'], None)
    """
    layers = layers_with_kernels(network)
    if not layers:
        raise ConfigError("the network has no kernels of more than one tap to look at")
    if association_of(find_conv(network, layers[0])) is None:
        with torch.random.fork_rng(devices=[]):
            network = convert(copy.deepcopy(network))
        layers = layers_with_kernels(network)
    tests = [claim_tests(network, layer, draws=draws, seed=seed) for layer in layers]
    numbers: dict[str, float | None] = {}
    for name in CLAIMED:
        found = [test[name] for test in tests]
        numbers[name] = _mean(100 * beyond for test in found if (beyond := _excess(test)) is not None)
        numbers[f"{name}_z"] = _mean(test.effect_size for test in found if test.effect_size is not None)
        numbers[f"{name}_observed"] = _mean(100 * test.observed for test in found if test.observed is not None)
    return numbers


def _excess(test: NullTest) -> float | None:
    return None if test.observed is None or test.null_mean is None else test.observed - test.null_mean


def _beyond_chance(shares: Iterable[ObjectShare]) -> float | None:
    """Every image counts once, by the mean over its objects."""
    by_image: dict[int, list[float]] = {}
    for share in shares:
        by_image.setdefault(share.image, []).append(100 * (share.share - share.chance))
    return _mean(sum(values) / len(values) for values in by_image.values())


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None
