"""Kernel maps: modules that take a conv weight and give a conv weight of the same shape.

``torch.nn.utils.parametrize`` registers them on a conv; several compose in the order of their registration.
"""

from .depthwise_overparameterization import DepthwiseOverparameterization
from .kernel_layer_norm import KernelLayerNorm
from .kernel_map import Conv, KernelMap, read_settings
from .orthogonalization import Orthogonalization
from .spatial_association import SpatialAssociation
from .standardization import Standardization, standardize

#: The methods by name, in the order in which their maps are applied. Linear maps come first, as behind the others they
#: would undo what those fix; the association before all, where narrow layers are computed together; and the norm last,
#: for its gain and bias are to act on the kernels that the layer uses.
METHODS: dict[str, type[KernelMap]] = {
    "coc": SpatialAssociation,
    "doconv": DepthwiseOverparameterization,
    "stnd": Standardization,
    "orth": Orthogonalization,
    "norm": KernelLayerNorm,
}

__all__ = [
    "METHODS",
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
