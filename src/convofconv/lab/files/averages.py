"""A network's weights in whatever a training code saved: their moving average where there is one, or the raw ones."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Literal

from torch import Tensor

from ...errors import ConfigError, listing

Which = Literal["average", "raw"]

#: Where training codes put a network's state dict; the first is the likeliest.
_PLACES = ("state_dict", "model", "model_state_dict", "module", "params", "network", "net", "weights")
#: Words in the name of a moving average, timm's ``state_dict_ema`` for example.
_AVERAGE = {"ema", "swa", "average", "averaged", "averaging", "shadow", "polyak"}
#: Words in the names of what has a tensor for each weight, but is none.
_NO_WEIGHTS = {"optimizer", "optimizers", "optim", "grad", "grads", "gradient", "gradients", "momentum", "fisher"}
#: Lightning's WeightAveraging and mmengine's EMAHook save the average as ``state_dict``: where the raw weights are
#: then, and by what else such a file is known.
_SWAPPED = {"current_model_state": "averaging_state", "ema_state_dict": "message_hub"}


@dataclasses.dataclass(frozen=True)
class Weights:
    """A network's state dict.

    Args:
        state: by the names of the network.
        note: which of several it is, and where it was; empty where there is one alone.
    """

    state: Mapping[str, Tensor]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """Tensors that may be a network's.

    Args:
        path: the keys that lead to them, then the parts of the prefix of their names.
        state: by name, without the prefix.
        hits: how many of the names are the network's.
        rank: how much the path speaks of an average.
    """

    path: tuple[str, ...]
    state: dict[str, Tensor]
    hits: int
    rank: int

    @property
    def label(self) -> str:
        """Where it is, for messages; of an average without what is always the same in its names."""
        ends = [place for place, part in enumerate(self.path, 1) if _speaks_of_average(part)]
        return ".".join(self.path[: max(ends, default=len(self.path))])


def choose_weights(
    content: Mapping[str, Any], names: Iterable[str], buffers: Iterable[str] = (), which: Which = "average"
) -> Weights | None:
    """Find a network's weights.

    An average of parameters alone is completed by the raw buffers, with which its trainer evaluates it.

    Args:
        content: of a checkpoint.
        names: of the network's state dict, plain or converted.
        buffers: those among the names that are of no parameters.
        which: the moving average, where there is one of this network, or the raw weights.

    Returns:
        ``None`` if nothing there has names of this network.

    Raises:
        ConfigError: ``which`` asks for raw weights, and there is an average alone.
    """
    wanted, fixed = set(map(plain_name, names)), set(map(plain_name, buffers))
    found = [candidate for candidate in _candidates(content, wanted) if candidate.hits]
    if not found:
        return None
    most = max(one.hits for one in found)
    found = [one for one in found if 3 * one.hits > most]  # others' names end like some of the network's by chance
    lowest = min(one.rank for one in found)
    raw = max((one for one in found if one.rank == lowest), key=lambda one: one.hits)
    own = {name: value for name, value in raw.state.items() if _of_network(name, wanted)}
    learned = {name: value for name, value in own.items() if _is_learned(name, value, fixed)}
    averages = [one for one in (*found, *_unnamed(content, learned)) if one.rank > lowest]
    own_ids = set(map(id, own.values()))  # a module of the network itself may be called so
    averages = [one for one in averages if not own_ids.issuperset(map(id, one.state.values()))]
    averages.sort(key=lambda one: -one.rank)
    if lowest and not averages:
        if which == "raw":
            raise ConfigError(f"it has a moving average alone ({raw.label}); leave out --weights raw")
        return Weights(raw.state, f"the moving average ({raw.label})")

    theirs = {id(value) for average in averages for value in average.state.values()}
    state = {name: value for name, value in raw.state.items() if name in own or id(value) not in theirs}
    note = "the raw weights" + (f" ({raw.label})" if raw.label else "")
    complaints = []
    for average in averages if which == "average" else ():
        if complaint := _complaint(average.state, raw.state, learned):
            complaints.append(f"the moving average ({average.label}) is of another network: {complaint}")
            continue
        lacking = [name for name in own if name not in average.state]
        rest = f", and from {note} the buffers that it lacks: {listing(lacking)}" if lacking else ""
        completed = {name: average.state.get(name, value) for name, value in state.items()}
        return Weights(completed, f"the moving average ({average.label}){rest}")
    because = f", because {'; '.join(complaints)}" if complaints else ""
    return Weights(state, f"{note}{because}" if averages else "")


def plain_name(name: str) -> str:
    """The name that an entry of a converted network's state dict has in the plain network, if it has one.

    Examples:
        >>> plain_name("conv1.parametrizations.weight.original")
        'conv1.weight'
    """
    return re.sub(r"parametrizations\.(\w+)\.original$", r"\1", name)


def _candidates(content: Mapping[str, Any], wanted: Collection[str]) -> Iterator[_Candidate]:
    swapped = any(place in content and sign in content for place, sign in _SWAPPED.items())
    for path, mapping in sorted(_mappings(content), key=lambda item: _likelihood(item[0])):
        tensors = {
            name: value for name, value in mapping.items() if isinstance(name, str) and isinstance(value, Tensor)
        }
        for prefix, hits in _prefixes(tensors, wanted).items():
            state = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
            parts = (*path, *prefix.split(".")[:-1])
            rank = int(path[:1] == ("state_dict",)) if swapped else sum(map(_speaks_of_average, parts))
            yield _Candidate(parts, state, hits, rank)


def _mappings(content: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """The mappings in a checkpoint that may hold weights, and the keys that lead to them."""
    for path, value in _nested(content):
        named = not path or path[-1] in (*_PLACES, *_SWAPPED) or any(map(_speaks_of_average, path))
        if isinstance(value, Mapping) and named:
            yield path, value


def _nested(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, value
    if isinstance(value, Mapping) and len(path) < 4:
        for key, below in value.items():
            if not _words(str(key)) & _NO_WEIGHTS:
                yield from _nested(below, (*path, str(key)))


def _likelihood(path: tuple[str, ...]) -> tuple[int, int]:
    return len(path), _PLACES.index(path[-1]) if path and path[-1] in _PLACES else len(_PLACES)


def _prefixes(names: Iterable[str], wanted: Collection[str]) -> dict[str, int]:
    """What comes before wanted names, and before how many, the shortest first.

    Some names end others, ``0.weight`` ends ``1.0.weight``: hence the number.
    """
    counts: Counter[str] = Counter()
    for name in map(plain_name, names):
        starts = (0, *(dot.end() for dot in re.finditer(r"\.", name)))
        counts.update(name[:start] for start in starts if name[start:] in wanted)
    return dict(sorted(counts.items(), key=lambda item: len(item[0])))


def _unnamed(content: Mapping[str, Any], learned: Iterable[str]) -> Iterator[_Candidate]:
    """Averages that are lists, in the order of the network's parameters (torch_ema's ``shadow_params``)."""
    names = list(learned)
    for path, value in _nested(content):
        rank = sum(map(_speaks_of_average, path))
        if rank and isinstance(value, list) and all(isinstance(one, Tensor) for one in value):
            if not any(one.ndim > 1 for one in value):  # a history of numbers
                continue
            more = (f"parameter {number}" for number in range(len(names), len(value)))
            yield _Candidate(path, dict(zip([*names, *more], value, strict=False)), 0, rank)


def _of_network(name: str, wanted: Collection[str]) -> bool:
    """Whether the network has such an entry, or a kernel map has it for one of the network's."""
    return name in wanted or re.sub(r"parametrizations\.(\w+)\..*$", r"\1", name) in wanted


def _is_learned(name: str, value: Tensor, buffers: Collection[str]) -> bool:
    # The settings of kernel maps are bytes, unless somebody averaged them.
    number = value.is_floating_point() or value.is_complex()
    return number and plain_name(name) not in buffers and not name.endswith("_extra_state")


def _complaint(average: Mapping[str, Tensor], raw: Mapping[str, Tensor], learned: Iterable[str]) -> str:
    """Why something cannot be the average of these weights, if it cannot."""
    if lacking := [name for name in learned if name not in average]:
        return f"it has no {listing(lacking)}"
    if strange := [name for name, value in average.items() if name not in raw and value.ndim]:
        return f"it also has {listing(strange)}"
    for name, value in average.items():
        if name in raw and value.shape != raw[name].shape:
            shapes = tuple(value.shape), tuple(raw[name].shape)
            return f"{name} has the shape {shapes[0]} in it, and {shapes[1]} in the raw weights"
    return ""


def _speaks_of_average(part: str) -> bool:
    return bool(_words(part) & _AVERAGE)


def _words(part: str) -> set[str]:
    """The words of a name, ``ModelEMA`` and ``model_ema`` for example."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", part)}
