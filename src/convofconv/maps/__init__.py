"""Kernel maps: modules that take a conv weight and give a conv weight of the same shape, one a file.

``torch.nn.utils.parametrize`` registers them on a conv; several compose in the order of their registration. A map of
the package is its own file and its line in :data:`REGISTRY`; everything else reads it there or off its class.

No map is imported before it is used, so that ``coc --help`` can name them without waiting for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .depthwise_overparameterization import DepthwiseOverparameterization as DepthwiseOverparameterization
    from .kernel_layer_norm import KernelLayerNorm as KernelLayerNorm
    from .kernel_map import KernelMap as KernelMap
    from .orthogonalization import Orthogonalization as Orthogonalization
    from .spatial_association import SpatialAssociation as SpatialAssociation
    from .standardization import Standardization as Standardization

    #: The methods by name, in the order in which their maps are applied.
    METHODS: dict[str, type[KernelMap]]


class Entry(NamedTuple):
    """A kernel map of the package: its name in methods, its file and class, and a line of help."""

    name: str
    file: str
    kernel_map: str
    help: str


#: In the order in which they are applied. Linear maps come first, because behind the others they would undo what those
#: fix; the association before all, where narrow layers are computed in batches; and the norm last, because its gain and
#: bias are to act on the kernels that the layer uses.
REGISTRY = (
    Entry("coc", "spatial_association", "SpatialAssociation", "the spatial association of the paper"),
    Entry(
        "doconv",
        "depthwise_overparameterization",
        "DepthwiseOverparameterization",
        "over-parameterization, DO-Conv",
    ),
    Entry("stnd", "standardization", "Standardization", "weight standardization"),
    Entry("orth", "orthogonalization", "Orthogonalization", "orthogonalization by Newton's iteration, ONI"),
    Entry("norm", "kernel_layer_norm", "KernelLayerNorm", "the released final norm, alone"),
)


def method_names() -> str:
    """The names of all methods, for help and messages."""
    return ", ".join(entry.name for entry in REGISTRY)


def method_list() -> str:
    """The methods with a line on each, for help."""
    width = max(len(entry.name) for entry in REGISTRY)
    return "\n".join(f"  {entry.name:{width}}  {entry.help}" for entry in REGISTRY)


def __getattr__(name: str) -> object:
    if name == "METHODS":
        value: object = {entry.name: __getattr__(entry.kernel_map) for entry in REGISTRY}
    elif file := {"KernelMap": "kernel_map", **{entry.kernel_map: entry.file for entry in REGISTRY}}.get(name):
        value = getattr(importlib.import_module(f".{file}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value
