"""Compare two models that should compute the same, and name the first layer where they part."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from .errors import ArgumentTypeError, ConfigError, VerificationError
from .functional.precision import autocast_dtype, in_float64, no_tf32


@torch.no_grad()
def verify(model: nn.Module, plain: nn.Module, inputs: object, tolerance: float | None = None) -> float:
    r"""Run both models on ``inputs`` in eval mode and return how far their outputs are apart.

    The measure is :math:`\lVert\Delta\rVert_\infty/\lVert y\rVert_\infty`, the largest over all tensors of the output.
    GPUs compute in float32 meanwhile, not in TF32.

    Args:
        model: the reference, usually the converted model.
        plain: what should equal it, usually ``reparameterize(model)``.
        inputs: one argument, a tuple of positional arguments, or a dict of keyword arguments.
        tolerance: the largest relative difference to accept; by default 1e-5, or what rounding explains where the
            coarsest dtype of parameters, outputs or autocast is half precision (4 eps: 0.0039 for float16, 0.031 for
            bfloat16).

    Returns:
        The difference, relative to the largest entry of ``model``'s output.

    Raises:
        ArgumentTypeError: an argument is of the wrong type, or the models put out no tensors.
        ConfigError: ``tolerance`` is negative.
        VerificationError: the outputs differ by more than ``tolerance`` or in structure; the message names the first
            layer, in the order of execution, whose outputs do.

    Examples:
        >>> from convofconv import convert, reparameterize
        >>> model = convert(nn.Sequential(nn.Conv2d(3, 8, 3)), config="poster")
        >>> verify(model, reparameterize(model), torch.randn(2, 3, 8, 8))
        0.0
    """
    for name, module in (("model", model), ("plain", plain)):
        if not isinstance(module, nn.Module):
            raise ArgumentTypeError(f"verify: {name} must be an nn.Module, got {type(module).__name__}")
    if tolerance is not None and not tolerance >= 0:
        raise ConfigError(f"verify: tolerance must be at least 0, got {tolerance}")
    with _eval_mode(model), _eval_mode(plain), no_tf32():
        expected, found = _tensors(_call(model, inputs)), _tensors(_call(plain, inputs))
        if not expected:
            raise ArgumentTypeError("verify: the model's output contains no tensor")
        error = _difference(expected, found)
        tolerance = _rounding(model, expected) if tolerance is None else tolerance
        if error <= tolerance:
            return error
        raise VerificationError(_explain(model, plain, inputs, error, tolerance))


def _rounding(model: nn.Module, outputs: Sequence[Tensor]) -> float:
    """The difference that the coarsest dtype in use explains."""
    tensors = [tensor for tensor in (*model.parameters(), *outputs) if tensor.is_floating_point()]
    dtypes = {tensor.dtype for tensor in tensors} | {autocast_dtype(t) for t in tensors}
    return max([1e-5, *(4 * torch.finfo(dtype).eps for dtype in dtypes)])


def _explain(model: nn.Module, plain: nn.Module, inputs: object, error: float, tolerance: float) -> str:
    expected, found = _record(model, inputs), _record(plain, inputs)
    message = f"outputs differ by {error:.3g} of their largest entry (tolerance {tolerance:.3g})"
    for name, outputs in expected.items():
        if name in found and (layer_error := _difference(outputs, found[name])) > tolerance:
            return f"{message}; the first layer that differs is {name or 'the root'} ({layer_error:.3g})"
    return f"{message}, though every layer that both models have agrees: the difference is outside the layers"


def _record(model: nn.Module, inputs: object) -> dict[str, list[Tensor]]:
    """Outputs of every layer in the order of execution, on the CPU; a layer that is called twice gives both."""
    outputs: dict[str, list[Tensor]] = {}
    handles = []
    for name, module in model.named_modules():
        has_parts = any(True for child, _ in module.named_children() if child != "parametrizations")
        is_layer = not has_parts or any(True for _ in module.parameters(recurse=False))  # timm's norms hold activations
        if is_layer and "parametrizations" not in name.split("."):
            handles.append(
                module.register_forward_hook(
                    lambda _module, _args, out, name=name: outputs.setdefault(name, []).extend(
                        tensor.detach().cpu().clone() for tensor in _tensors(out)
                    )
                )
            )
    try:
        _call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Largest relative difference over pairs of tensors; infinite where structure, shape or finiteness differ."""
    if [t.shape for t in expected] != [t.shape for t in found]:
        return float("inf")
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.numel() == 0:
            continue
        a, b = (torch.view_as_real(t) if t.is_complex() else t for t in (a, b))
        a, b = in_float64(a), in_float64(b.to(a.device))
        finite = a.isfinite()
        # What is not finite must be so in both, in the same way; nothing finite at all proves nothing.
        same = torch.equal(a.nan_to_num(0, 1, -1)[~finite], b.nan_to_num(0, 1, -1)[~finite])
        if not finite.any() or not torch.equal(finite, b.isfinite()) or not same:
            return float("inf")
        delta, size = (a - b)[finite].abs(), a[finite].abs()
        if delta.numel() and (largest := float(delta.max())) > 0:
            worst = max(worst, largest / max(float(size.max()), torch.finfo(torch.float32).tiny))
    return worst


def _tensors(tree: object) -> list[Tensor]:
    """The tensors in nested tuples, lists and mappings, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        return [tensor for item in tree for tensor in _tensors(item)]
    return []


def _copied(tree: object) -> object:
    """The same nested tuples, lists and mappings, with tensors of their own."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, Mapping):
        return {key: _copied(value) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_copied(item) for item in tree)  # type: ignore[call-arg, attr-defined]
    return tree


def _call(model: nn.Module, inputs: object) -> object:
    inputs = _copied(inputs)  # a model may work in place
    if isinstance(inputs, tuple):
        return model(*inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(inputs)


@contextlib.contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        # By the modules' own train(), from the outside in, because some switch more than a flag: torchvision's feature
        # extractors have a graph for each mode.
        for module, training in modes.items():
            if module.training != training:
                module.train(training)
        for module, training in modes.items():
            module.training = training
