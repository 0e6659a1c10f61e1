"""How a converted conv answers when it is used like a plain one: loading, assigning, initialising, saving.

torch's parametrizations leave traps here: a plain checkpoint does not load, ``conv.weight = Parameter(...)`` fails with
a bare KeyError, ``conv.reset_parameters()`` and ``nn.init`` change a temporary and do nothing. Each gets an answer.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .caching import cached_kernel
from .errors import ArgumentTypeError, ConversionWarning, ShapeError, SurgeryError
from .maps import KernelMap
from .modes import has_values
from .selection import kernel_maps, weight_maps
from .writers import writers

_MAPS = "parametrizations.weight."
#: What runs a module's hooks and forward.
_CALL = getattr(nn.Module.__call__, "__code__", None)
_FOLD_FIRST = "fold the model first: plain = convofconv.reparameterize(model)"


def teach(conv: nn.Module) -> None:
    """Give a conv that has just been parametrized its answers; they survive deepcopy."""
    cls: Any = type(conv)  # made by torch for this conv and its copies alone
    computed = vars(cls)["weight"]
    if hasattr(computed.fget, "taught"):
        return
    cls.getstate_of_torch = vars(cls)["__getstate__"]
    cls.reset_parameters = _reset_parameters
    cls.register_parameter = _register_parameter
    cls.__getstate__ = _refuse_pickling
    cls.weight = property(_warn_of_writing(computed.fget), _set_weight(computed.fset))
    conv.register_load_state_dict_pre_hook(_accept_plain)


def untaught(cls: type) -> dict[str, Any]:
    """The members of a parametrized class without the weight and without what :func:`teach` added."""
    members = dict(vars(cls))
    members["__getstate__"] = members.pop("getstate_of_torch", members.get("__getstate__"))
    for name in ("weight", "reset_parameters", "register_parameter"):
        members.pop(name, None)
    return members


def forget(conv: nn.Module) -> None:
    """Take back what :func:`teach` registered on the conv itself, once it is plain again."""
    hooks = conv._load_state_dict_pre_hooks
    for key in [key for key, wrapped in hooks.items() if getattr(wrapped, "hook", None) is _accept_plain]:
        del hooks[key]


def give_own_class(conv: nn.Module, members: Mapping[str, Any]) -> None:
    """Give a parametrized conv a class that no copy of it shares, with these members."""
    cls = type(conv)
    members = {name: value for name, value in members.items() if name not in ("__dict__", "__weakref__")}
    conv.__class__ = type(cls.__name__, cls.__bases__, members)


@contextmanager
def as_plain(conv: nn.Module) -> Iterator[nn.Parameter]:
    """Let a converted conv be a conv of its original class, with the basic kernels as its weight, for a moment."""
    converted = type(conv)
    original = cast(nn.Parameter, cast(parametrize.ParametrizationList, weight_maps(conv)).original)
    # Not torch's type_before_parametrizations: FSDP puts a class of its own in front of what torch made.
    parametrized = next(cls for cls in converted.__mro__ if "getstate_of_torch" in vars(cls))
    conv.__class__ = parametrized.__bases__[0]
    conv._parameters["weight"] = original
    try:
        yield original
    finally:
        del conv._parameters["weight"]
        conv.__class__ = converted


def _reset_parameters(self: nn.Module) -> None:
    """Initialise the basic kernels and the bias as the plain class does, and every kernel map."""
    with as_plain(self):
        cast(Any, self).reset_parameters()
    for kernel_map in kernel_maps(self):
        kernel_map.reset_parameters()


def _register_parameter(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
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


def _set_weight(setter: Any) -> Any:
    def set_weight(self: nn.Module, value: Tensor) -> None:
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
        # tensor could tell. What can tell is the function that asks, by what it does with the value.
        if not torch.compiler.is_compiling():
            frame = sys._getframe(1)
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

    get_weight.taught = True  # type: ignore[attr-defined]
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
    found, caller = "", cast("FrameType | None", frame)
    while caller is not None:
        module = caller.f_locals.get("self") if caller.f_code is _CALL else None
        if isinstance(module, nn.Module):
            name = next((name for name, part in module.named_modules() if part is conv), None)
            found = found if name is None else f"{name or 'the conv'} of {type(module).__name__}"
        caller = caller.f_back
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
