"""Everything that is not public in torch, in one file: each with the reason why it is needed.

``tests/core/test_torch_private.py`` fails when torch changes one of them. What an older torch lacks has a fallback.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.utils import parametrize

# Classes. No public name stands for the convs of all dimensions.
ConvNd = nn.modules.conv._ConvNd
ConvTransposeNd = nn.modules.conv._ConvTransposeNd

# ---------------------------------------------------------------------------------------------------- tensors


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers, not only a shape (the meta device, and the fake tensors of memory estimators)."""
    return not (tensor.is_meta or isinstance(tensor, FakeTensor))


def writes(tensor: Tensor) -> int:
    """A number that grows with every write into a tensor that autograd sees; inference tensors have none."""
    return 0 if tensor.is_inference() else int(tensor._version)


def is_batched(tensor: Tensor) -> bool:
    """Whether a tensor stands for many at once (``torch.func.vmap``, batched gradients)."""
    return bool(torch._C._functorch.is_batchedtensor(tensor) or torch._C._functorch.is_legacy_batchedtensor(tensor))


def has_tensor_hooks(parameter: nn.Parameter) -> bool:
    """Whether something wants to know of a parameter's gradients."""
    return bool(parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None))


# ---------------------------------------------------------------------------------------- what torch is about


def is_jit_tracing() -> bool:
    """Whether ``torch.jit.trace`` records."""
    return torch._C._get_tracing_state() is not None


def is_transforming() -> bool:
    """Whether a transform of ``torch.func`` is active."""
    return bool(torch._C._are_functorch_transforms_active())


def is_tracing() -> bool:
    """Whether something sees through operations only, so that no autograd node of our own may be used."""
    return torch.compiler.is_compiling() or is_jit_tracing() or is_transforming()


# Before torch 2.8 there is no way to ask; then no kernel is ever kept, which is slower and always right.
_top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)

#: Whether torch can say what :func:`saves_elsewhere` asks.
CAN_SAY_WHERE_IT_SAVES = _top_hooks is not None


def saves_elsewhere() -> bool:
    """Whether something intercepts what autograd saves: activation checkpointing does."""
    return _top_hooks is None or _top_hooks(False) is not None


# --------------------------------------------------------------------------------------------------- modules

# Module's own dictionaries: they are asked for every conv of every forward, where attributes cost too much.


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """A module's own parameters."""
    return module._parameters


def buffers_of(module: nn.Module) -> dict[str, Tensor | None]:
    """A module's own buffers."""
    return module._buffers


def modules_of(module: nn.Module) -> dict[str, nn.Module | None]:
    """A module's own parts."""
    return module._modules


def forward_pre_hooks(module: nn.Module) -> tuple[Callable[..., Any], ...]:
    """What runs before a module's forward."""
    return tuple(module._forward_pre_hooks.values())


def forward_hooks(module: nn.Module) -> tuple[Callable[..., Any], ...]:
    """What runs after a module's forward."""
    return tuple(module._forward_hooks.values())


def is_hooked(module: nn.Module) -> bool:
    """Whether calling a module runs more than its forward."""
    return bool(
        module._forward_pre_hooks or module._forward_hooks or module._backward_pre_hooks or module._backward_hooks
    )


def remove_forward_hooks(module: nn.Module, *hooks: Callable[..., Any]) -> None:
    """Take hooks off a module. Handles do not survive a deep copy, the hooks do."""
    for registered in (module._forward_pre_hooks, module._forward_hooks):
        for key in [key for key, hook in registered.items() if hook in hooks]:
            del registered[key]
            module._forward_hooks_always_called.pop(key, None)


def remove_load_hook(module: nn.Module, hook: Callable[..., Any]) -> None:
    """Take back ``register_load_state_dict_pre_hook``, also on a copy."""
    registered = module._load_state_dict_pre_hooks
    for key in [key for key, wrapped in registered.items() if getattr(wrapped, "hook", None) is hook]:
        del registered[key]


def is_compiled(module: nn.Module) -> bool:
    """Whether ``module.compile()`` was called."""
    return module._compiled_call_impl is not None


# ---------------------------------------------------------------------------------------------------- frames

#: The code that runs a module's hooks and forward.
_CALL = getattr(nn.Module.__call__, "__code__", None)


def caller() -> FrameType | None:
    """The frame of the function that called the one which asks."""
    here = inspect.currentframe()
    try:
        asking = here and here.f_back
        return asking and asking.f_back
    finally:
        del here  # a frame that knows itself, and all that is on the stack, would wait for the garbage collector


def is_running(frame: FrameType) -> bool:
    """Whether a call is still on this thread's stack."""
    running = inspect.currentframe()
    while running is not None and running is not frame:
        running = running.f_back
    return running is not None


def modules_running(frame: FrameType | None) -> Iterator[nn.Module]:
    """The modules whose forward, or a hook of it, a function runs in, from the inside out."""
    while frame is not None:
        module = frame.f_locals.get("self") if frame.f_code is _CALL else None
        if isinstance(module, nn.Module):
            yield module
        frame = frame.f_back


def is_functional_call(frame: FrameType | None) -> bool:
    """Whether ``torch.func.functional_call`` assigns: it sets what it is given, and afterwards what it found."""
    return frame is not None and frame.f_globals.get("__name__") == "torch.nn.utils._named_member_accessor"


# ------------------------------------------------------------------- the class of a module with a computed weight

# torch makes a class for every parametrized module. Here all modules of one class share one, as they did before: what
# asks for ``type(conv)`` finds equal layers equal, ``torch.compile`` above all, which compiles once for equal blocks.


class SharedType(type):
    """The type of such classes: a change that is meant for one module must not reach the others."""

    #: The class of the modules before their weight was computed.
    original_class: type[nn.Module]

    def __call__(cls, *args: Any, **kwargs: Any) -> nn.Module:
        """``type(conv)(...)`` builds a plain conv: libraries of LoRA make their own layers so."""
        return cls.original_class(*args, **kwargs)

    def __delattr__(cls, name: str) -> None:
        # torch.nn.utils.parametrize.remove_parametrizations deletes the property of the module that it makes plain.
        if name != "weight":
            super().__delattr__(name)

    def __setattr__(cls, name: str, value: Any) -> None:
        # What torch sets there when maps come back to a module whose bias has kept a parametrization.
        if name != "weight":
            super().__setattr__(name, value)


#: The shared classes by the class before, kept as long as there are such modules.
_shared: weakref.WeakValueDictionary[type, SharedType] = weakref.WeakValueDictionary()


def share_class(module: nn.Module, answers: Callable[[property], Mapping[str, Any]]) -> bool:
    """Give a module whose weight has just been parametrized the class that all such modules share.

    Args:
        module: of a class that torch has made.
        answers: from torch's property of the weight to the members of the class that are to be others.

    Returns:
        Whether it has another class now: not if it had the shared one.
    """
    cls = type(module)
    if isinstance(cls, SharedType):
        return False
    if list(cast(nn.ModuleDict, module.parametrizations)) == ["weight"]:
        original = cls.__bases__[0]
        shared = _shared.get(original) or _shared.setdefault(original, _shared_class(cls, answers))
    else:  # another parametrization, of the bias say, is in the class that torch made
        shared = _shared_class(cls, answers)
    module.__class__ = cast(type[nn.Module], shared)
    return True


def _shared_class(cls: type, answers: Callable[[property], Mapping[str, Any]]) -> SharedType:
    base = cls.__bases__[0]
    members = {
        **_members(cls),
        "original_class": base,
        "getstate_of_torch": vars(cls)["__getstate__"],
        "__delattr__": _delete_attribute,
        **answers(vars(cls)["weight"]),
    }
    # A class of the user's may have a metaclass of its own.
    own = type(base)
    metaclass: Any = SharedType
    if not issubclass(SharedType, own):
        metaclass = type("SharedType", (SharedType, own), {})
    return cast(SharedType, metaclass(cls.__name__, cls.__bases__, members))


def _members(cls: type) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}


def _delete_attribute(self: nn.Module, name: str) -> None:
    if name in self._parameters:  # torch is about to put a property in its place, into the class
        give_own_class(self)
    nn.Module.__delattr__(self, name)


def give_own_class(module: nn.Module) -> None:
    """Give a parametrized module a class that no other shares, for torch to change."""
    cls: Any = type(module)
    module.__class__ = type(cls)(cls.__name__, cls.__bases__, _members(cls))


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module before it came to :func:`share_class`.

    Not torch's ``type_before_parametrizations``: FSDP puts a class of its own in front.
    """
    return cast(SharedType, type(module)).original_class


def leave_shared_class(module: nn.Module) -> None:
    """Undo the parametrization of the weight and :func:`share_class`; the module then has no weight.

    torch's own remove_parametrizations deletes the property from the class, which other modules share.
    """
    lists, cls = cast(nn.ModuleDict, module.parametrizations), cast(Any, type(module))
    del lists["weight"]
    if lists:  # something else of the module, its bias say, carries another parametrization: keep that one
        members = {name: value for name, value in _members(cls).items() if name in ("__deepcopy__", *lists)}
        module.__class__ = type(cls.__name__, cls.__bases__, members | {"__getstate__": cls.getstate_of_torch})
    else:
        module.__class__ = cls.original_class
        del module._modules["parametrizations"]


def replace_parameters(module: nn.Module, parameters: dict[str, nn.Parameter | None]) -> None:
    """Give a module another dictionary of its own parameters."""
    module._parameters = parameters


def parametrizations_of(module: nn.Module, name: str = "weight") -> parametrize.ParametrizationList | None:
    """Everything that is registered on one of a module's parameters, of whatever library, or ``None``."""
    lists = module._modules.get("parametrizations")
    return None if lists is None else cast("parametrize.ParametrizationList | None", lists._modules.get(name))
