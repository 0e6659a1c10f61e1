"""How a converted conv answers when it is used like a plain one: loading, assigning, initialising, saving.

torch's parametrizations leave traps here: a plain checkpoint does not load, ``conv.weight = Parameter(...)`` fails with
a bare KeyError, ``conv.reset_parameters()`` and ``nn.init`` change a temporary and do nothing. Each gets an answer.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import ArgumentTypeError, ConversionWarning, ShapeError, SurgeryError
from ..maps.kernel_map import KernelMap
from ..maps.registered import kernel_maps, weight_maps
from ..runtime.kernel_cache import cached_kernel
from ..torch_private import (
    caller,
    has_values,
    is_functional_call,
    leave_shared_class,
    modules_running,
    original_class,
    parameters_of,
    remove_load_hook,
    replace_parameters,
    share_class,
)
from .weight_writes import writers

_MAPS = "parametrizations.weight."
_FOLD_FIRST = "fold the model first: plain = convofconv.reparameterize(model)"
_IS_COMPUTED = (
    "the weight of a converted conv is computed by kernel maps, so it is not among the conv's parameters, where "
    "torch.nn.utils.weight_norm, spectral_norm, pruning and quantizing look for it. Use them on a folded network: "
    f"{_FOLD_FIRST}"
)


class _Parameters(dict[str, "nn.Parameter | None"]):
    """The parameters of a converted conv, with an answer for who takes the weight from here, not from the conv."""

    def __missing__(self, name: str) -> nn.Parameter:
        raise SurgeryError(_IS_COMPUTED) if name == "weight" else KeyError(name)

    def __delitem__(self, name: str) -> None:
        if name == "weight" and name not in self:
            raise SurgeryError(_IS_COMPUTED)
        super().__delitem__(name)


def answer_like_plain(conv: nn.Module) -> None:
    """Give a conv that has just been parametrized its answers; they survive deepcopy."""
    if share_class(conv, _answers):
        replace_parameters(conv, _Parameters(parameters_of(conv)))
        conv.register_load_state_dict_pre_hook(_accept_plain)


def _answers(computed: property) -> dict[str, Any]:
    """What a converted conv has in place of what torch gave it, by name."""
    return {
        "reset_parameters": _reset_parameters,
        "register_parameter": _register_parameter,
        "weight": property(_warn_of_writing(computed.fget), _set_weight(computed.fset)),
        "__getstate__": _refuse_pickling,
        "__prepare_scriptable__": _refuse_scripting,
    }


def make_plain(conv: nn.Module, weight: nn.Parameter) -> None:
    """Put ``weight`` back as a plain parameter, and take back what :func:`answer_like_plain` did."""
    leave_shared_class(conv)
    if not parametrize.is_parametrized(conv):
        cls = type(conv)
        conv.__class__ = vars(cls).get("plain_class", cls)  # CoC2d becomes Conv2d, a class of the user's stays
    remove_load_hook(conv, _accept_plain)
    replace_parameters(conv, {"weight": weight, **parameters_of(conv)})  # in front, where every conv has it


@contextmanager
def as_plain(conv: nn.Module) -> Iterator[nn.Parameter]:
    """Let a converted conv be a conv of its original class, with the basic kernels as its weight, for a moment."""
    converted = type(conv)
    original = cast(nn.Parameter, cast(parametrize.ParametrizationList, weight_maps(conv)).original)
    conv.__class__ = original_class(conv)
    parameters_of(conv)["weight"] = original
    try:
        yield original
    finally:
        del parameters_of(conv)["weight"]
        conv.__class__ = converted


def _reset_parameters(self: nn.Module) -> None:
    """Initialise the basic kernels and the bias as the plain class does, and every kernel map."""
    with as_plain(self):
        cast(Any, self).reset_parameters()
    for kernel_map in kernel_maps(self):
        kernel_map.reset_parameters()


def _register_parameter(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
    if isinstance(param, Tensor) and not isinstance(param, nn.Parameter):  # pruning keeps what it masks as one
        raise SurgeryError(_IS_COMPUTED)
    if name == "weight" and parametrize.is_parametrized(self, "weight"):  # not while torch takes its maps away
        raise SurgeryError(
            f"the weight of a converted {parametrize.type_before_parametrizations(self).__name__} is computed by "
            "kernel maps, so no parameter can replace it (fusing batch norms and quantizing try to). Either "
            f"{_FOLD_FIRST}; or assign a plain tensor, conv.weight = tensor, to start from these kernels"
        )
    nn.Module.register_parameter(self, name, param)


def _refuse_pickling(self: nn.Module) -> None:
    raise SurgeryError(
        "a converted model cannot be pickled whole (torch.save(model), copy.copy, spawned workers). Save "
        f"model.state_dict() to train on; to ship it {_FOLD_FIRST}, and save that"
    )


def _refuse_scripting(self: nn.Module) -> None:
    raise SurgeryError(f"a converted model cannot be scripted: {_FOLD_FIRST}, and script that")


def _set_weight(setter: Any) -> Any:
    def set_weight(self: nn.Module, value: Tensor) -> None:
        # Behind this setter is Module.__setattr__, and behind that who assigns.
        frame = None if torch.compiler.is_compiling() else caller()
        if is_functional_call(
            frame and frame.f_back
        ):  # solving for basic kernels would cut the gradient, and change them
            raise SurgeryError(
                "functional_call replaces parameters, but the weight of a converted conv is computed. Give the basic "
                f'kernels, under the key "parametrizations.weight.original" in place of "weight"; or {_FOLD_FIRST}'
            )
        original = cast(nn.Parameter, cast(parametrize.ParametrizationList, weight_maps(self)).original)
        wanted = f"a tensor of shape {tuple(original.shape)} and {original.dtype}"
        if not isinstance(value, Tensor):
            raise ArgumentTypeError(f"the weight of this converted conv takes {wanted}, got {type(value).__name__}")
        if value.shape != original.shape or value.dtype != original.dtype:
            found = f"{tuple(value.shape)} and {value.dtype}"
            raise ShapeError(f"the weight of this converted conv takes {wanted}, got {found}")
        try:
            # A copy: an association that is the identity would hand the caller's own tensor to the optimizer.
            setter(self, value.detach().clone())
        except RuntimeError as error:  # NotImplementedError is one
            names = " + ".join(type(kernel_map).__name__ for kernel_map in kernel_maps(self))
            raise SurgeryError(
                f"these kernels cannot be assigned: {names} has no inverse for them ({error}). Write the basic "
                f"kernels, conv.parametrizations.weight.original, instead; or {_FOLD_FIRST}"
            ) from error

    return set_weight


#: What the functions that read the weight of a converted conv write into it with, by function and instruction. They are
#: kept, so that an id stands for one function.
_reads: dict[tuple[int, int], tuple[CodeType, tuple[str, ...]]] = {}
_warned_of: set[CodeType] = set()


def _warn_of_writing(getter: Any) -> Any:
    def get_weight(self: nn.Module) -> Tensor:
        # The weight is computed anew at every access, so writing into it is lost without a word, and nothing in the
        # tensor could say. What can is the function that asks, by what it does with the value.
        if not torch.compiler.is_compiling():
            if weight_maps(self) is None:  # a plain one again, while torch takes the maps away
                raise AttributeError("weight")  # torch.nn.Module looks among the parameters then
            frame = cast(FrameType, caller())
            place = (id(frame.f_code), frame.f_lasti)
            if place not in _reads:
                _reads[place] = (frame.f_code, writers(frame.f_code, frame.f_lasti))
            if _reads[place][1]:
                _answer_writing(self, frame, _reads[place][1])
        try:
            kernel = None if torch.compiler.is_compiling() else cached_kernel(self)
            return cast(Tensor, getter(self)) if kernel is None else kernel
        except AttributeError as error:  # would be taken for a missing `weight`
            raise SurgeryError(f"a kernel map of this conv failed: {error}") from error

    return get_weight


def _answer_writing(conv: nn.Module, frame: FrameType, how: Sequence[str]) -> None:
    """Refuse to go on where a forward writes into its kernels, warn once per function elsewhere."""
    name, used = frame.f_code.co_name, ", ".join(how)
    if layer := _running_layer(conv, frame):
        raise SurgeryError(
            f"{layer}: {name}() writes into its weight ({used}) during a forward. The weight of a converted conv is "
            "computed, so the write would be lost: leave this conv plain (argument `where` of convert), or compute "
            "with the weight instead of changing it"
        )
    if frame.f_code not in _warned_of:
        _warned_of.add(frame.f_code)
        warnings.warn(
            f"{name}() reads the weight of a converted conv and uses {used}: writing into that weight has no effect, "
            "or none that lasts, because it is computed. Initialise before convert(), call conv.reset_parameters(), or "
            "write into conv.parametrizations.weight.original",
            ConversionWarning,
            stacklevel=3,
        )


def _running_layer(conv: nn.Module, frame: FrameType) -> str:
    """Which layer of what network the conv is whose forward, or a hook of it, a function runs in; empty if in none."""
    found = ""
    for module in modules_running(frame):
        name = next((name for name, part in module.named_modules() if part is conv), None)
        found = found if name is None else f"{name or 'the conv'} of {type(module).__name__}"
    return found


def _accept_plain(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Mapping[str, Any], *_: object
) -> None:
    """Let a plain checkpoint load strictly: its kernels become the basic kernels, the maps keep what they have."""
    registered = weight_maps(module)
    if registered is None or prefix + "weight" not in state_dict:
        return
    weight = state_dict.pop(prefix + "weight")
    assigned = local_metadata.get("assign_to_params_buffers", False)
    if assigned:
        for kernel_map in kernel_maps(module):
            # What the checkpoint lacks follows what it has, in device and dtype.
            if all(map(has_values, (*kernel_map.parameters(), *kernel_map.buffers()))):
                kernel_map.to(weight.device, weight.dtype)
            else:  # nothing else would give them values
                kernel_map.to_empty(device=weight.device).to(weight.dtype).reset_parameters()
    for name, value in registered.state_dict(prefix=prefix + _MAPS).items():
        state_dict.setdefault(name, value)
    state_dict[prefix + _MAPS + "original"] = weight
    original = cast(nn.Parameter, registered.original)
    comparable = weight.shape == original.shape and has_values(original)
    if comparable and _changes(registered, weight if assigned else weight.to(original)):
        warnings.warn(
            "plain kernels were loaded as basic kernels into a converted model whose maps are not the identity, "
            "so it now computes something else than the network they came from. Load plain checkpoints before "
            "convert(), which starts from the same function",
            ConversionWarning,
            stacklevel=2,
        )


@torch.no_grad()
def _changes(registered: parametrize.ParametrizationList, weight: Tensor) -> bool:
    out = weight
    for kernel_map in cast(Iterator[KernelMap], registered):
        out = kernel_map(out)
    return not torch.equal(out, weight)
