"""coc summary, fold and verify of the folder of a run, which knows its network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("lightning", reason="needs the extra [lab]")

from safetensors.torch import load_file
from tiny_runs import CLASSIFY, DETECT, INSTANCES, SEGMENT, fit

import convofconv as coc
from convofconv.cli import entry as cli
from convofconv.lab.files.run_folder import RunFolder
from convofconv.lab.files.state_dicts import write_state_dict
from convofconv.lab.models.network import build_network
from convofconv.lab.recipe.comparing import plain_values
from convofconv.lab.recipe.schema import Recipe
from convofconv.lab.training import run as fit_module

pytestmark = pytest.mark.lab

SMALL = ["digits-resnet18", "--data.limit=96", "--model.options={'channels': [8, 8, 8, 8]}"]
KINDS = {"classification": SMALL, "segmentation": SEGMENT, "detection": DETECT, "instances": INSTANCES}


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def recipe_of(arguments, monkeypatch) -> Recipe:
    seen = []
    with monkeypatch.context() as here:
        here.setattr(fit_module, "run_fit", lambda recipe, *_: seen.append(recipe))
        assert cli.main(["fit", *arguments]) == 0
    return seen[0]


def leave_run(path: Path, recipe: Recipe) -> nn.Module:
    """Make the folder that a run of this recipe leaves, and give its network."""
    network = build_network(recipe, recipe.data.classes)
    with torch.no_grad():
        for module in network.modules():
            for kernel_map in coc.kernel_maps(module)[:1]:
                kernel_map.super_kernel.normal_(0, 0.1)
    folder = RunFolder(path)
    path.mkdir()
    folder.recipe.write_text(json.dumps(plain_values(recipe)))
    write_state_dict(folder.converted, network.state_dict())
    write_state_dict(folder.model, coc.reparameterize(network).state_dict())
    folder.results.write_text("{}")
    return network


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_of_a_run_stands_for_its_network(kind, tmp_path, capsys, monkeypatch):
    """Whatever its task: what timm and torchvision have no name of, heads and small stems, included."""
    run_folder, out = tmp_path / "run", tmp_path / "plain.safetensors"
    network = leave_run(run_folder, recipe_of([*KINDS[kind], "--method=coc+stnd"], monkeypatch))
    code, text, error = run(capsys, "fold", run_folder, "--out", out)
    assert code == 0, error
    convs = sum(bool(coc.kernel_maps(module)) for module in network.modules())
    assert text == (
        f"from {run_folder / 'converted.safetensors'}\n"
        f"{out}: {convs} convs folded; loads strictly into the network of {run_folder}\n"
    )
    plain, found = load_file(run_folder / "model.safetensors"), load_file(out)
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], value) for name, value in plain.items())
    code, text, error = run(capsys, "verify", run_folder)
    assert code == 0, error
    assert "within the tolerance" in text
    code, text, _ = run(capsys, "summary", run_folder)
    assert code == 0
    assert text.rstrip() == str(coc.summary(network))
    # Seen of detectors too, which find nothing in a random image.
    name = next(name for name, value in plain.items() if value.ndim == 4)
    write_state_dict(run_folder / "model.safetensors", {**plain, name: plain[name] + 0.1})
    code, _, error = run(capsys, "verify", run_folder)
    assert code == 1, "another network is not taken for the same"
    assert name.removesuffix(".weight") in error


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "digits"
    assert fit([*CLASSIFY, "--method=coc", "--training.epochs=2", "--training.ema=0.5"], path) == 0
    return path


def test_fold_gives_what_a_run_folded_itself(finished, tmp_path, capsys):
    """The best epoch's moving average; the raw weights and other checkpoints where they are asked for."""
    expected = load_file(finished / "model.safetensors")
    code, text, _ = run(capsys, "fold", finished, "--out", tmp_path / "best.safetensors")
    assert code == 0
    assert text.startswith(f"from {finished / 'best.ckpt'}: the moving average (state_dict.average)\n")
    found = load_file(tmp_path / "best.safetensors")
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert run(capsys, "fold", finished, "--weights", "raw", "--out", tmp_path / "raw.safetensors")[0] == 0
    raw = load_file(tmp_path / "raw.safetensors")
    assert not torch.equal(raw["conv_stem.weight"], expected["conv_stem.weight"])
    assert run(capsys, "fold", finished / "last.ckpt", "--out", tmp_path / "last.pt")[0] == 0
    assert torch.load(tmp_path / "last.pt", weights_only=True).keys() == expected.keys()


def test_verify_of_a_run(finished, tmp_path, capsys):
    assert run(capsys, "verify", finished)[0] == 0
    assert run(capsys, "verify", finished, finished)[0] == 0
    assert run(capsys, "verify", finished / "best.ckpt", finished / "model.safetensors")[0] == 0
    code, _, error = run(capsys, "verify", finished, "--weights", "raw")
    assert code == 1
    assert "conv_stem" in error
    assert run(capsys, "verify", finished, "--shape", 2, 1, 28, 28)[0] == 2


def test_a_run_is_read_where_its_data_is_not(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    values = json.loads((tmp_path / "run/recipe.json").read_text())
    values["data"] |= {"name": "cifar10", "root": "/nowhere"}
    (tmp_path / "run/recipe.json").write_text(json.dumps(values))
    assert run(capsys, "verify", tmp_path / "run")[0] == 0
    assert run(capsys, "summary", tmp_path / "run")[0] == 0


def test_an_unfinished_run(finished, tmp_path, capsys):
    """What there is already is folded, and the rest is named."""
    shutil.copytree(finished, tmp_path / "run")
    for name in ("model.safetensors", "converted.safetensors", "results.json"):
        (tmp_path / "run" / name).unlink()
    assert run(capsys, "fold", tmp_path / "run", "--out", tmp_path / "x.pt")[0] == 0
    code, _, error = run(capsys, "verify", tmp_path / "run")
    assert code == 2
    assert f"{tmp_path / 'run'}: there is no model.safetensors yet" in error
    assert "coc fit" in error
    assert run(capsys, "verify", tmp_path / "run", tmp_path / "x.pt")[0] == 0
    for name in ("best.ckpt", "last.ckpt"):
        (tmp_path / "run" / name).unlink()
    code, _, error = run(capsys, "fold", tmp_path / "run", "--out", tmp_path / "x.pt")
    assert code == 2
    assert "there is no best.ckpt" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["fold", "elsewhere.pt", "--out", "x.pt"],
            "--arch is missing: elsewhere.pt is neither the folder of a run nor",
        ),
        (["fold", "empty", "--out", "x.pt"], "empty: no run has begun in this folder, it has no recipe.json"),
        (["verify", "empty"], "empty: no run has begun in this folder, it has no recipe.json"),
        (["summary", "empty"], "empty: no run has begun in this folder, it has no recipe.json"),
        (["verify", "elsewhere.pt", "--arch", "timm/resnet18"], "FOLDED is missing"),
        (["fold", "RUN", "--out", "x.pt", "--options.num_classes", "3"], "--options"),
        (["summary", "RUN", "--method", "stnd"], "--method"),
        (["summary", "RUN", "--config", "released", "--where", "*"], "--preset, --where"),
        (["summary", "RUN", "--options.num_classes", "3"], "--options"),
        (["fold", "runs/typo", "--out", "x.pt"], "nor a file in one, in fact there is no such file"),
        (["summary", "runs/typo"], "runs/typo: there is no such folder; ARCH is that of a run"),
        (["summary", "resnet18"], "got 'resnet18'; did you mean timm/resnet18, torchvision/resnet18?"),
    ],
)
def test_mistakes(arguments, message, finished, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("elsewhere.pt").touch()
    code, out, error = run(capsys, *(str(finished) if argument == "RUN" else argument for argument in arguments))
    assert (code, out) == (2, "")
    assert message in error
    assert error.count("\n") == 1


def test_a_run_s_checkpoint_with_another_architecture(finished, tmp_path, capsys):
    """--arch counts where it is given."""
    arch = ["--arch", "timm/mobilenetv3_small_050", "--options.num_classes", "10"]
    assert run(capsys, "fold", finished, *arch, "--out", tmp_path / "x.pt")[0] == 0
    code, _, error = run(capsys, "fold", finished, "--arch", "timm/resnet18", "--out", tmp_path / "x.pt")
    assert code == 2
    assert f"{finished / 'best.ckpt'}: does not fit timm/resnet18: " in error
