"""One computation of every kernel per forward: nothing to write for the user, nothing that stays afterwards.

A conv that is called several times in one forward (a detector's head on every pyramid level) would compute its kernels
each time, and a network of many narrow convs would spend its time in launching small operations. So while the forward
of a converted model runs, its kernels are kept: computed at their first use, those of narrow layers that are alike in
one go (on a GPU those of nearly all layers), and dropped when the outermost forward ends, also by an exception.

A kept kernel is used only in the mode it was computed in (gradients, inference, autocast, CUDA stream), while none of
its parameters has changed (writes through ``parameter.data`` are invisible to torch, and so to us) and until something
was backpropagated through it: a forward may be a whole step, of several losses one after the other. Inside activation
checkpointing, ``torch.func`` and ``torch.compile`` nothing is kept: the first must save the same tensors when it runs
again, the others trace.

What comes back through kernels that were computed in one batch, or once for several uses, comes back once: two losses
that are both computed before the first is backpropagated need :func:`no_kernel_cache`, or ``retain_graph=True``.

``torch.nn.utils.parametrize.cached()`` does less and asks for more: users write it around every forward, it knows no
change of mode or parameters inside, and it computes every kernel by itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import weakref
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..functional.memory_format import is_channels_last
from ..functional.precision import autocasts
from ..maps.kernel_map import KernelMap
from ..maps.registered import convs, kernel_maps, weight_maps
from ..torch_private import (
    buffers_of,
    caller,
    forward_pre_hooks,
    has_tensor_hooks,
    is_hooked,
    is_jit_tracing,
    is_running,
    is_tracing,
    is_transforming,
    modules_of,
    parameters_of,
    remove_forward_hooks,
    saves_elsewhere,
    writes,
)
from .batched import compute_batched

#: A layer is narrow, and worth computing in a batch with others, up to this size, and a batch has so many that
#: their copies stay in the cache.
_ON_CPU = (1 << 18, 1 << 21)
#: Launching an operation on a GPU costs more than what it does to the kernels of any common layer.
_ELSEWHERE = (1 << 24, 1 << 27)
#: Classes of what FSDP makes its units of.
_SHARDING = ("FSDPModule", "FullyShardedDataParallel")


def cache_kernels(model: nn.Module) -> None:
    """Keep kernels while ``model``'s forward runs."""
    _plans.pop(model, None)
    if _enter not in forward_pre_hooks(model):
        model.register_forward_pre_hook(_enter, prepend=True)
        model.register_forward_hook(_leave, always_call=True)


def stop_caching(model: nn.Module) -> None:
    """Take the hooks of :func:`cache_kernels` off every module that has no converted conv left."""
    for module in model.modules():
        _plans.pop(module, None)
        if _enter in forward_pre_hooks(module) and not any(kernel_maps(conv) for _, conv in convs(module)):
            remove_forward_hooks(module, _enter, _leave)


@contextlib.contextmanager
def no_kernel_cache() -> Iterator[None]:
    """Within this context, or in a function that it decorates, every use of a conv computes its own kernel.

    Slower, and as in a plain network every part of a forward can be backpropagated by itself.

    Examples:
        >>> from convofconv import convert
        >>> class Siamese(nn.Sequential):
        ...     def forward(self, x, y):
        ...         return self[0](x).sum(), self[0](y).sum()
        >>> model = convert(Siamese(nn.Conv2d(4, 4, 3)))
        >>> with no_kernel_cache():
        ...     first, second = model(torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8))
        >>> first.backward()
        >>> second.backward()
    """
    before = _local.computes_anew
    _local.computes_anew = True
    try:
        yield
    finally:
        _local.computes_anew = before


def cached_kernel(conv: nn.Module) -> Tensor | None:
    """The conv's kernel in the forward that is running, or ``None`` where each use computes its own."""
    if torch.compiler.is_compiling():  # from Python between two graphs, where torch.compile starts with this function
        return None
    if not _local.frames or is_transforming() or saves_elsewhere():
        return None
    if _local.computes_anew:
        return None
    for frame in _local.frames:
        if conv in frame.plan:
            return frame.kernel(conv) if is_running(frame.caller) else None
    return None


def _enter(module: nn.Module, _: Any) -> None:
    if torch.compiler.is_compiling():
        return
    plan = _plan(module)
    if not plan:  # everything was folded through a part of the model
        stop_caching(module)
        return
    # torch calls no hook after a KeyboardInterrupt: forwards that it ended are still here.
    _local.frames[:] = [frame for frame in _local.frames if is_running(frame.caller)]
    _local.frames.append(_Frame(module, plan, cast(FrameType, caller())))


def _leave(module: nn.Module, _: Any, __: Any) -> None:
    if not torch.compiler.is_compiling() and _local.frames and _local.frames[-1].module is module:
        _local.frames.pop()


# Which convs a model has, and with which others each is computed: looked up once per model, not in every forward.
# Everything is held weakly: a conv may refer back to its model, through a hook say, and would keep it alive.
# On the CPU and elsewhere it is not the same ones.
_Plan = weakref.WeakKeyDictionary[nn.Module, tuple["weakref.ref[nn.Module]", ...]]
_plans: weakref.WeakKeyDictionary[nn.Module, dict[bool, _Plan]] = weakref.WeakKeyDictionary()


def _plan(model: nn.Module) -> _Plan:
    if is_jit_tracing():
        return _make_plan(model, 0, 0)  # no batches, because looking at what is alike would be traced
    plans = _plans.setdefault(model, {})
    known = next(iter(plans.values()), None)
    first = None if known is None else next(iter(known.keys()), None)
    if first is None or not kernel_maps(first):  # folded since, through a part of the model
        plans.clear()
        first = next((conv for _, conv in convs(model) if kernel_maps(conv)), None)
    registered = None if first is None else weight_maps(first)
    # No parameters are registered in the replicas of DataParallel and inside the first FSDP, where nothing is kept.
    parameter = None if registered is None else next(registered.parameters(), None)
    on_cpu = parameter is None or parameter.is_cpu
    if on_cpu not in plans:
        plans[on_cpu] = _make_plan(model, *(_ON_CPU if on_cpu else _ELSEWHERE))
    return plans[on_cpu]


def _make_plan(model: nn.Module, narrow: int, at_once: int) -> _Plan:
    plan: _Plan = weakref.WeakKeyDictionary()
    alike: dict[Hashable, list[nn.Module]] = defaultdict(list)
    for _, conv in convs(model):
        registered = weight_maps(conv)
        if registered is None or not kernel_maps(conv):
            continue
        plan[conv] = (weakref.ref(conv),)
        if registered.original.nbytes <= narrow and (kind := _kind(registered)) is not None:
            alike[kind].append(conv)
    for several in alike.values():
        size = cast(parametrize.ParametrizationList, weight_maps(several[0])).original.nbytes
        count = max(1, at_once // size)
        for start in range(0, len(several), count):
            batch = tuple(weakref.ref(conv) for conv in several[start : start + count])
            plan.update(dict.fromkeys(several[start : start + count], batch))
    return plan


class _Sources:
    """What a kernel is computed from: every tensor, and by what it is known to be still the same.

    The version counts writes into a tensor, the pointer notices ``tensor.data = other``.
    """

    __slots__ = ("state", "tensors")

    def __init__(self, registered: parametrize.ParametrizationList) -> None:
        tensors: list[Tensor | None] = [*parameters_of(registered).values()]
        for kernel_map in modules_of(registered).values():
            assert kernel_map is not None  # a ModuleList has no holes
            if modules_of(kernel_map) or buffers_of(kernel_map):
                tensors += [*kernel_map.parameters(), *kernel_map.buffers()]
            else:
                tensors += parameters_of(kernel_map).values()
        self.tensors = tensors  # kept alive, so that an id stands for one tensor
        state: list[tuple[int, int, int, bool]] = []
        for t in tensors:
            if t is not None:
                state.append((id(t), writes(t), t.data_ptr(), t.requires_grad))
        self.state = state


class _Graph:
    """What one computation of kernels gave autograd: freed, maybe, once something came back through one of them."""

    __slots__ = ("is_spent",)

    def __init__(self, kernels: Iterable[Tensor]) -> None:
        self.is_spent = False
        # The hook knows no kernel: with one, it would keep alive what it hangs on.
        for node in {kernel.grad_fn for kernel in kernels} - {None}:
            cast(Any, node).register_prehook(self._spend)

    def _spend(self, _: object) -> None:
        self.is_spent = True


@dataclasses.dataclass(slots=True)
class _Kept:
    """A kernel, what it was computed from, and what it would be backpropagated through."""

    kernel: Tensor
    sources: _Sources
    graph: _Graph


class _Frame:
    """The kernels of one running forward."""

    def __init__(self, module: nn.Module, plan: _Plan, caller: FrameType) -> None:
        self.module, self.plan, self.caller = module, plan, caller
        # FSDP reduces the gradients of a unit when its backward ends, whatever comes back later from a kernel that was
        # computed with another unit's.
        self.may_stack = not _is_sharded(module)
        self.kept: dict[Hashable, _Kept] = {}

    def kernel(self, conv: nn.Module) -> Tensor | None:
        registered = weight_maps(conv)
        original = None if registered is None else parameters_of(registered).get("original")
        if registered is None or type(original) is not nn.Parameter:  # folded since, or sharded (FSDP)
            return None
        mode = _mode(original.device)
        kept, sources = self.kept.get((conv, mode)), _Sources(registered)
        if kept is None or kept.graph.is_spent or kept.sources.state != sources.state:
            self._compute(conv, registered, sources, mode)
            kept = self.kept[conv, mode]
        return kept.kernel

    def _compute(
        self,
        conv: nn.Module,
        registered: parametrize.ParametrizationList,
        sources: _Sources,
        mode: Hashable,
    ) -> None:
        batch = self._batch(conv, registered, mode)
        if len(batch) == 1:
            kernel = registered()
            self.kept[conv, mode] = _Kept(kernel, sources, _Graph([kernel]))
            return
        count = len(_batched_maps(registered))
        kernels = list(compute_batched([one for _, one in batch], count))
        for index, (_, one) in enumerate(batch):
            for kernel_map in list(one)[count:]:
                kernels[index] = kernel_map(kernels[index])
        graph = _Graph(kernels)
        for (member, one), kernel in zip(batch, kernels, strict=True):
            self.kept[member, mode] = _Kept(kernel, _Sources(one), graph)

    def _batch(
        self, conv: nn.Module, registered: parametrize.ParametrizationList, mode: Hashable
    ) -> list[tuple[nn.Module, parametrize.ParametrizationList]]:
        """This conv and those to compute in one batch with it: of the ones planned for that, which are still alike."""
        batch = [(conv, registered)]
        if len(self.plan[conv]) == 1 or not self.may_stack or is_tracing():
            return batch
        if (kind := _kind(registered)) is None:
            return batch
        weights = {id(parameters_of(registered)["original"])}
        for reference in self.plan[conv]:
            member = reference()
            if member is None or member is conv:
                continue
            if (kept := self.kept.get((member, mode))) is not None and not kept.graph.is_spent:
                continue
            one = weight_maps(member)
            if one is None or _kind(one) != kind or (weight := id(parameters_of(one)["original"])) in weights:
                continue
            weights.add(weight)
            batch.append((member, one))
        return batch


class _Thread(threading.local):
    """What belongs to the thread that runs."""

    computes_anew = False

    def __init__(self) -> None:
        self.frames: list[_Frame] = []


_local = _Thread()


def _is_sharded(model: nn.Module) -> bool:
    """Whether FSDP gathers the parameters of parts of a model."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    return any(cls.__name__ in _SHARDING for module in model.modules() for cls in type(module).__mro__)


def _kind(registered: parametrize.ParametrizationList) -> Hashable | None:
    """What layers of one batch must have in common, ``None`` for one that must be computed alone."""
    weight = parameters_of(registered).get("original")
    if type(weight) is not nn.Parameter or has_tensor_hooks(weight) or is_hooked(registered):
        return None
    if not (kinds := _batched_maps(registered)):
        return None
    learns = []
    for kernel_map in modules_of(registered).values():
        assert kernel_map is not None  # a ModuleList has no holes
        for p in kernel_map.parameters() if modules_of(kernel_map) else parameters_of(kernel_map).values():
            # A hook on a parameter must not see the missing gradient of a layer that this forward did not use.
            if p is not None and has_tensor_hooks(p):
                return None
            learns.append(None if p is None else (p.requires_grad, p.device, p.dtype))
    numbers = weight.device, weight.dtype, weight.shape, is_channels_last(weight), weight.requires_grad
    return (*numbers, *kinds, *learns)


def _batched_maps(registered: parametrize.ParametrizationList) -> list[Hashable]:
    """For the first maps of a layer that can be computed in one batch with other layers', what these must share."""
    found: list[Hashable] = []
    for kernel_map in modules_of(registered).values():
        assert kernel_map is not None
        # The class itself must say how, one derived from it may compute something else, and so may a forward of the
        # map's own; and nothing that is not called has hooks to run, pruning computes the super kernel in one.
        can = "batched" in vars(type(kernel_map)) and "forward" not in vars(kernel_map)
        if not can or is_hooked(kernel_map) or (kind := cast(KernelMap, kernel_map).batch_key()) is None:
            break
        found.append((type(kernel_map), kind))
    return found


def _mode(device: torch.device) -> Hashable:
    dtype = torch.get_autocast_dtype(device.type) if autocasts(device) else None
    # What another stream computed may not be there yet.
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), dtype, stream
