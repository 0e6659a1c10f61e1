"""Which convs of a model to convert: the walk, the obstacles, the default choice, and who is followed by a norm.

Nothing about a conversion is recorded in the model; all of this is read off its modules at any time.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from .errors import ArgumentTypeError, ConfigError, SurgeryError, listing
from .maps import Conv, KernelMap
from .modes import has_values
from .writers import written_in_forward

#: Names of the layers that torchvision's detectors predict with, kept plain by default: nothing normalises what they
#: put out. The last one is SSD's.
PREDICTION_LAYERS = (
    *("cls_logits", "bbox_reg", "bbox_pred", "bbox_ctrness", "mask_fcn_logits"),
    r"(?:classification|regression)_head\.module_list\.\d+",
)
#: Why what :func:`other_convs` finds is not converted.
NO_CONV_LAYER = "not an nn.Conv layer"

_PREDICTS = re.compile(rf"(?:.*\.)?(?:{'|'.join(PREDICTION_LAYERS)})")

_WRAPPERS = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule", "OptimizedModule")
_AXES = ((nn.Conv1d, 1), (nn.Conv2d, 2), (nn.Conv3d, 3))
_TRANSPARENT = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def convs(model: nn.Module) -> Iterator[tuple[str, Conv]]:
    """All convolutions by name, each module once."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            yield name, cast(Conv, module)


def weight_maps(module: nn.Module) -> parametrize.ParametrizationList | None:
    """Everything that is registered on a module's weight, of whatever library, or ``None``."""
    # The modules' own dictionaries: this runs for every conv of every forward, where attributes cost too much.
    lists = module._modules.get("parametrizations")
    return None if lists is None else cast("parametrize.ParametrizationList | None", lists._modules.get("weight"))


def kernel_maps(module: nn.Module) -> tuple[KernelMap, ...]:
    """The kernel maps on a module's weight, in the order of their application; none for other modules.

    Examples:
        >>> from convofconv import convert
        >>> model = convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), "coc+stnd")
        >>> [type(kernel_map).__name__ for kernel_map in kernel_maps(model[0])], kernel_maps(model[1])
        (['SpatialAssociation', 'Standardization'], ())
    """
    return tuple(m for m in weight_maps(module) or () if isinstance(m, KernelMap))


def describe(conv: nn.Module) -> str:
    """Class, channels and kernel size in a few words, of a conv that may lack what convs have."""
    channels = (str(getattr(conv, name, "?")) for name in ("in_channels", "out_channels"))
    text = f"{parametrize.type_before_parametrizations(conv).__name__} {'→'.join(channels)}"
    if size := _kernel_size(conv):
        text += ", " + "×".join(map(str, size))
    groups = getattr(conv, "groups", 1)
    return text + (f", groups={groups}" if groups != 1 else "")


def _kernel_size(conv: nn.Module) -> tuple[object, ...]:
    """The kernel size that a conv says it has, empty if it says none."""
    size = getattr(conv, "kernel_size", ())
    return tuple(size) if isinstance(size, Sequence) else (size,)


def obstacles(model: nn.Module) -> Callable[[Conv], str]:
    """A function that says why a conv of the model can never be converted, empty if it can."""
    written = written_in_forward(model)
    return lambda conv: _obstacle(conv) or written.get(conv, "")


def _obstacle(conv: Conv) -> str:
    module: nn.Module = conv
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return "transposed convolution"
    if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():
        return "lazy and not initialised: run a forward pass first"
    if hasattr(conv, "weight_fake_quant"):
        return "prepared for quantization: convert before that"
    if kernel_maps(conv):
        return "already converted"
    if registered := weight_maps(conv):
        return f"weight is parametrized already ({listing(type(m).__name__ for m in registered)})"
    weight = module._parameters.get("weight")
    if weight is None and hasattr(getattr(type(module), "weight", None), "__get__"):
        return "weight is a property of its class, not a parameter"
    if weight is None and module._forward_pre_hooks:
        return "weight is computed by a hook (weight_norm, spectral_norm or pruning)"
    if weight is None:
        return f"weight is {'a buffer, ' if 'weight' in module._buffers else ''}not a parameter"
    if not weight.is_floating_point():
        return f"weight is {weight.dtype}"
    if weight.shape != (wanted := _conv_shape(module, weight)):
        needs = f"{describe(module)} {f'needs {wanted}' if wanted else 'is none'}"
        return f"its weight has shape {tuple(weight.shape)}, not that of a conv: {needs}"
    return ""


def _conv_shape(conv: nn.Module, weight: Tensor) -> tuple[int, ...]:
    """The shape that a conv's weight should have by the conv's class and attributes, empty if they describe no conv."""
    size, axes = _kernel_size(conv), next((axes for cls, axes in _AXES if isinstance(conv, cls)), None)
    inputs, outputs, groups = (getattr(conv, name, 0) for name in ("in_channels", "out_channels", "groups"))
    if _runs_torchs_forward(conv) and weight.dim() == 2 + len(size):
        # Which asks the weight: a first conv whose kernels were summed over the colours often keeps the attribute.
        inputs = weight.shape[1] * groups
    if not all(isinstance(number, int) and number > 0 for number in (inputs, outputs, groups, *size)):
        return ()
    if inputs % groups or outputs % groups or len(size) != (axes or len(size)):
        return ()
    return (outputs, inputs // groups, *cast("tuple[int, ...]", size))


def _runs_torchs_forward(conv: nn.Module) -> bool:
    methods = (getattr(type(conv), name, None) for name in ("forward", "_conv_forward"))
    ours = all(getattr(method, "__module__", "") == nn.modules.conv.__name__ for method in methods)
    return ours and "forward" not in vars(conv)


def other_convs(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Modules that hold kernels and are no conv of :mod:`torch.nn`, by name, each in a few words.

    For kernels is taken a parameter of four axes or more, and the ``weight`` of what has "conv" in its class name. Not
    for kernels are taken scales and position embeddings, which are the same for all images: their first axis has one
    entry.

    Examples:
        >>> class Deformable(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.kernels = nn.Parameter(torch.zeros(4, 3, 3, 3))
        >>> [(name, text) for name, _, text in other_convs(nn.Sequential(Deformable(), nn.Conv2d(3, 4, 3)))]
        [('0', 'Deformable, kernels 4×3×3×3')]
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd) or "parametrizations" in name.split("."):
            continue
        cls = parametrize.type_before_parametrizations(module).__name__
        for parameter, tensor in _own_parameters(module):
            is_named = "conv" in cls.lower() and parameter == "weight" and tensor.dim() >= 2
            if is_named or (tensor.dim() >= 4 and len(tensor) != 1):
                yield name, module, f"{cls}, {parameter} {'×'.join(map(str, tensor.shape))}"
                break


def _own_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a module itself, also those that something is registered on."""
    holders = {"": module, **dict(getattr(module._modules.get("parametrizations"), "_modules", {}))}
    for holder_name, holder in holders.items():
        for name, parameter in holder._parameters.items():
            if parameter is not None and not is_lazy(parameter):
                yield holder_name or name, parameter


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which convs to convert, by kind and by name; the default is what :func:`convofconv.convert` does by itself.

    Args:
        stem: the network's first conv.
        depthwise: convs with a group per input channel.
        pointwise: convs whose kernel is 1×1.
        predictions: the layers that a detector predicts with (:data:`PREDICTION_LAYERS`).
        include: name patterns with ``*``; empty for all.
        exclude: name patterns with ``*``.

    Raises:
        ArgumentTypeError: a flag is not a bool, a pattern not a string.

    Examples:
        >>> Selection(stem=False, exclude=["layer4.*"]).exclude
        ('layer4.*',)
    """

    stem: bool = True
    depthwise: bool = True
    pointwise: bool = False
    predictions: bool = False
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool):
                if not isinstance(value, bool):
                    raise ArgumentTypeError(f"Selection.{field.name} must be True or False, got {value!r}")
                continue
            patterns = (value,) if isinstance(value, str) else value
            if not isinstance(patterns, Iterable) or not all(isinstance(pattern, str) for pattern in patterns):
                raise ArgumentTypeError(f"Selection.{field.name} takes name patterns, got {value!r}")
            object.__setattr__(self, field.name, tuple(patterns))

    def reason_to_skip(self, name: str, conv: Conv, stem: nn.Module | None = None) -> str:
        """Why this conv is left out, empty if it is not; ``stem`` is the network's first conv."""
        if self.include and not _matches(name, self.include):
            return "not selected"
        if _matches(name, self.exclude):
            return "excluded"
        size = _kernel_size(conv)
        if not self.pointwise and set(size) == {1}:
            return "1×1 kernel" if len(size) == 2 else "kernel of size 1"
        if not self.predictions and _PREDICTS.fullmatch(name):
            return "prediction layer"
        if not self.depthwise and getattr(conv, "groups", 1) == getattr(conv, "in_channels", None) != 1:
            return "depthwise"
        return "stem" if conv is stem and not self.stem else ""


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def check_patterns(model: nn.Module, patterns: Iterable[str], argument: str) -> None:
    """Raise where a pattern matches no conv: it is misspelt."""
    names = [name for name, _ in convs(model)]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            other = next((what for name, _, what in other_convs(model) if fnmatch.fnmatchcase(name, pattern)), "")
            raise ConfigError(
                f"{argument}: no conv matches {pattern!r}{other and f' (a {other} does, {NO_CONV_LAYER})'}; the convs "
                f"are {listing(names)} (use * for any text)"
            )


Where = Selection | str | Iterable[str] | Callable[[str, nn.Module], bool]


def parse_where(model: nn.Module, where: Where | None) -> Callable[[str, Conv], str]:
    """Turn ``where`` into a function that gives the reason to skip a conv, empty for one to take."""
    if callable(where):
        chosen = where
        return lambda name, conv: "" if chosen(name, conv) else "not selected"
    if where is None:
        where = Selection()
    elif not isinstance(where, Selection):
        if not isinstance(where, Iterable):
            raise ArgumentTypeError(f"where takes a Selection, name patterns or a function, got {where!r}")
        patterns = where if isinstance(where, str) else tuple(where)
        if not patterns:  # a filtered list that came out empty must not take everything
            raise ConfigError("where: no name patterns are given; leave it out for the default choice")
        # Who names a layer means it, whatever its kind.
        where = Selection(pointwise=True, predictions=True, include=cast(Sequence[str], patterns))
    selection = where
    check_patterns(model, (*selection.include, *selection.exclude), "where")
    stem = next((conv for _, conv in convs(model)), None)
    return lambda name, conv: selection.reason_to_skip(name, conv, stem)


def refuse_wrapped(model: nn.Module) -> None:
    """Raise where a wrapper has already recorded the model's parameters or traced its forward."""
    for module in model.modules():
        wrapper = next((base.__name__ for base in type(module).__mro__ if base.__name__ in _WRAPPERS), None)
        if wrapper or module._compiled_call_impl is not None:
            advice = "convert or fold what it wraps (model.module, or model._orig_mod of a compiled one)"
            if wrapper in (None, "FSDPModule"):  # in place: there is no bare model any more
                advice = (
                    "convert before that; to fold, give its weights to a fresh model, fresh = convofconv.convert_like("
                    "build(), state_dict) and fresh.load_state_dict(state_dict), and fold that"
                )
            raise SurgeryError(f"the model is already {'wrapped in ' + wrapper if wrapper else 'compiled'}; {advice}")


def followed_by_norm(model: nn.Module) -> set[str]:
    """Names of the convs that a normalisation layer of as many channels follows in the order of the modules."""
    leaves = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd)
        or (
            (not any(module.children()) or _is_norm_with_activation(module))
            and not isinstance(module, _TRANSPARENT)
            and "parametrizations" not in name.split(".")
        )
    ]
    return {
        name
        for (name, module), (_, after) in itertools.pairwise(leaves)
        if isinstance(module, nn.modules.conv._ConvNd) and _norm_channels(after) == getattr(module, "out_channels", -1)
    }


def _is_norm_with_activation(module: nn.Module) -> bool:
    """Whether a module with children is itself a norm, such as timm's ``BatchNormAct2d``: it has a scale of its own."""
    return "weight" in module._parameters and _norm_channels(module) is not None


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer, told from its class's name; ``NormedConv2d`` is a conv."""
    named = "norm" in type(module).__name__.lower()
    return named and not isinstance(module, nn.modules.conv._ConvNd | nn.Linear | nn.Embedding)


def _norm_channels(module: nn.Module) -> int | None:
    if not is_norm(module):
        return None
    scale = getattr(module, "weight", None)
    if isinstance(scale, Tensor) and not is_lazy(scale):
        return scale.numel()
    return getattr(module, "num_features", getattr(module, "num_channels", None))  # GroupNorm has the latter


def looks_trained(model: nn.Module) -> bool:
    """Whether a norm's statistics or scales have moved from their start."""
    for module in model.modules():
        mean = getattr(module, "running_mean", None)
        if isinstance(mean, Tensor) and not is_lazy(mean) and has_values(mean) and bool(mean.any()):
            return True
        scale = getattr(module, "weight", None) if _norm_channels(module) else None
        if isinstance(scale, Tensor) and not is_lazy(scale) and has_values(scale) and scale.unique().numel() > 1:
            return True
    return False
