"""Folding: :func:`reparameterize` makes plain convs of converted ones, :func:`remove` leaves their basic kernels."""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import ArgumentTypeError, SurgeryError, listing
from ..functional.precision import no_autocast, no_tf32
from ..maps.kernel_map import Conv, KernelMap
from ..maps.registered import convs, kernel_maps, weight_maps
from ..runtime.kernel_cache import stop_caching
from ..torch_private import parameters_of
from .converted_conv import make_plain
from .selection import Selection, Where, parse_where, refuse_wrapped

ModelT = TypeVar("ModelT", bound=nn.Module)


def reparameterize(model: ModelT, inplace: bool = False, where: Where | None = None) -> ModelT:
    """Fold every kernel map into its conv: plain convs of the original class, with the original state-dict keys.

    Kernels are computed in float32 at least and cast back. A model without kernel maps comes back as it is.

    Args:
        model: a converted model, not wrapped or compiled.
        inplace: fold ``model`` itself; its parameters keep their identity, so an optimizer trains them on. Otherwise
            a copy is folded and the original can be trained on.
        where: which converted convs to fold, as in :func:`convert`; by default all of them.

    Raises:
        ArgumentTypeError: ``model`` is no module.
        SurgeryError: the model is wrapped or compiled, a weight also carries a parametrization of another library, or
            ``where`` takes one of two tied convs.

    Source: poster, "Before testing, step (1~3) are calculated in advance only once".

    Examples:
        >>> from convofconv import convert
        >>> plain = reparameterize(convert(nn.Sequential(nn.Conv2d(3, 8, 3))))
        >>> list(plain.state_dict())
        ['0.weight', '0.bias']
    """
    model = _check_converted(model, "reparameterize", inplace)
    chosen = _converted(model, where)
    # All kernels before any assignment: tied convs share one weight, and each would otherwise apply α once more.
    kernels = {id(registered.original): _effective_weight(registered) for _, registered in chosen}
    for conv, registered in chosen:
        weight = cast(nn.Parameter, registered.original)
        weight.data = kernels[id(weight)]
        make_plain(conv, weight)
    stop_caching(model)
    return model


def remove(model: ModelT, inplace: bool = False, where: Where | None = None) -> ModelT:
    """Drop every kernel map and go back to the basic kernels, as they are without any association.

    Args:
        model: a converted model, not wrapped or compiled.
        inplace: change ``model`` itself instead of a copy.
        where: which converted convs, as in :func:`convert`; by default all of them.

    Raises:
        ArgumentTypeError, SurgeryError: as :func:`reparameterize`.

    Examples:
        >>> from convofconv import Config, convert
        >>> conv = nn.Conv2d(3, 8, 3)
        >>> torch.equal(remove(convert(conv, config=Config(init="kaiming"))).weight, conv.weight)
        False
    """
    model = _check_converted(model, "remove", inplace)
    for conv, registered in _converted(model, where):
        make_plain(conv, cast(nn.Parameter, registered.original))
    stop_caching(model)
    return model


def _check_converted(model: ModelT, caller: str, inplace: bool) -> ModelT:
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"{caller} takes an nn.Module, got {type(model).__name__}")
    refuse_wrapped(model)
    return model if inplace else _copy(model)


def _copy(model: ModelT) -> ModelT:
    """A deep copy in which every module has its mode, and torch.fx's graph modules what else they forget."""
    memo: dict[int, object] = {}
    copied = copy.deepcopy(model, memo)
    twins = dict(copied.named_modules())
    for name, module in model.named_modules():
        if (twin := twins.get(name)) is None:  # a graph module leaves out what its graph does not use
            continue
        twin.training = module.training
        # Of graph modules alone: what others leave out of their copies, they leave out on purpose.
        missing = vars(module).keys() - vars(twin).keys() if isinstance(module, torch.fx.GraphModule) else ()
        for forgotten in missing:
            setattr(twin, forgotten, copy.deepcopy(vars(module)[forgotten], memo))
    return copied


def _converted(model: nn.Module, where: Where | None) -> list[tuple[Conv, parametrize.ParametrizationList]]:
    """The converted convs that ``where`` takes, with what is registered on their weights."""
    reason_to_skip = parse_where(model, Selection(pointwise=True, predictions=True) if where is None else where)
    chosen: list[tuple[Conv, parametrize.ParametrizationList]] = []
    left: dict[int, str] = {}
    for name, conv in convs(model):
        registered = weight_maps(conv)
        if registered is None or not kernel_maps(conv):
            continue
        if reason_to_skip(name, conv):
            left[id(registered.original)] = name
            continue
        if "original" not in parameters_of(registered):
            raise SurgeryError(
                f"{name or 'the root conv'}: its basic kernels are computed by something else (pruning, another "
                "parametrization); make that permanent first, with torch.nn.utils.prune.remove or "
                "torch.nn.utils.parametrize.remove_parametrizations of conv.parametrizations.weight"
            )
        if foreign := [type(m).__name__ for m in registered if not isinstance(m, KernelMap)]:
            raise SurgeryError(
                f"{name or 'the root conv'}: its weight also carries {listing(foreign)}, which convofconv did not "
                "register; fold first and register that afterwards, or make all of it permanent: "
                'torch.nn.utils.parametrize.remove_parametrizations(conv, "weight")'
            )
        chosen.append((conv, registered))
    for _, registered in chosen:
        if id(registered.original) in left:
            raise SurgeryError(
                f"{left[id(registered.original)]} is tied to a conv that `where` takes; take both or neither"
            )
    return chosen


@torch.inference_mode(False)  # what it gives becomes a parameter, which shall go on to learn
@torch.no_grad()
def _effective_weight(registered: parametrize.ParametrizationList) -> Tensor:
    """Apply the maps in float32 at least, and cast back."""
    original = cast(nn.Parameter, registered.original)
    wide = torch.promote_types(original.dtype, torch.float32)
    registered = registered if wide == original.dtype else copy.deepcopy(registered).to(wide)
    with no_autocast(original.device), no_tf32():
        effective: Tensor = registered()
        return effective.to(original.dtype)
