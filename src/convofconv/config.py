"""Hyper-parameters of the association: one frozen, checked dataclass and three named presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

from .errors import ArgumentTypeError, ConfigError, did_you_mean, listing, similar

Share = Literal["input", "output", "both", "none"]
Init = Literal["identity", "kaiming", "solve"]
Grouping = Literal["consecutive", "random", "similar"]

_PAPER_NAMES = {"sa": "grid_side", "skp": "extra_width", "sl": "depth", "dilat": "dilated"}


@dataclasses.dataclass(frozen=True)
class Config:
    """How the kernels of one conv layer are associated.

    The defaults are the poster's best setting (CoC poster, "Determine hyper-parameters").

    Args:
        grid_side: kernels per side of the grid, ``sa`` ≥ 1; a group holds ``grid_side ** d`` kernels of a
            ``d``-dimensional conv.
        extra_width: the super kernel spans ``kernel_size + extra_width``, ``skp`` ≥ 0.
        depth: number of super convolutions stacked one after another, ``sl`` ≥ 1.
        skip: add the basic kernels to the result of the stack of super convolutions.
        dilated: use a small dilated super kernel in place of a dense one (``dilat``).
        share: over what one super kernel is shared: ``"input"`` channels (one per group of kernels, the published
            choice), ``"output"`` groups (one per input channel), ``"both"`` (one for the layer), or ``"none"`` (a
            dense super convolution that also mixes input channels).
        standardize_super_kernel: standardize every super kernel to zero mean and unit deviation before its use.
        grid_norm: LayerNorm over all grids after the last super convolution, one statistic per input channel.
        kernel_norm: LayerNorm over every final kernel (:class:`convofconv.KernelLayerNorm`), on convs that a
            normalisation layer follows.
        within_conv_groups: keep every grid inside one group of a grouped convolution.
        init: ``"identity"`` starts as the unchanged network; ``"kaiming"`` draws the super kernels as the paper does
            and keeps the basic kernels, so the network changes; ``"solve"`` draws them too and solves for basic kernels
            that leave the network unchanged: the paper's start for a pretrained network.
        grouping: which kernels form a group: ``"consecutive"`` ones, as in the paper; ``"random"`` ones, drawn when the
            layer is converted; or ``"similar"`` ones, by the cosines between the layer's kernels when it is converted.

    Raises:
        ArgumentTypeError: a value has the wrong type.
        ConfigError: no field has that name, or a value is impossible, alone or together with another.

    Examples:
        >>> Config(grid_side=3).replace(skip=True).grid_side
        3
    """

    grid_side: int = 2
    extra_width: int = 2
    depth: int = 1
    skip: bool = True
    dilated: bool = True
    share: Share = "input"
    standardize_super_kernel: bool = False
    grid_norm: bool = False
    kernel_norm: bool = False
    within_conv_groups: bool = False
    init: Init = "identity"
    grouping: Grouping = "consecutive"

    def __new__(cls, *_: object, **settings: object) -> Config:
        """Refuse what no field is called, before Python does without saying what there is."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in settings.keys() - set(known):
            hint = f"; the paper's {name} is {_PAPER_NAMES[name]} here" if name in _PAPER_NAMES else ""
            hint = hint or did_you_mean(similar(name, known)) or f"; its fields are {listing(known)}"
            raise ConfigError(f"Config has no field {name}{hint}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name, least in (("grid_side", 1), ("extra_width", 0), ("depth", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ArgumentTypeError(f"Config.{name} must be an int, got {value!r} ({type(value).__name__})")
            if value < least:
                raise ConfigError(f"Config.{name} must be at least {least}, got {value}")
        for field in dataclasses.fields(self):
            if isinstance(field.default, bool) and not isinstance(getattr(self, field.name), bool):
                raise ArgumentTypeError(f"Config.{field.name} must be True or False, got {getattr(self, field.name)!r}")
        for name, literal in (("share", Share), ("init", Init), ("grouping", Grouping)):
            allowed = get_args(literal)
            if getattr(self, name) not in allowed:
                raise ConfigError(f"Config.{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        if self.init != "kaiming" and not self.skip and self.normalized:
            raise ConfigError(
                "Config: skip=False together with grid_norm or standardize_super_kernel passes every kernel through a "
                'normalisation, so no start keeps the network unchanged; set init="kaiming" or skip=True'
            )
        if self.init == "solve" and (self.grid_norm or self.share == "none"):
            raise ConfigError(
                'Config: init="solve" needs an association that can be inverted, without grid_norm and with a share '
                'other than "none"; use init="identity"'
            )

    @property
    def normalized(self) -> bool:
        """Whether a normalisation sits between the basic kernels and the result (the final norm not counted)."""
        return self.grid_norm or self.standardize_super_kernel

    def replace(self, **changes: object) -> Config:
        """Return a copy with some fields changed, checked like a new one.

        Raises:
            ArgumentTypeError: a new value is of the wrong type.
            ConfigError: a field of that name does not exist, or the new value is impossible.
        """
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


#: The named configurations: ``poster`` is the text of the poster, ``released`` and ``lightweight`` are what the
#: authors' published settings do for standard and for light-weight networks.
PRESETS: Mapping[str, Config] = MappingProxyType(
    {
        "poster": Config(),
        "released": Config(standardize_super_kernel=True, grid_norm=True, kernel_norm=True),
        "lightweight": Config(grid_norm=True, kernel_norm=True),
    }
)


def resolve_config(config: Config | str) -> Config:
    """Return ``config`` itself, or the preset of that name.

    Raises:
        ConfigError: no preset has that name.
        ArgumentTypeError: ``config`` is neither a name nor a :class:`Config`.

    Examples:
        >>> resolve_config("released").grid_norm
        True
    """
    if isinstance(config, Config):
        return config
    if not isinstance(config, str):
        raise ArgumentTypeError(f"config must be a Config or the name of a preset, got {type(config).__name__}")
    if config not in PRESETS:
        raise ConfigError(f"no preset is called {config!r}; there are {', '.join(PRESETS)}")
    return PRESETS[config]
