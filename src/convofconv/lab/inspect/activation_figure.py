"""Activation maps over their images, networks side by side, with the fields of the layer drawn in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ...errors import ConfigError, ShapeError
from .activation_maps import ActivationMaps
from .field_comparison import SeedFields
from .field_figure import add_legend, field_squares, sizes_line


def draw_activation_maps(
    images: Tensor,
    maps: Mapping[str, ActivationMaps],
    fields: Mapping[str, SeedFields] | None = None,
    classes: Sequence[str] = (),
) -> Figure:
    """Draw the maps of networks over the same images, a row per image: the image, then a column per network.

    The squares are those of the layer's fields around the map's peak.

    Args:
        images: to show, from 0 to 1, grey or RGB.
        maps: by network, of one layer and method.
        fields: by network, of that layer; no squares if not given.
        classes: names of the classes that are explained; their numbers are shown without.

    Shape:
        - images: ``(number, 1 or 3, height, width)``

    Raises:
        ConfigError: there are no maps, or no fields of one of the networks.
        ShapeError: the maps are not of these images.
    """
    if not maps:
        raise ConfigError("there are no activation maps to draw")
    if fields is not None and (missing := [name for name in maps if name not in fields]):
        raise ConfigError(f"fields: there are none of {missing[0]!r}")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ShapeError(f"images to show are grey or RGB, (number, 1 or 3, height, width); got {tuple(images.shape)}")
    for name, drawn in maps.items():
        if drawn.maps.shape != (len(images), *images.shape[-2:]):
            raise ShapeError(f"{name}: maps of {tuple(drawn.maps.shape)} are not of images of {tuple(images.shape)}")
    count, ratio = len(images), images.shape[-2] / images.shape[-1]
    first = next(iter(maps.values()))
    width = 3.1
    figure = Figure(
        figsize=(width * (len(maps) + 1) + 0.9, (width * ratio + 0.15) * count + (1.5 if fields else 0.8)),
        layout="constrained",
    )
    figure.suptitle(f"{first.method} of {first.layer}, normalised by {first.normalisation}")
    panels = figure.subplots(count, len(maps) + 1, squeeze=False)
    shown = images.detach().cpu().clamp(0, 1).expand(-1, 3, -1, -1).movedim(1, -1).numpy()
    for number, row in enumerate(panels):
        row[0].imshow(shown[number])
        row[0].set_ylabel(f"image {number}", fontsize=9)
        for axes, (name, drawn) in zip(row[1:], maps.items(), strict=True):
            axes.imshow(shown[number].mean(-1), cmap="gray", vmin=0, vmax=1)
            heat = drawn.maps[number].detach().cpu()
            painted = axes.imshow(heat.numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.6)
            if fields is not None and heat.any():  # an empty map has no peak
                field_squares(axes, _peak(heat), fields[name].size, fields[name].fields[0].theoretical)
            axes.set_xlabel(_explained(drawn, number, classes), fontsize=8)
        for axes in row:
            axes.set(xticks=[], yticks=[])
    panels[0][0].set_title("image", fontsize=9)
    for axes, name in zip(panels[0][1:], maps, strict=True):
        axes.set_title(name if fields is None else f"{name}\n{sizes_line(fields[name])}", fontsize=9)
    figure.colorbar(painted, ax=panels[:, -1].tolist(), shrink=0.6, label="activation, share of the maximum")
    if fields is not None:
        add_legend(figure)
    return figure


def _peak(map: Tensor) -> tuple[float, float]:
    """Column and row of the largest value."""
    row, column = np.unravel_index(int(torch.argmax(map)), map.shape)
    return float(column), float(row)


def _explained(drawn: ActivationMaps, number: int, classes: Sequence[str]) -> str:
    if drawn.labels is None:
        return ""
    label = drawn.labels[number]
    return classes[label] if label < len(classes) else f"class {label}"
