"""coc summary, fold and verify: what they print and write, their exit codes, and the mistakes of their users."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import convofconv as coc
from convofconv.cli import entry as cli

pytest.importorskip("jsonargparse", reason="jsonargparse is not installed (extra [lab])")
timm = pytest.importorskip("timm", reason="timm is not installed (extra [lab])")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed (extra [lab])")

ARCH = "timm/mobilenetv3_small_050"
OPTIONS = ["--options.num_classes", "5"]


def build() -> nn.Module:
    return timm.create_model("mobilenetv3_small_050", num_classes=5)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = coc.convert(build(), "coc+stnd")
    with torch.no_grad():
        for module in model.modules():
            for kernel_map in coc.kernel_maps(module)[:1]:
                kernel_map.super_kernel.normal_(0, 0.1)
    torch.save(model.state_dict(), tmp_path / "trained.pt")
    return tmp_path / "trained.pt"


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def test_summary_prints_the_table(capsys):
    code, out, _ = run(capsys, "summary", "timm/resnet18", "--method", "coc+stnd", "--where", "layer4.*")
    assert code == 0
    assert out.rstrip().endswith("none after reparameterize()")
    assert "layer4.0.conv1" in out
    assert "SpatialAssociation + Standardization" in out
    assert out.startswith("conv ")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_fold_writes_what_loads_strictly_into_the_plain_architecture(trained, tmp_path, capsys, suffix):
    out = tmp_path / f"plain{suffix}"
    code, text, _ = run(capsys, "fold", trained, "--arch", ARCH, "--out", out, *OPTIONS)
    assert code == 0
    wide = sum(isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1) for m in build().modules())
    assert f"{wide} convs folded; loads strictly into {ARCH}" in text
    state = safetensors.load_file(out) if suffix == ".safetensors" else torch.load(out, weights_only=True)
    plain = build()
    plain.load_state_dict(state, strict=True)
    model = coc.convert_like(build(), torch.load(trained, weights_only=True))
    model.load_state_dict(torch.load(trained, weights_only=True))
    assert coc.verify(model, plain, torch.randn(2, 3, 32, 32)) <= 1e-5
    assert not list(tmp_path.glob(".*")), "no partial file is left"


def test_verify_agrees_and_disagrees(trained, tmp_path, capsys):
    out = tmp_path / "plain.safetensors"
    run(capsys, "fold", trained, "--arch", ARCH, "--out", out, *OPTIONS)
    shape = ["--shape", "2", "3", "32", "32"]
    code, text, _ = run(capsys, "verify", trained, out, "--arch", ARCH, *OPTIONS, *shape)
    assert code == 0
    assert "within the tolerance of 1e-05" in text
    state = safetensors.load_file(out)
    state["blocks.1.0.conv_pw.weight"] += 0.1
    safetensors.save_file(state, out)
    code, _, error = run(capsys, "verify", trained, out, "--arch", ARCH, *OPTIONS, *shape)
    assert code == 1
    assert "the first layer that differs is blocks.1.0.conv_pw" in error


@pytest.mark.parametrize(
    ("place", "prefix"),
    [
        ("state_dict", "model."),
        ("model", "module."),
        ("model_state_dict", "_orig_mod."),
        ("state_dict_ema", "module._orig_mod."),
        ("state_dict", "network."),
        (None, ""),
    ],
)
def test_checkpoints_of_common_training_codes_are_found(trained, tmp_path, capsys, place, prefix):
    state = {prefix + key: value for key, value in torch.load(trained, weights_only=True).items()}
    if prefix:
        state["loss_sum"] = torch.zeros(())  # of the training, not of the network
    torch.save({"epoch": 3, place: state, "optimizer": {"lr": 0.1}} if place else state, tmp_path / "last.ckpt")
    code, _, error = run(capsys, "fold", tmp_path / "last.ckpt", "--arch", ARCH, "--out", tmp_path / "x.pt", *OPTIONS)
    assert code == 0, error


def test_fold_takes_the_moving_average_and_says_so(trained, tmp_path, capsys):
    """A checkpoint as timm's script writes it; verify reads the same weights of it."""
    raw = torch.load(trained, weights_only=True)
    average = {name: value + 0.01 if value.is_floating_point() else value for name, value in raw.items()}
    content = {"state_dict": raw, "state_dict_ema": average, "args": argparse.Namespace(lr=0.1), "epoch": 3}
    torch.save(content, tmp_path / "last.pth.tar")
    arch, shape = ["--arch", ARCH, *OPTIONS], ["--shape", 2, 3, 32, 32]
    expected = {}
    for name, state in (("average", average), ("raw", raw)):
        torch.save(state, tmp_path / "alone.pt")
        assert run(capsys, "fold", tmp_path / "alone.pt", *arch, "--out", tmp_path / f"{name}.pt")[0] == 0
        expected[name] = torch.load(tmp_path / f"{name}.pt", weights_only=True)
    for option, name, note in (
        ([], "average", "the moving average (state_dict_ema)"),
        (["--weights", "raw"], "raw", "the raw weights (state_dict)"),
    ):
        out = tmp_path / "out.pt"
        code, text, _ = run(capsys, "fold", tmp_path / "last.pth.tar", *arch, "--out", out, *option)
        assert code == 0
        assert f"from {tmp_path / 'last.pth.tar'}: {note}\n" in text
        found = torch.load(out, weights_only=True)
        assert all(torch.equal(found[key], value) for key, value in expected[name].items())
        code, text, _ = run(capsys, "verify", tmp_path / "last.pth.tar", out, *arch, *shape, *option)
        assert code == 0
        assert note in text
    assert run(capsys, "verify", tmp_path / "last.pth.tar", tmp_path / "average.pt", *arch, *shape, *option)[0] == 1
    code, _, error = run(capsys, "fold", tmp_path / "last.pth.tar", *arch, "--out", out, "--weights", "ema")
    assert code == 2
    assert "'average', 'raw'" in error


@pytest.mark.parametrize("others", [["network."], ["average.module.", "network."], ["network.", "average.module."], []])
def test_of_a_network_and_its_moving_average_the_average_is_read(tmp_path, others):
    """As the lab evaluates it; what bears the names as they are goes before all."""
    from convofconv.lab.files.state_dicts import read_state_dict

    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 1)))  # 0.weight ends 1.0.weight too
    chosen = "average.module." if "average.module." in others else (others or [""])[0]
    state = {
        prefix + key: torch.full_like(value, float(prefix == chosen))
        for prefix in (others or ["", "copy."])
        for key, value in network.state_dict().items()
    }
    torch.save(state, tmp_path / "last.ckpt")
    found = read_state_dict(tmp_path / "last.ckpt", network.state_dict())
    network.load_state_dict({key: found[key] for key in network.state_dict()})
    assert all((value == 1).all() for value in network.state_dict().values())


def importable(folder, monkeypatch, **modules):
    """Modules of a user's own, by name."""
    monkeypatch.syspath_prepend(folder)
    for name, code in modules.items():
        (folder / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_summary_builds_networks_that_read_the_values_of_tensors(tmp_path, capsys, monkeypatch):
    """As those with stochastic depth do, whose shares are a linspace."""
    importable(
        tmp_path,
        monkeypatch,
        depths="import torch\nfrom torch import nn\n"
        "def net():\n    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout(torch.linspace(0, 0.5, 2)[1].item()))\n",
    )
    code, out, _ = run(capsys, "summary", "depths:net")
    assert code == 0
    assert "SpatialAssociation" in out


def test_a_network_of_coc_layers_is_told_folded_and_verified(tmp_path, capsys, monkeypatch):
    importable(
        tmp_path,
        monkeypatch,
        layers="from torch import nn\nfrom convofconv import CoC2d, Config\n"
        "def net():\n    return nn.Sequential(CoC2d(3, 8, 3, bias=False, config=Config(init='kaiming')))\n",
        mixed="from torch import nn\nfrom convofconv import CoC2d\n"
        "def net():\n    return nn.Sequential(CoC2d(3, 8, 3), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))\n",
    )
    code, out, _ = run(capsys, "summary", "layers:net")
    assert code == 0
    assert "SpatialAssociation" in out
    assert "Standardization" in run(capsys, "summary", "mixed:net", "--method", "stnd")[1]
    trained = importlib.import_module("layers").net()
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "last.ckpt")
    arch = ["--arch", "layers:net"]
    assert run(capsys, "fold", tmp_path / "last.ckpt", *arch, "--out", tmp_path / "plain.pt")[0] == 0
    folded = torch.load(tmp_path / "plain.pt", weights_only=True)
    assert list(folded) == ["0.weight"]
    assert torch.equal(folded["0.weight"], trained[0].weight)
    shape = ["--shape", 2, 3, 8, 8]
    assert run(capsys, "verify", tmp_path / "last.ckpt", tmp_path / "plain.pt", *arch, *shape)[0] == 0


def test_a_detector_with_a_module_of_ones_own(tmp_path, capsys, monkeypatch):
    code = "from torch import nn\ndef net(width=4):\n    return nn.Sequential(nn.Conv2d(3, width, 3))\n"
    importable(tmp_path, monkeypatch, mine=code)
    code, out, _ = run(capsys, "summary", "mine:net", "--options", '{"width": 8}')
    assert code == 0
    assert "Conv2d 3→8, 3×3" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["summary", "resnet18"], "an architecture is timm/NAME, torchvision/NAME or module:function; got 'resnet18'"),
        (["summary", "timm/resnet1"], "timm has no model 'resnet1'; did you mean"),
        (["summary", "torchvision/resnet51"], "torchvision has no model 'resnet51'; did you mean"),
        (["summary", "nowhere:net"], "nowhere:net cannot be imported: No module named 'nowhere'"),
        (["summary", "torch:__version__"], "torch:__version__ is a TorchVersion, not a function"),
        (["summary", "builtins:dict"], "gives a dict, not a torch.nn.Module"),
        (["summary", "timm/resnet18", "--options.colour", "red"], "cannot be built with {'colour': 'red'}"),
        (["summary", "timm/resnet18", "--method", "cic"], "no method is called 'cic'"),
        (["summary", "timm/resnet18", "--config", "best"], "no preset is called 'best'"),
        (["summary", "timm/resnet18", "--where", "stage*"], "no conv matches 'stage*'"),
        (["fold", "nowhere.pt", "--arch", ARCH, "--out", "x.pt"], "nowhere.pt: there is no such file"),
        (["fold", "nowhere.pt", "--out", "x.pt"], "arch"),
        (["fold", "x", "--arch", ARCH], "out"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, capsys):
    code, out, error = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (["0", "3", "32", "32"], "--shape needs sides of at least 1, got 0 3 32 32"),
        (["2", "1", "32", "32"], f"--shape 2 1 32 32 does not fit {ARCH}: "),
        (["32", "32"], f"--shape 32 32 does not fit {ARCH}: "),
    ],
)
def test_an_input_that_does_not_fit_is_told(trained, tmp_path, capsys, shape, message):
    assert run(capsys, "fold", str(trained), "--arch", ARCH, *OPTIONS, "--out", str(tmp_path / "x.pt"))[0] == 0
    code, out, error = run(
        capsys, "verify", str(trained), str(tmp_path / "x.pt"), "--arch", ARCH, *OPTIONS, "--shape", *shape
    )
    assert (code, out) == (2, "")
    assert message in error
    assert error.count("\n") == 1


def broken(path: Path, kind: str) -> str:
    """Make a bad checkpoint and return what the message must say."""
    if kind == "truncated":
        torch.save(build().state_dict(), path)
        path.write_bytes(path.read_bytes()[:1000])
        return "cannot be read as a checkpoint"
    if kind == "text":
        path.write_text("hello")
        return "cannot be read as a checkpoint"
    if kind == "code":
        torch.save({"model": nn.ReLU()}, path)
        return "such files can execute code"
    if kind == "list":
        torch.save([torch.zeros(1)], path)
        return "holds a list, not a state dict"
    if kind == "another network":
        torch.save(nn.Linear(2, 2).state_dict(), path)
        return "no state dict of this architecture in it; it has weight, bias"
    if kind == "another size":
        torch.save(coc.convert(timm.create_model("mobilenetv3_small_050", num_classes=7)).state_dict(), path)
        return "size mismatch for classifier.weight"
    torch.save(build().state_dict(), path)
    return "this is a plain network already"


@pytest.mark.parametrize("kind", ["truncated", "text", "code", "list", "another network", "another size", "plain"])
def test_bad_checkpoints_are_named(kind, tmp_path, capsys):
    path = tmp_path / "bad.pt"
    message = broken(path, kind)
    code, _, error = run(capsys, "fold", path, "--arch", ARCH, "--out", tmp_path / "x.pt", *OPTIONS)
    assert code == 2
    assert str(path) in error
    assert message in error
    assert not (tmp_path / "x.pt").exists()


def test_a_folder_that_is_not_there(trained, tmp_path, capsys):
    code, _, error = run(capsys, "fold", trained, "--arch", ARCH, "--out", tmp_path / "no" / "x.pt", *OPTIONS)
    assert code == 2
    assert f"{tmp_path / 'no'}: there is no such folder" in error


@pytest.mark.parametrize(
    "name", ["model.onnx", "model.bin", "model.ckpt", "model.pt2", "model.safetensor", "model", "x.pt.gz"]
)
def test_what_cannot_be_written_is_refused_before_the_checkpoint_is_read(tmp_path, capsys, name):
    code, _, error = run(capsys, "fold", tmp_path / "nowhere.pt", "--arch", ARCH, "--out", tmp_path / name)
    assert code == 2
    assert f"{tmp_path / name}: weights are written as .safetensors, .pt or .pth" in error
    assert "nowhere" not in error


def test_where_nothing_can_be_written_is_said_before_the_checkpoint_is_read(tmp_path, capsys):
    (tmp_path / "folder.pt").mkdir()
    for out, message in (("no/x.pt", "there is no such folder"), ("folder.pt", "is a folder")):
        code, _, error = run(capsys, "fold", tmp_path / "nowhere.pt", "--arch", ARCH, "--out", tmp_path / out)
        assert code == 2
        assert message in error
        assert "nowhere" not in error


def test_a_checkpoint_is_not_written_over(trained, tmp_path, capsys):
    before = trained.read_bytes()
    (tmp_path / "sub").mkdir()
    out = tmp_path / "sub" / ".." / trained.name
    code, _, error = run(capsys, "fold", trained, "--arch", ARCH, *OPTIONS, "--out", out)
    assert code == 2
    assert "is the checkpoint itself" in error
    assert trained.read_bytes() == before


def test_endings_may_be_written_large(tmp_path):
    from convofconv.lab.files.state_dicts import read_state_dict, write_state_dict

    state = nn.Linear(2, 2).state_dict()
    for name in ("MODEL.SAFETENSORS", "model.PTH"):
        write_state_dict(tmp_path / name, state)
        assert read_state_dict(tmp_path / name, state).keys() == state.keys()
    assert safetensors.load_file(tmp_path / "MODEL.SAFETENSORS").keys() == state.keys()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(trained, tmp_path, capsys):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    code, _, error = run(capsys, "fold", trained, "--arch", ARCH, "--out", closed / "x.pt", *OPTIONS)
    assert code == 2
    assert "closed" in error
