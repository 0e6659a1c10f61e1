"""State dicts as files: found in what training codes write, and written without ever leaving half a file."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ..errors import ConfigError, listing
from .files import write_atomic
from .reading import read_file

#: Where training codes put the network's state dict inside a checkpoint.
_PLACES = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema", "module")
#: What comes before the names of the moving average in checkpoints of the lab, which evaluates it where there is one.
_AVERAGE = "average.module."


def read_state_dict(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Read a network's state dict out of a checkpoint, whatever lies around it.

    Args:
        path: ``.safetensors``, or a file of ``torch.save`` with nothing but tensors and plain values.
        names: the parameter names of the architecture, by which the state dict is recognised.

    Raises:
        ConfigError: the file is missing or broken, holds code, or no state dict of this architecture.
    """
    content = read_file(path)
    wanted = set(map(_plain, names))
    candidates = [content, *(content[place] for place in _PLACES if isinstance(content.get(place), Mapping))]
    best: dict[str, Tensor] = {}
    found = 0
    for candidate in candidates:
        tensors = {key: value for key, value in candidate.items() if isinstance(value, Tensor)}
        prefix, hits = _prefix(tensors, wanted)
        if hits > found:
            best = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
            found = hits
    if not found:
        raise ConfigError(
            f"{path}: no state dict of this architecture in it; it has {listing(map(str, content))}, "
            f"the architecture has {listing(sorted(wanted))}"
        )
    return best


def load_weights(
    network: nn.Module, state_dict: Mapping[str, Tensor], complaint: str, hint: str = "", strict: bool = True
) -> None:
    """Load a state dict into a network.

    Raises:
        ConfigError: it does not fit. The message is the complaint, the first that torch has to say, and the hint.
    """
    try:
        network.load_state_dict(state_dict, strict=strict)
    except RuntimeError as error:
        lines = " ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise ConfigError(f"{complaint}: {lines}{hint}") from error


def write_state_dict(path: Path, state_dict: Mapping[str, Tensor]) -> None:
    """Write tensors to ``.safetensors`` or, by any other name, with ``torch.save``; atomically.

    Raises:
        ConfigError: the folder does not exist.
        OSError: it cannot be written to, or the disk is full.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent}: there is no such folder to write {path.name} into")
    # Tied weights are one tensor under several names, which safetensors refuses: each gets its own copy.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state_dict.items()
    }
    # By way of memory: on a full disk both libraries' writers raise what is no OSError, and safetensors' leaves a file
    # that nobody else may read.
    if path.suffix == ".safetensors":
        write_atomic(path, safetensors.torch.save(tensors, metadata={"format": "pt"}))
    else:
        buffer = io.BytesIO()
        torch.save(tensors, buffer)
        write_atomic(path, buffer.getvalue())


def _prefix(keys: Iterable[str], wanted: Container[str]) -> tuple[str, int]:
    """What comes before the most of the wanted names, and before how many; of several the average's, or the shortest.

    Some names end others, ``0.weight`` ends ``1.0.weight``: hence the most.
    """
    counts: Counter[str] = Counter({"": 0})
    for key in map(_plain, keys):
        starts = (0, *(dot.end() for dot in re.finditer(r"\.", key)))
        counts.update(key[:start] for start in starts if key[start:] in wanted)
    return max(counts.items(), key=lambda item: (item[1], item[0] == _AVERAGE, -len(item[0])))


def _plain(key: str) -> str:
    return re.sub(r"parametrizations\.(\w+)\.original$", r"\1", key)
