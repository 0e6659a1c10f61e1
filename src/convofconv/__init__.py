"""Convolution of Convolution (CVPR 2022): let the kernels of a conv layer collaborate, at no cost after training.

>>> import convofconv as coc
>>> model = coc.convert(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)))
>>> plain = coc.reparameterize(model)

Names are imported when they are first used, so that ``coc --help`` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .maps import REGISTRY

if TYPE_CHECKING:
    from . import lab as lab
    from .config import PRESETS, Config
    from .errors import (
        ArgumentTypeError,
        ConfigError,
        ConversionWarning,
        ConvOfConvError,
        ShapeError,
        SurgeryError,
        VerificationError,
    )
    from .functional.penalties import ocnn_penalty, so_penalty, srip_penalty
    from .layers import CoC1d, CoC2d, CoC3d
    from .maps import *
    from .maps.registered import kernel_maps
    from .model_summary import ConvReport, Summary, summary
    from .parameter_groups import param_groups
    from .runtime.kernel_cache import no_kernel_cache
    from .surgery.conversion import convert
    from .surgery.folding import remove, reparameterize
    from .surgery.selection import Selection
    from .surgery.state_dict import convert_like
    from .verification import verify

__version__ = "0.1.0"

_HOME = {
    "surgery.conversion": ("convert",),
    "surgery.folding": ("reparameterize", "remove"),
    "surgery.state_dict": ("convert_like",),
    "parameter_groups": ("param_groups",),
    "runtime.kernel_cache": ("no_kernel_cache",),
    "layers": ("CoC1d", "CoC2d", "CoC3d"),
    "model_summary": ("summary", "Summary", "ConvReport"),
    "surgery.selection": ("Selection",),
    "maps.registered": ("kernel_maps",),
    "verification": ("verify",),
    "config": ("Config", "PRESETS"),
    "maps": ("METHODS", "KernelMap", *(entry.kernel_map for entry in REGISTRY)),
    "functional.penalties": ("so_penalty", "srip_penalty", "ocnn_penalty"),
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
    *(entry.kernel_map for entry in REGISTRY),
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
    if name == "lab":
        return importlib.import_module(".lab", __name__)
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f".{module}", __name__), name)
    from .errors import did_you_mean, similar

    hint = f"; that is {_ALSO_CALLED[name]} here" if name in _ALSO_CALLED else did_you_mean(similar(name, __all__))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
