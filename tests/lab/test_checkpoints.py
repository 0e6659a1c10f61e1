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

from convofconv import convert
from convofconv.errors import ConfigError
from convofconv.lab.files.state_dicts import Weights, find_weights, load_weights, read_state_dict


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
    from convofconv.lab.files.safe_reading import read_file

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


RAW, AVERAGE, OTHER = 0.0, 1.0, 2.0


def filled(network: nn.Module, value: float, prefix: str = "", only: str = "") -> dict[str, torch.Tensor]:
    """A network's state dict full of one number; ``only`` its parameters if asked for."""
    chosen = dict(network.named_parameters()) if only == "parameters" else network.state_dict()
    return {
        prefix + name: torch.full_like(tensor, value) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in chosen.items()
    }


def several(network: nn.Module, **values: float) -> dict[str, torch.Tensor]:
    """Copies of a network in one state dict, by prefix."""
    return {k: v for prefix, value in values.items() for k, v in filled(network, value, f"{prefix}.").items()}


#: How trainers keep a moving average beside the raw weights, and what a user is to read of it.
AVERAGES = {
    "timm": lambda net: {"state_dict": filled(net, RAW), "state_dict_ema": filled(net, AVERAGE)},
    "torchvision": lambda net: {
        "model": filled(net, RAW),
        "model_ema": {"n_averaged": torch.tensor(3), **filled(net, AVERAGE, "module.")},
    },
    "a LightningModule": lambda net: {
        "state_dict": {
            **filled(net, RAW, "network."),
            "average.n_averaged": torch.tensor(3),
            **filled(net, AVERAGE, "average.module."),
        }
    },
    "a callback": lambda net: {
        "state_dict": filled(net, RAW, "model."),
        "callbacks": {"EMACallback": {"ema_state_dict": filled(net, AVERAGE, "model.")}},
    },
    "BasicSR": lambda net: {"params": filled(net, RAW), "params_ema": filled(net, AVERAGE)},
    "the average first": lambda net: {"model_ema": filled(net, AVERAGE), "model": filled(net, RAW)},
    "ema_pytorch": lambda net: {"step": torch.tensor(3), **several(net, online_model=RAW, ema_model=AVERAGE)},
    "ema_pytorch beside": lambda net: {
        "model": filled(net, RAW),
        "ema": {"step": torch.tensor(3), **several(net, online_model=OTHER, ema_model=AVERAGE)},
    },
    "side by side": lambda net: {**filled(net, RAW), **filled(net, AVERAGE, "ema.")},
    "RT-DETR": lambda net: {"ema": {"module": filled(net, AVERAGE), "updates": 3}, "model": filled(net, RAW)},
    "averaged_model": lambda net: {"model_state_dict": filled(net, RAW), "averaged_model": filled(net, AVERAGE)},
    "swaModel": lambda net: {"model": filled(net, RAW), "swaModel": filled(net, AVERAGE, "module.")},
    "ModelEMA": lambda net: {"module": filled(net, RAW), "ModelEMA": filled(net, AVERAGE)},
    "Lightning": lambda net: {  # which swaps them
        "state_dict": filled(net, AVERAGE, "network."),
        "current_model_state": filled(net, RAW, "network."),
        "averaging_state": {"n_averaged": torch.tensor(3)},
    },
    "mmengine": lambda net: {  # which swaps them too
        "message_hub": {"log_scalars": {}},
        "state_dict": filled(net, AVERAGE),
        "ema_state_dict": {"steps": torch.tensor(3), **filled(net, RAW, "module.")},
    },
}


def load(path: Path, network: nn.Module, content: dict[str, object], which: str = "average") -> Weights:
    """Save, find, and load strictly."""
    torch.save(content, path)
    found = find_weights(path, network, which)
    network.load_state_dict(found.state)
    return found


@pytest.mark.parametrize("kind", AVERAGES)
@pytest.mark.parametrize("converted", [False, True])
def test_where_a_file_has_a_moving_average_it_is_taken(tmp_path, kind, converted):
    network = convert(build()) if converted else build()
    content = AVERAGES[kind](network)
    for which, value in (("average", AVERAGE), ("raw", RAW)):
        torch.save(content, tmp_path / "last.pt")
        found = find_weights(tmp_path / "last.pt", build(), which)
        assert found.state.keys() == network.state_dict().keys()
        assert all((tensor == value).all() for tensor in found.state.values() if tensor.is_floating_point())
        assert found.note.startswith("the moving average (" if which == "average" else "the raw weights")


@pytest.mark.parametrize(
    ("kind", "average", "raw"),
    [
        ("timm", "state_dict_ema", "state_dict"),
        ("torchvision", "model_ema", "model"),
        ("a LightningModule", "state_dict.average", "state_dict.network"),
        ("ema_pytorch", "ema_model", "online_model"),
        ("ema_pytorch beside", "ema.ema_model", "model"),
        ("Lightning", "state_dict.network", "current_model_state.network"),
    ],
)
def test_what_was_taken_is_named(tmp_path, kind, average, raw):
    torch.save(AVERAGES[kind](build()), tmp_path / "last.pt")
    assert find_weights(tmp_path / "last.pt", build()).note == f"the moving average ({average})"
    assert find_weights(tmp_path / "last.pt", build(), "raw").note == f"the raw weights ({raw})"


def test_averages_of_the_libraries_themselves(tmp_path):
    """Their own objects, not what this file takes them for."""
    timm_utils = pytest.importorskip("timm.utils", reason="timm is not installed (extra [lab])")
    network = convert(build())
    for average in (
        torch.optim.swa_utils.AveragedModel(network),
        torch.optim.swa_utils.AveragedModel(network, use_buffers=True),
        timm_utils.ModelEmaV3(network, decay=0.5),
    ):
        update = average.update if isinstance(average, timm_utils.ModelEmaV3) else average.update_parameters
        update(network)
        with torch.no_grad():
            for parameter in average.module.parameters():
                parameter.fill_(AVERAGE)
        torch.save({"model": network.state_dict(), "model_ema": average.state_dict()}, tmp_path / "last.pt")
        found = find_weights(tmp_path / "last.pt", build())
        assert found.note == "the moving average (model_ema)"
        assert found.state.keys() == network.state_dict().keys()
        assert all((found.state[name] == AVERAGE).all() for name, _ in network.named_parameters())


@pytest.mark.parametrize("converted", [False, True])
@pytest.mark.parametrize("kind", ["by name", "by position"])
def test_an_average_of_parameters_alone_is_completed_by_the_raw_buffers(tmp_path, converted, kind):
    """As its trainer evaluates it: it puts the average into the network, whose buffers stay as they are."""
    network = convert(build()) if converted else build()
    named = filled(network, AVERAGE, only="parameters")
    ema = {"by name": {"shadow": named}, "by position": {"shadow_params": list(named.values()), "decay": 0.9}}[kind]
    torch.save({"model": filled(network, RAW), "ema": ema}, tmp_path / "last.pt")
    found = find_weights(tmp_path / "last.pt", build())
    assert found.state.keys() == network.state_dict().keys()
    for name, tensor in found.state.items():
        if tensor.is_floating_point():
            assert (tensor == (AVERAGE if name in named else RAW)).all(), name
    label = {"by name": "ema.shadow", "by position": "ema.shadow_params"}[kind]
    assert found.note.startswith(f"the moving average ({label}), and from the raw weights (model) the buffers")
    assert "1.running_mean" in found.note


def wider() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Sequential(nn.Conv2d(8, 8, 1)))


def deeper() -> nn.Module:
    return nn.Sequential(*build(), nn.Conv2d(4, 4, 1))


def shallower() -> nn.Module:
    return build()[:2]


@pytest.mark.parametrize("teacher", [wider, deeper, shallower])
@pytest.mark.parametrize("beside", [True, False])
def test_the_average_of_another_network_does_not_win(tmp_path, teacher, beside):
    content = {"model": filled(build(), RAW), "teacher_ema": filled(teacher(), AVERAGE)}
    if not beside:
        content = {"model": {**filled(build(), RAW, "student."), **filled(teacher(), AVERAGE, "teacher_ema.")}}
    found = load(tmp_path / "last.pt", build(), content)
    assert all((tensor == RAW).all() for tensor in found.state.values())
    assert "the raw weights (model" in found.note
    assert "because the moving average (" in found.note
    assert "teacher_ema) is of another network" in found.note


def test_averages_of_anything_else_do_not_win(tmp_path):
    """Of gradients, say, which have the names and shapes of weights."""
    other = filled(build(), AVERAGE)
    content = {"grad_ema": other, "optimizer": {"ema": other, "exp_avg": other}, "losses": {"ema": torch.ones(())}}
    found = load(tmp_path / "last.pt", build(), {**content, "model": filled(build(), RAW)})
    assert all((tensor == RAW).all() for tensor in found.state.values())
    assert found.note == ""


def test_a_network_with_a_module_called_ema_is_read_as_it_is(tmp_path):
    """Efficient multi-scale attention, for example."""
    from collections import OrderedDict

    network = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(3, 3, 1), ema=nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 3, 1))))
    )
    found = load(tmp_path / "last.pt", network, {"model": filled(network, RAW)})
    assert found.note == ""
    found = load(tmp_path / "last.pt", network, AVERAGES["timm"](network))
    assert found.note == "the moving average (state_dict_ema)"


def test_a_file_with_an_average_alone(tmp_path):
    found = load(tmp_path / "last.pt", build(), {"state_dict_ema": filled(build(), AVERAGE, "module.")})
    assert found.note == "the moving average (state_dict_ema)"
    with pytest.raises(ConfigError, match=r"it has a moving average alone \(state_dict_ema\); leave out --weights raw"):
        find_weights(tmp_path / "last.pt", build(), "raw")


def test_an_average_without_its_kernel_maps_is_not_taken_for_the_converted_network_s(tmp_path):
    """It was made before the conversion, and has stood still since."""
    content = {"model": filled(convert(build()), RAW), "model_ema": filled(build(), AVERAGE)}
    torch.save(content, tmp_path / "last.pt")
    found = find_weights(tmp_path / "last.pt", build())
    assert (found.state["0.parametrizations.weight.original"] == RAW).all()
    assert "(model_ema) is of another network" in found.note


def test_what_does_not_fit_is_five_names_and_a_count():
    """Of another architecture's checkpoint there are hundreds."""
    network = nn.Sequential(*(nn.Linear(2, 2) for _ in range(8)))
    state = {f"layer{place}.weight": torch.zeros(2, 2) for place in range(7)}
    lacks = r"it lacks 0\.weight, 0\.bias, 1\.weight, 1\.bias, 2\.weight, \.\.\. \(11 more\)"
    has = r"it has layer0\.weight, .*layer4\.weight, \.\.\. \(2 more\), which the network does not"
    with pytest.raises(ConfigError, match=f"^no: {lacks} and {has}; try that$"):
        load_weights(network, state, "no", "; try that")
    state = {name: torch.zeros(3) for name in network.state_dict()}
    with pytest.raises(ConfigError, match=r"^no: size mismatch for 0\.weight: .*size mismatch.* \(14 more\)$"):
        load_weights(network, state, "no")
