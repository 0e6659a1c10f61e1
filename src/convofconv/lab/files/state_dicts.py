"""State dicts as files: found in what training codes write, and written without ever leaving half a file."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ...errors import ConfigError, listing
from .atomic import write_atomic
from .averages import Weights, Which, choose_weights, plain_name
from .safe_reading import read_file

#: How files of weights end: that of safetensors, and those of ``torch.save``.
ENDINGS = (".safetensors", ".pt", ".pth")


def find_weights(path: Path, network: nn.Module, which: Which = "average") -> Weights:
    """Read a network's weights out of a checkpoint, whatever lies around them.

    Args:
        path: ``.safetensors``, or a file of ``torch.save``; see :func:`~.reading.read_file`.
        network: the architecture, by whose names the weights are recognised.
        which: their moving average, where the file has one, or the raw ones.

    Raises:
        ConfigError: the file is missing or broken, holds code, no weights of this architecture, or no raw ones.
    """
    names = network.state_dict().keys()
    learned = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    return _find(path, names, names - learned, which)


def read_state_dict(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Read a network's state dict out of a checkpoint, as :func:`find_weights` does, by its names alone."""
    return dict(_find(path, list(names), (), "average").state)


def _find(path: Path, names: Collection[str], buffers: Iterable[str], which: Which) -> Weights:
    content = read_file(path)
    try:
        found = choose_weights(content, names, buffers, which)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if found is None:
        raise ConfigError(
            f"{path}: no state dict of this architecture in it; it has {listing(map(str, content))}, "
            f"the architecture has {listing(sorted(map(plain_name, names)))}"
        )
    return found


def load_weights(
    network: nn.Module, state_dict: Mapping[str, Tensor], complaint: str, hint: str = "", strict: bool = True
) -> None:
    """Load a state dict into a network.

    Raises:
        ConfigError: it does not fit. The message is the complaint, what does not fit, and the hint.
    """
    try:
        missing, unexpected = network.load_state_dict(state_dict, strict=False)
    except RuntimeError as error:
        wrong = listing((line.strip() for line in str(error).splitlines()[1:]), 2)
        raise ConfigError(f"{complaint}: {wrong}{hint}") from error
    if strict and (missing or unexpected):
        lacks = [f"it lacks {listing(missing)}"] if missing else []
        has = [f"it has {listing(unexpected)}, which the network does not"] if unexpected else []
        raise ConfigError(f"{complaint}: {' and '.join(lacks + has)}{hint}")


def check_writable(path: Path) -> None:
    """Check that weights can be written to ``path``, before there are any.

    Raises:
        ConfigError: the ending is another than those in :data:`ENDINGS`, or there is no such folder.
    """
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError(
            f"{path}: weights are written as {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}, this ends in "
            f"{path.suffix or 'none of them'}"
        )
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give a file in it")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent}: there is no such folder to write {path.name} into")


def write_state_dict(path: Path, state_dict: Mapping[str, Tensor]) -> None:
    """Write tensors to ``.safetensors``, or with ``torch.save`` to ``.pt`` or ``.pth``; atomically.

    Raises:
        ConfigError: the ending is another, or the folder does not exist.
        OSError: it cannot be written to, or the disk is full.
    """
    check_writable(path)
    # Tied weights are one tensor under several names, which safetensors refuses: each gets its own copy.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state_dict.items()
    }
    # By way of memory: on a full disk both libraries' writers raise what is no OSError, and safetensors' leaves a file
    # that nobody else may read.
    if path.suffix.lower() == ENDINGS[0]:
        write_atomic(path, safetensors.torch.save(tensors, metadata={"format": "pt"}))
    else:
        buffer = io.BytesIO()
        torch.save(tensors, buffer)
        write_atomic(path, buffer.getvalue())
