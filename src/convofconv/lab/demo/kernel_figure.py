"""The kernels of one layer as the association sees them."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import nn

from ..inspect.kernel_grids import associated_layers, grids_side_by_side
from ..inspect.kernel_mosaic import kernel_mosaic
from ..inspect.kernel_mosaic_figure import draw_mosaic


def draw_kernels(models: Mapping[str, nn.Module]) -> Figure | None:
    """The kernels of the first associated layer, a row per group; ``None`` if no layer is associated.

    Where ``models`` has ``"plain"``, that network's kernels of the same layer are drawn beside them.
    """
    for method, model in models.items():
        for layer in associated_layers(model):
            shown = {name: models[name] for name in ("plain", method) if name in models}
            return draw_mosaic(kernel_mosaic(grids_side_by_side(shown, layer)))
    return None
