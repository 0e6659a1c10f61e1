"""Checkpoints of training codes: what is read out of them, what is passed over, and what is refused."""

from __future__ import annotations

import argparse
import collections
import datetime
import random
import re
import sys
import types
from pathlib import Path, PurePosixPath, PureWindowsPath, WindowsPath

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("safetensors", reason="safetensors is not installed (extra [lab])")

from convofconv.errors import ConfigError
from convofconv.lab.checkpoints import read_state_dict


def build() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 1)))


class Reduced:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


Step = collections.namedtuple("Step", "epoch")

#: What training codes keep beside the weights.
HARMLESS = {
    "arguments": argparse.Namespace(lr=0.1, out=Path("runs"), steps=[1, 2], nested=argparse.Namespace(seed=None)),
    "a namespace": types.SimpleNamespace(best=1.0),
    "paths": [Path("x"), PurePosixPath("x"), PureWindowsPath("C:/x"), Reduced(WindowsPath, "C:\\", "x")],
    "numbers": {"top1": np.float64(0.5), "seen": np.int64(3), "better": np.bool_(True)},
    "arrays": [np.arange(3.0), np.array(["a"]), np.array([None, {}], dtype=object), np.dtype("f4")],
    "random states": {
        "numpy": np.random.RandomState(0).get_state(),
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
    },
    "containers": [collections.defaultdict(list, {"loss": [0.5]}), collections.deque([1.0], 5), frozenset("a")],
    "counts": [collections.Counter("aab"), collections.OrderedDict(a=1), range(3), slice(2)],
    "times": [datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc), datetime.date(2024, 1, 2)],
    "types": [int, float, str, bool, torch.float16, torch.device("cpu"), complex(1, 2), b"bytes"],
}


@pytest.mark.parametrize("zipped", [True, False], ids=["", "legacy format"])
@pytest.mark.parametrize("kind", HARMLESS)
def test_what_training_codes_keep_beside_the_weights_is_passed_over(tmp_path, kind, zipped):
    expected = build().state_dict()
    content = {"args": HARMLESS[kind], "model": expected, "epoch": 3}
    torch.save(content, tmp_path / "last.pth", _use_new_zipfile_serialization=zipped)
    found = read_state_dict(tmp_path / "last.pth", expected)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("name", ["omegaconf.dictconfig.DictConfig", "mmengine.logging.history_buffer.HistoryBuffer"])
def test_configurations_and_logs_of_other_libraries_need_not_be_importable(tmp_path, monkeypatch, name):
    module, _, kind = name.rpartition(".")
    parents = [module[: dot.start()] for dot in re.finditer(r"\.|$", module)]
    one = type(kind, (), {"__module__": module})
    with monkeypatch.context() as here:
        for parent in parents:
            here.setitem(sys.modules, parent, types.ModuleType(parent))
        setattr(sys.modules[module], kind, one)
        value = one()
        value.content = {"lr": 0.1}
        torch.save({"config": value, "model": build().state_dict()}, tmp_path / "last.ckpt")
    assert list(read_state_dict(tmp_path / "last.ckpt", build().state_dict())) == list(build().state_dict())


def test_weights_in_a_container_of_another_kind_are_read(tmp_path):
    weights = collections.defaultdict(list, build().state_dict())
    torch.save({"model": weights}, tmp_path / "last.ckpt")
    assert list(read_state_dict(tmp_path / "last.ckpt", build().state_dict())) == list(weights)


@pytest.mark.parametrize("hidden", [False, True])
def test_no_function_of_a_file_is_called(tmp_path, capsys, hidden):
    value = Reduced(print, "called")
    torch.save({"args": argparse.Namespace(x=value) if hidden else value, **build().state_dict()}, tmp_path / "bad.pt")
    with pytest.raises(ConfigError, match=r"it holds builtins\.print.*can execute code"):
        read_state_dict(tmp_path / "bad.pt", build().state_dict())
    assert capsys.readouterr().out == ""


def test_what_is_passed_over_is_never_made(tmp_path):
    from convofconv.lab.reading import read_file

    torch.save({"args": argparse.Namespace(a=Path("x")), "at": Path("x")}, tmp_path / "last.pt")
    content = read_file(tmp_path / "last.pt")
    assert type(content["args"]) is type(content["at"])
    assert not vars(content["args"])


@pytest.mark.parametrize("zipped", [True, False], ids=["", "legacy format"])
def test_what_a_refused_file_holds_is_named(tmp_path, zipped):
    content = {"model": build(), "step": Step(3), "args": argparse.Namespace()}
    torch.save(content, tmp_path / "bad.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError) as caught:
        read_state_dict(tmp_path / "bad.pt", build().state_dict())
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'bad.pt'}: ")
    assert "torch.nn.modules.container.Sequential" in message
    assert "Namespace" not in message
    assert (f"{__name__}.Step" in message) == zipped  # of the older format torch names the first alone
    assert "save model.state_dict() alone" in message
