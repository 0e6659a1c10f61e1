"""The paper's steps written literally: rearrange, F.conv, rearrange back. Slow, and obviously right."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

import convofconv as coc

_LAYOUT = {
    1: ("(g a) i p -> g i (a p)", "g i (a p) -> (g a) i p"),
    2: ("(g a b) i p q -> g i (a p) (b q)", "g i (a p) (b q) -> (g a b) i p q"),
    3: ("(g a b c) i p q r -> g i (a p) (b q) (c r)", "g i (a p) (b q) (c r) -> (g a b c) i p q r"),
}
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def standardize(kernels: Tensor) -> Tensor:
    """(W - mean) / (std + 1e-5) per kernel, unbiased std."""
    return torch.stack([(k - k.mean()) / (k.std() + 1e-5) for k in kernels])


def associate(
    weight: Tensor,
    super_kernels: Tensor,
    *,
    side: int,
    dilation: tuple[int, ...],
    share: str = "input",
    skip: bool = True,
    norm: tuple[Tensor, Tensor] | None = None,
    blocks: int = 1,
) -> Tensor:
    """α(W), block by block; ``norm`` is gain and bias in weight layout, statistics over all real kernels."""
    d = weight.dim() - 2
    to_grid, from_grid = _LAYOUT[d]
    sides = dict(zip("abc", [side] * d, strict=False))
    cells = side**d
    per_block = weight.shape[0] // blocks
    padded_per_block = -(-per_block // cells) * cells
    real = torch.zeros(blocks, padded_per_block, dtype=torch.bool)
    real[:, :per_block] = True
    real = real.flatten()

    def complete(kernels: Tensor) -> Tensor:
        padded = weight.new_zeros(real.numel(), *weight.shape[1:])
        padded[real] = kernels
        return padded

    kernels = weight
    for s in super_kernels:
        grid = rearrange(complete(kernels), to_grid, **sides)  # step 1, ξ
        groups, channels = grid.shape[:2]
        if share == "input":  # step 2: batch = input channels, one super kernel per group
            out = _CONV[d](grid.transpose(0, 1), s[:, None], padding="same", dilation=dilation, groups=groups)
            out = out.transpose(0, 1)
        elif share == "output":
            out = _CONV[d](grid, s[:, None], padding="same", dilation=dilation, groups=channels)
        elif share == "both":
            out = _CONV[d](grid.flatten(0, 1)[:, None], s[:, None], padding="same", dilation=dilation).view_as(grid)
        else:
            out = _CONV[d](grid, s, padding="same", dilation=dilation)
        kernels = rearrange(out, from_grid, **sides)[real]  # step 3, ξ⁻¹
    if norm is not None:
        gain, bias = (t.reshape(real.numel(), *weight.shape[2:])[real] for t in norm)
        by_channel = kernels.transpose(0, 1)  # one statistic per input-channel plane
        kernels = F.layer_norm(by_channel, by_channel.shape[1:], gain, bias).transpose(0, 1)
    return weight + kernels if skip else kernels


def associate_as(module: coc.SpatialAssociation, weight: Tensor) -> Tensor:
    """The literal α with a module's parameters; kernels in an order of the module's are put into it, and back."""
    if module.order is not None:
        consecutive = copy.deepcopy(module)
        consecutive.order = None
        found = torch.empty_like(weight)
        for place, kernel in zip(associate_as(consecutive, weight[module.order]), module.order, strict=True):
            found[kernel] = place
        return found
    config = module.config
    supers = module.super_kernel.detach().to(weight)
    if config.share == "none":
        supers = rearrange(supers, "l (o i) ... -> l o i ...", o=weight.shape[1])
    if config.standardize_super_kernel:
        supers = torch.stack([standardize(layer) for layer in supers])
        if module.gain is not None:
            supers = torch.stack(
                [
                    torch.stack([gain * kernel for gain, kernel in zip(gains.flatten(), layer, strict=True)])
                    for gains, layer in zip(module.gain.detach().to(weight), supers, strict=True)
                ]
            )
    norm = None
    if module.norm_weight is not None and module.norm_bias is not None:
        norm = (module.norm_weight.detach().to(weight), module.norm_bias.detach().to(weight))
    return associate(
        weight,
        supers,
        side=config.grid_side,
        dilation=module.grid.dilation,
        share=config.share,
        skip=config.skip,
        norm=norm,
        blocks=module.grid.blocks,
    )


def with_literal_kernels(original: torch.nn.Module, model: torch.nn.Module) -> torch.nn.Module:
    """A plain copy of ``original`` with the kernels that the maps of ``model`` stand for, computed literally."""
    literal = copy.deepcopy(original)
    others = {name: value for name, value in model.state_dict().items() if "parametrizations" not in name}
    literal.load_state_dict(others, strict=False)
    with torch.no_grad():
        for name, conv in model.named_modules():
            maps = coc.kernel_maps(conv)
            if not maps:
                continue
            kernels = associate_as(maps[0], conv.parametrizations.weight.original)
            for norm in maps[1:]:
                assert isinstance(norm, coc.KernelLayerNorm)
                kernels = F.layer_norm(kernels, kernels.shape[1:]) * norm.norm_weight + norm.norm_bias
            literal.get_submodule(name).weight.copy_(kernels)
    return literal


def randomize(model: torch.nn.Module, scale: float = 0.1) -> None:
    """Give every kernel map in a model random parameters, and every batch norm statistics that matter."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, coc.KernelMap):
                for parameter in module.parameters(recurse=False):
                    parameter.copy_(torch.randn_like(parameter) * scale + (parameter.dim() == 0))
            elif getattr(module, "running_mean", None) is not None:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest entry."""
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-300))
