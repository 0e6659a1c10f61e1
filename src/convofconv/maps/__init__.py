"""Kernel maps: modules that take a conv weight and give a conv weight of the same shape.

``torch.nn.utils.parametrize`` registers them on a conv; several compose in the order of their registration.
"""

from .base import Conv, KernelMap, read_settings
from .norm import KernelLayerNorm
from .orthogonalization import Orthogonalization
from .overparameterization import DepthwiseOverparameterization
from .spatial import SpatialAssociation
from .standardization import Standardization, standardize

__all__ = [
    "Conv",
    "DepthwiseOverparameterization",
    "KernelLayerNorm",
    "KernelMap",
    "Orthogonalization",
    "SpatialAssociation",
    "Standardization",
    "read_settings",
    "standardize",
]
