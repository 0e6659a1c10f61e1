"""What ``coc summary``, ``coc fold`` and ``coc verify`` do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import convert, convert_like, reparameterize, summary, verify
from ..checkpoint import is_converted
from ..errors import ConfigError, SurgeryError
from .architectures import build_architecture
from .averages import Which
from .checkpoints import check_writable, find_weights, load_weights, write_state_dict


def run_summary(arch: str, options: Mapping[str, Any], method: str, config: str, where: Sequence[str]) -> None:
    """Convert an architecture and print what that does to every conv."""
    try:
        with torch.device("meta"):  # shapes are all that is asked for
            model = build_architecture(arch, options)
    except ConfigError:  # some constructors compute with the values of tensors, which are none there
        model = build_architecture(arch, options)
    try:
        convert(model, method, config, list(where) or None)
    except SurgeryError:
        if not summary(model).converted:  # a network of CoC layers has its maps already
            raise
    print(summary(model))


def run_fold(checkpoint: Path, arch: str, options: Mapping[str, Any], out: Path, weights: Which) -> None:
    """Fold a converted network's checkpoint into one of the plain architecture."""
    check_writable(out)
    if out.exists() and checkpoint.exists() and out.samefile(checkpoint):
        raise ConfigError(f"{out} is the checkpoint itself; give another --out")
    model, converted = _load(checkpoint, arch, options, weights)
    if not converted:
        raise ConfigError(f"{checkpoint}: this is a plain network already, there is nothing to fold")
    folded = len(summary(model).converted)
    plain = reparameterize(model, inplace=True)
    write_state_dict(out, plain.state_dict())
    print(f"{out}: {folded} convs folded; loads strictly into {arch}")


def run_verify(
    checkpoint: Path,
    folded: Path,
    arch: str,
    options: Mapping[str, Any],
    shape: Sequence[int],
    tolerance: float,
    weights: Which,
) -> None:
    """Compare two checkpoints of one architecture on a random input.

    Raises:
        VerificationError: their outputs differ by more than ``tolerance``.
        ConfigError: an input of that shape does not fit the architecture.
    """
    if min(shape) < 1:
        raise ConfigError(f"--shape needs sides of at least 1, got {' '.join(map(str, shape))}")
    model, _ = _load(checkpoint, arch, options, weights)
    plain, _ = _load(folded, arch, options, weights)
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    # torchvision's detectors take a list of pictures of any size.
    inputs: Any = list(x.sigmoid()) if hasattr(model, "roi_heads") or hasattr(model, "anchor_generator") else x
    try:
        with torch.no_grad():
            plain.eval()(inputs)
    except (RuntimeError, ValueError, AssertionError) as error:  # from wherever in the architecture
        raise ConfigError(f"--shape {' '.join(map(str, shape))} does not fit {arch}: {error}") from error
    difference = verify(model, plain, inputs, tolerance)
    print(f"the outputs differ by {difference:.3g} of their largest entry, within the tolerance of {tolerance:.3g}")


def _load(checkpoint: Path, arch: str, options: Mapping[str, Any], weights: Which) -> tuple[nn.Module, bool]:
    model = build_architecture(arch, options)
    found = find_weights(checkpoint, model, weights)
    state_dict = found.state
    if found.note:
        print(f"{checkpoint}: takes {found.note}")
    converted = is_converted(state_dict)
    # One of CoC layers has maps from the start: a folded checkpoint is of the network without them.
    model = convert_like(model, state_dict) if converted else reparameterize(model, inplace=True)
    complaint = f"{checkpoint}: does not fit {arch} with {dict(options) or 'its defaults'}"
    hint = " (--options takes the network's arguments, num_classes for example)"
    load_weights(model, state_dict, complaint, hint)
    return model, converted
