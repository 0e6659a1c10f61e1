"""Claim C4: how much of a kernel's gradient comes from the kernels beside it.

In a plain layer the gradient of a basic kernel ``W_i`` is that of the kernel itself, ``G_i = ∂L/∂W'_i``. With kernel
maps it is a sum over kernels, ``∂L/∂W_i = Σ_j (∂W'_j/∂W_i)ᵀ G_j``: its own part, ``j = i``, and its neighbours' part.
With a linear α both parts depend on upstream gradients alone, not on the values of other kernels; where a norm sits in
between, on both.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...errors import ConfigError, ShapeError
from ...functional.precision import in_float64
from ...maps import DepthwiseOverparameterization, KernelLayerNorm, SpatialAssociation, Standardization
from ...maps.kernel_map import Conv
from ...maps.registered import convs, kernel_maps
from ...surgery.folding import reparameterize
from .kernel_function import KernelFunction, evenly, kernel_functions

#: The loss of a network, as a function of the network: forward and loss of one batch.
Loss = Callable[[nn.Module], Tensor]
#: Maps that give every kernel from that kernel alone.
_PER_KERNEL = (DepthwiseOverparameterization, KernelLayerNorm, Standardization)


@dataclasses.dataclass(frozen=True)
class NeighbourShare:
    """How much of the gradients of one layer's basic kernels comes through their neighbours.

    A kernel's share is ``‖neighbours‖ / (‖own‖ + ‖neighbours‖)``: 0 in a plain network, ½ where both are as long, 1
    where nothing is its own. Not against the length of their sum, the gradient, because they may cancel each other.

    Args:
        layer: name of the conv.
        kernels: which kernels these are, ``n`` of them.
        of_kernels: how many the layer has.
        shares: ``(n,)``, not a number where a kernel has no gradient.
        cosines: of own part and neighbours' part, ``(n,)``, not a number where one of them is zero.
    """

    layer: str
    kernels: tuple[int, ...]
    of_kernels: int
    shares: Tensor = dataclasses.field(repr=False, compare=False)
    cosines: Tensor = dataclasses.field(repr=False, compare=False)

    @property
    def mean(self) -> float | None:
        """Mean share over the kernels that have a gradient."""
        return _mean(self.shares)

    @property
    def quantiles(self) -> tuple[float, ...] | None:
        """Smallest, lower quartile, median, upper quartile and largest share."""
        found = self.shares[self.shares.isfinite()]
        levels = torch.linspace(0, 1, 5, dtype=found.dtype)
        return tuple(torch.quantile(found, levels).tolist()) if len(found) else None

    def numbers(self) -> dict[str, object]:
        """As plain values for JSON."""
        return {
            "layer": self.layer,
            "kernels": len(self.kernels),
            "of_kernels": self.of_kernels,
            "mean": self.mean,
            "quantiles": None if self.quantiles is None else list(self.quantiles),
            "mean_cosine": _mean(self.cosines),
        }


def _mean(values: Tensor) -> float | None:
    found = values[values.isfinite()]
    return float(found.mean()) if len(found) else None


def neighbour_shares(
    model: nn.Module, loss: Loss, layers: Iterable[str] | None = None, most: int | None = 16
) -> tuple[NeighbourShare, ...]:
    """How much of the gradient of every basic kernel comes through its neighbours, on one batch.

    The gradients of effective kernels are those of a folded copy; the model itself stays as it is.

    Args:
        model: plain or converted, in the mode in which it shall be looked at.
        loss: forward and loss of a batch, ``lambda network: criterion(network(images), labels)``.
        layers: names of convs; by default all converted ones, or all of a plain network.
        most: so many kernels are looked at, evenly spread, where a map makes every kernel depend on every other one
            (orthogonalization, a norm over the grids), ``None`` for all. Everywhere else all are, at no cost.

    Source: poster, "backward" (claim C4).

    Raises:
        ConfigError: a layer is unknown, or the loss is no differentiable number.

    Examples:
        >>> from convofconv import Config, convert
        >>> model, images = nn.Sequential(nn.Conv2d(3, 8, 3)), torch.randn(2, 3, 8, 8)
        >>> loss = lambda network: network(images).square().mean()
        >>> neighbour_shares(model, loss)[0].mean
        0.0
        >>> neighbour_shares(convert(model, config=Config(init="kaiming")), loss)[0].mean > 0
        True
    """
    functions = kernel_functions(model, layers)
    upstream = _upstream(model, loss, [one.layer for one in functions])
    return tuple(_share(one, grad, most) for one, grad in zip(functions, upstream, strict=True))


def shares_over_training(
    networks: Mapping[str, nn.Module], loss: Loss, layers: Iterable[str] | None = None, most: int | None = 16
) -> dict[str, tuple[NeighbourShare, ...]]:
    """:func:`neighbour_shares` of several networks on the same batch: checkpoints of one run, or several runs.

    Args:
        networks: by what they are called, in the order of training.
        loss: see :func:`neighbour_shares`; likewise ``most``.
        layers: names of convs; by default those that are converted in the first network in which some are.

    Raises:
        ConfigError: as :func:`neighbour_shares`, naming the network.

    Examples:
        >>> loss = lambda network: network(torch.ones(1, 3, 4, 4)).sum()
        >>> list(shares_over_training({"epoch 1": nn.Conv2d(3, 8, 3)}, loss))
        ['epoch 1']
    """
    chosen = tuple(layers or next(filter(None, map(_converted, networks.values())), ())) or None
    found = {}
    for name, network in networks.items():
        try:
            found[name] = neighbour_shares(network, loss, chosen, most)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    return found


def _converted(network: nn.Module) -> tuple[str, ...]:
    return tuple(name or "(root)" for name, conv in convs(network) if kernel_maps(conv))


def split_gradient(
    function: KernelFunction, upstream: Tensor, kernels: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Split the gradients of basic kernels into what is their own and what comes through their neighbours.

    Args:
        function: of the layer.
        upstream: ``∂L/∂W'``, the gradient of the effective kernels.
        kernels: for which ``n`` kernels; by default for all.

    Shape:
        - upstream: ``(co, ci / groups, k_1, ..., k_d)``
        - result: own and neighbours' part, each ``(n, ci / groups, k_1, ..., k_d)``; their sum is the gradient

    Raises:
        ShapeError: the upstream gradient has another shape than the kernels.

    Examples:
        >>> function = KernelFunction.of("conv", nn.Conv2d(3, 8, 3))
        >>> own, neighbours = split_gradient(function, torch.ones(8, 3, 3, 3))
        >>> own.sum(), neighbours.abs().sum()
        (tensor(216., dtype=torch.float64), tensor(0., dtype=torch.float64))
    """
    if upstream.shape != function.weight.shape:
        raise ShapeError(
            f"{function.layer}: its kernels have shape {tuple(function.weight.shape)}, the upstream gradient "
            f"{tuple(upstream.shape)}"
        )
    upstream = in_float64(upstream).cpu()
    chosen = list(range(len(upstream)) if kernels is None else kernels)
    with torch.enable_grad():
        weight = function.weight.clone().requires_grad_()
        out = function(weight)

    def back(grad: Tensor) -> Tensor:
        if not function.maps:
            return grad
        return torch.autograd.grad(out, weight, grad, retain_graph=True)[0]

    total, own = back(upstream), torch.zeros_like(upstream)
    for apart in _apart(function, chosen):
        # Kernels of which none depends on another: what comes back to each of them is its own.
        alone = torch.zeros_like(upstream)
        alone[apart] = upstream[apart]
        own[apart] = back(alone)[apart]
    return own[chosen], (total - own)[chosen]


def _apart(function: KernelFunction, chosen: Sequence[int]) -> Iterator[list[int]]:
    """Divide kernels into sets in which no kernel depends on another one."""
    if not _within_groups(function):
        yield from ([kernel] for kernel in chosen)
        return
    if function.association is None:
        yield list(chosen)
        return
    wanted = set(chosen)
    for place in range(max(map(len, function.members))):
        at_place = {group[place] for group in function.members if place < len(group)}
        if apart := sorted(at_place & wanted):
            yield apart


def _within_groups(function: KernelFunction) -> bool:
    """Whether kernels depend at most on those of their group, as known of the package's own maps."""
    associations = [one for one in function.maps if isinstance(one, SpatialAssociation)]
    others = [one for one in function.maps if not isinstance(one, SpatialAssociation)]
    alone = len(associations) <= 1 and not any(one.config.grid_norm for one in associations)
    return alone and all(type(one) in _PER_KERNEL for one in others)


def _share(function: KernelFunction, upstream: Tensor, most: int | None) -> NeighbourShare:
    count = len(function.weight)
    kernels = evenly(count, None if _within_groups(function) else most)
    own, neighbours = (part.flatten(1) for part in split_gradient(function, upstream, kernels))
    lengths = own.norm(dim=1), neighbours.norm(dim=1)
    cosines = (own * neighbours).sum(1) / (lengths[0] * lengths[1])
    return NeighbourShare(function.layer, kernels, count, lengths[1] / (lengths[0] + lengths[1]), cosines)


def _upstream(model: nn.Module, loss: Loss, layers: Sequence[str]) -> list[Tensor]:
    """``∂L/∂W'`` of the layers: the gradients of the folded network, which has the effective kernels as parameters."""
    plain = reparameterize(copy.deepcopy(model), inplace=True)
    by_name: dict[str, Conv] = {name or "(root)": conv for name, conv in convs(plain)}
    weights = [by_name[layer].weight.requires_grad_() for layer in layers]
    with torch.enable_grad():
        value = loss(plain)
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(f"the loss must be one number that depends on the network's kernels, got {what}")
    grads = torch.autograd.grad(value.reshape(()), weights, allow_unused=True)
    return [torch.zeros_like(w) if grad is None else grad for w, grad in zip(weights, grads, strict=True)]
