"""Read checkpoint files without executing code: tensors and plain values, and nothing of what else lies beside them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ...errors import ConfigError, listing


class _Passed:
    """Stands where a file has a value that nobody here asks for, and keeps nothing of it."""

    def __new__(cls, *args: object) -> _Passed:
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# Functions, because torch's reader fills dicts and lists alone.
def _dict(*args: object) -> dict[Any, Any]:
    return {}


def _list(*args: object) -> list[Any]:
    return []


#: What training codes keep beside weights, by module: arguments, paths, metrics, states of random generators, times,
#: configurations, logs. A pickle calls what it names. It gets a stand-in here: nothing of these modules is called, nor
#: imported for it, so they can do no harm whatever a file asks of them. The list is short because what is in a stand-in
#: is lost: it has no class that may hold weights.
_PASSED: dict[str, str] = {
    "argparse": "Namespace",
    "types": "SimpleNamespace",
    "pathlib": "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
    "pathlib._local": "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",  # Python 3.13
    "datetime": "date datetime time timedelta timezone",
    "builtins": "bool bytes dict float frozenset int list object range slice str tuple",  # types, and containers
    "numpy": "dtype ndarray",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",  # NumPy 2
    "omegaconf.base": "ContainerMetadata Metadata",
    "omegaconf.dictconfig": "DictConfig",
    "omegaconf.listconfig": "ListConfig",
    "omegaconf.nodes": "AnyNode BooleanNode BytesNode EnumNode FloatNode IntegerNode PathNode StringNode",
    "typing": "Any",  # in OmegaConf's
    "mmengine.logging.history_buffer": "HistoryBuffer",
}
#: Containers that may hold weights, as the plain ones of torch's reader.
_CONTAINERS: dict[str, Callable[..., Any]] = {"collections.defaultdict": _dict, "collections.deque": _list}


def read_file(path: Path) -> dict[str, Any]:
    """Read what a checkpoint holds.

    Args:
        path: ``.safetensors``, or a file of ``torch.save`` with tensors, plain values, and what :data:`_PASSED` lists.

    Raises:
        ConfigError: the file is missing or broken, holds anything else, or no keys and values.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    try:
        if path.suffix.lower() == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        with torch.serialization.safe_globals(list(_stand_ins())):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{path}: beside tensors and plain values it holds {listing(_refused(path, error))}; such files can "
            "execute code, so it is not loaded. If you trust it, load it with torch.load(..., weights_only=False) and "
            "save model.state_dict() alone"
        ) from error
    except Exception as error:  # a broken file makes the readers stumble over anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{path}: cannot be read as a checkpoint ({reason})") from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: holds a {type(content).__name__}, not a state dict")
    return dict(content)


def _stand_ins() -> Iterator[tuple[Callable[..., Any], str]]:
    """Pairs of what is called in place of a name, and the name."""
    for module, names in _PASSED.items():
        yield from ((_Passed, f"{module}.{name}") for name in names.split())
    yield from ((function, name) for name, function in _CONTAINERS.items())


def _refused(path: Path, error: pickle.UnpicklingError) -> list[str]:
    """The names in a file that stopped its reading."""
    try:
        with torch.serialization.safe_globals(list(_stand_ins())):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # of the older format, or broken besides: the one that the reader came to
        return re.findall(r"GLOBAL ([\w.]+)", str(error)) or ["something else"]
