"""Convolution of Convolution (CVPR 2022): let the kernels of a conv layer collaborate, at no cost after training.

>>> import convofconv as coc
>>> model = coc.convert(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)))
>>> plain = coc.reparameterize(model)

Names are imported when they are first used, so that ``coc --help`` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .caching import no_kernel_cache
    from .checkpoint import convert_like
    from .config import PRESETS, Config
    from .conversion import convert
    from .errors import (
        ArgumentTypeError,
        ConfigError,
        ConversionWarning,
        ConvOfConvError,
        ShapeError,
        SurgeryError,
        VerificationError,
    )
    from .folding import remove, reparameterize
    from .layers import CoC1d, CoC2d, CoC3d
    from .maps import (
        METHODS,
        DepthwiseOverparameterization,
        KernelLayerNorm,
        KernelMap,
        Orthogonalization,
        SpatialAssociation,
        Standardization,
    )
    from .optimization import param_groups
    from .penalties import ocnn_penalty, so_penalty, srip_penalty
    from .report import ConvReport, Summary, summary
    from .selection import Selection, kernel_maps
    from .verification import verify

__version__ = "0.1.0"

_HOME = {
    "conversion": ("convert",),
    "folding": ("reparameterize", "remove"),
    "checkpoint": ("convert_like",),
    "optimization": ("param_groups",),
    "caching": ("no_kernel_cache",),
    "layers": ("CoC1d", "CoC2d", "CoC3d"),
    "report": ("summary", "Summary", "ConvReport"),
    "selection": ("kernel_maps", "Selection"),
    "verification": ("verify",),
    "config": ("Config", "PRESETS"),
    "maps": (
        "METHODS",
        "KernelMap",
        "SpatialAssociation",
        "DepthwiseOverparameterization",
        "Standardization",
        "KernelLayerNorm",
        "Orthogonalization",
    ),
    "penalties": ("so_penalty", "srip_penalty", "ocnn_penalty"),
    "errors": (
        "ConvOfConvError",
        "ArgumentTypeError",
        "ConfigError",
        "ShapeError",
        "SurgeryError",
        "VerificationError",
        "ConversionWarning",
    ),
}

#: What other libraries call these things.
_ALSO_CALLED = {
    **dict.fromkeys(("fold", "fuse", "merge", "deploy", "switch_to_deploy"), "reparameterize"),
    **dict.fromkeys(("unconvert", "revert", "restore"), "remove"),
    "check": "verify",
    "report": "summary",
}

__all__ = [
    # models
    "convert",
    "summary",
    "reparameterize",
    "remove",
    "verify",
    "convert_like",
    "kernel_maps",
    "Selection",
    "METHODS",
    "Summary",
    "ConvReport",
    # layers and training
    "CoC1d",
    "CoC2d",
    "CoC3d",
    "param_groups",
    "no_kernel_cache",
    # configuration
    "Config",
    "PRESETS",
    # kernel maps
    "KernelMap",
    "SpatialAssociation",
    "DepthwiseOverparameterization",
    "Standardization",
    "KernelLayerNorm",
    "Orthogonalization",
    # penalties
    "so_penalty",
    "srip_penalty",
    "ocnn_penalty",
    # errors
    "ConvOfConvError",
    "ArgumentTypeError",
    "ConfigError",
    "ShapeError",
    "SurgeryError",
    "VerificationError",
    "ConversionWarning",
]


def __getattr__(name: str) -> object:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f".{module}", __name__), name)
    from .errors import did_you_mean, similar

    hint = f"; that is {_ALSO_CALLED[name]} here" if name in _ALSO_CALLED else did_you_mean(similar(name, __all__))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
