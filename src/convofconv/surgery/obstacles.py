"""Why a conv of a model can never be converted, and what else holds kernels and is no conv layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from ..errors import listing
from ..maps.kernel_map import Conv
from ..maps.registered import describe, kernel_maps, kernel_size, weight_maps
from ..torch_private import ConvNd, ConvTransposeNd, buffers_of, forward_pre_hooks, modules_of, parameters_of
from .weight_writes import written_in_forward

#: Why what :func:`other_convs` finds is not converted.
NO_CONV_LAYER = "not an nn.Conv layer"

_AXES = ((nn.Conv1d, 1), (nn.Conv2d, 2), (nn.Conv3d, 3))


def obstacles(model: nn.Module) -> Callable[[Conv], str]:
    """A function that says why a conv of the model can never be converted, empty if it can."""
    written = written_in_forward(model)
    return lambda conv: _obstacle(conv) or written.get(conv, "")


def _obstacle(conv: Conv) -> str:
    module: nn.Module = conv
    if isinstance(module, ConvTransposeNd):
        return "transposed convolution"
    if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():
        return "lazy and not initialised: run a forward pass first"
    if hasattr(conv, "weight_fake_quant"):
        return "prepared for quantization: convert before that"
    if kernel_maps(conv):
        return "already converted"
    if registered := weight_maps(conv):
        return f"weight is parametrized already ({listing(type(m).__name__ for m in registered)})"
    weight = parameters_of(module).get("weight")
    if weight is None and hasattr(getattr(type(module), "weight", None), "__get__"):
        return "weight is a property of its class, not a parameter"
    if weight is None and forward_pre_hooks(module):
        return "weight is computed by a hook (weight_norm, spectral_norm or pruning)"
    if weight is None:
        return f"weight is {'a buffer, ' if 'weight' in buffers_of(module) else ''}not a parameter"
    if not weight.is_floating_point():
        return f"weight is {weight.dtype}"
    if weight.shape != (wanted := _conv_shape(module, weight)):
        needs = f"{describe(module)} {f'needs {wanted}' if wanted else 'is none'}"
        return f"its weight has shape {tuple(weight.shape)}, not that of a conv: {needs}"
    return ""


def _conv_shape(conv: nn.Module, weight: Tensor) -> tuple[int, ...]:
    """The shape that a conv's weight should have by the conv's class and attributes, empty if they describe no conv."""
    size, axes = kernel_size(conv), next((axes for cls, axes in _AXES if isinstance(conv, cls)), None)
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
        if isinstance(module, ConvNd) or "parametrizations" in name.split("."):
            continue
        cls = parametrize.type_before_parametrizations(module).__name__
        for parameter, tensor in _own_parameters(module):
            is_named = "conv" in cls.lower() and parameter == "weight" and tensor.dim() >= 2
            if is_named or (tensor.dim() >= 4 and len(tensor) != 1):
                yield name, module, f"{cls}, {parameter} {'×'.join(map(str, tensor.shape))}"
                break


def _own_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a module itself, also those that something is registered on."""
    lists = modules_of(module).get("parametrizations")
    holders = {"": module, **({} if lists is None else modules_of(lists))}
    for holder_name, holder in holders.items():
        assert holder is not None  # a ModuleDict has no holes
        for name, parameter in parameters_of(holder).items():
            if parameter is not None and not is_lazy(parameter):
                yield holder_name or name, parameter
